// SPDX-License-Identifier: Apache-2.0
//
// Tensors that subsets are written to.
#pragma once

#include <limits>

#include "cpu/rows.h"

namespace dg {

// k-hot rows; NaN in an invalid row.
template <class T>
SubsetOutput hot_output(at::Tensor& result) {
  return {SubsetOutput::Form::kHot, result.mutable_data_ptr(), static_cast<int>(sizeof(T)),
          bits_of(T(1)), bits_of(std::numeric_limits<T>::quiet_NaN())};
}

// Rows of int64 indices; -1 in an invalid row.
inline SubsetOutput index_output(at::Tensor& result) {
  return {SubsetOutput::Form::kIndices, result.mutable_data_ptr(), 8, 0, 0};
}

}  // namespace dg
