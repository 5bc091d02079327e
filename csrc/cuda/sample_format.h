// SPDX-License-Identifier: Apache-2.0
//
// How k-hot samples are written in the dtype of the logits.
#pragma once

#include <ATen/Dispatch.h>

#include <limits>

#include "cuda/launchers.h"
#include "tensors.h"

namespace dg {
namespace cuda {

// 1 for a chosen item, NaN in an invalid row.
inline SampleFormat sample_format(at::ScalarType dtype) {
  SampleFormat format{};
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dtype, "sample_format", [&] {
    format = {static_cast<int>(sizeof(scalar_t)), bits_of(scalar_t(1)),
              bits_of(std::numeric_limits<scalar_t>::quiet_NaN())};
  });
  return format;
}

}  // namespace cuda
}  // namespace dg
