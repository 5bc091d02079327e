// SPDX-License-Identifier: Apache-2.0
//
// What an op needs of the device to start kernels there, without a CUDA header and without linking
// PyTorch's CUDA libraries: the current stream, scratch memory, and errors that name the op.
#pragma once

#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <initializer_list>

#include "cuda/launchers.h"
#include "tensors.h"

namespace dg {
namespace cuda {

// For the length of a call of `op` on the device of `tensor`.
class Device {
 public:
  Device(const char* op, const at::Tensor& tensor)
      : op_(op), guard_(tensor.device()), bytes_(tensor.options().dtype(at::kByte)) {
#if !defined(DG_CUDA_EMULATION)
    const c10::impl::VirtualGuardImpl guard(tensor.device().type());
    stream_ = guard.getStream(tensor.device()).native_handle();
#endif
  }

  void* stream() const { return stream_; }

  // From PyTorch's allocator, which orders reuse along the stream.
  void* scratch(size_t bytes) {
    if (bytes == 0) return nullptr;
    scratch_ = at::empty({static_cast<int64_t>(bytes)}, bytes_);
    return scratch_.mutable_data_ptr();
  }

  void check(int error) const {
    TORCH_CHECK(error == 0, op_, ": the CUDA kernels could not be started: ", error_text(error),
                " (error ", error, ")");
  }

 private:
  const char* op_;
  c10::DeviceGuard guard_;
  at::TensorOptions bytes_;
  at::Tensor scratch_;
  void* stream_ = nullptr;
};

inline void check_same_device(const at::Tensor& logits,
                              std::initializer_list<const std::optional<at::Tensor>> others) {
  for (const auto& other : others) {
    TORCH_CHECK_VALUE(!other.has_value() || !other->defined() || other->device() == logits.device(),
                      "all tensors must be on the device of the logits, ", logits.device(),
                      ", got one on ", other->device());
  }
}

// Owns what the raw pointers of Rows point to.
template <class T>
struct Problem {
  at::Tensor logits;
  at::Tensor row_k;
  Rows<T> rows;

  Problem(const at::Tensor& from, int64_t k, const std::optional<at::Tensor>& from_row_k)
      : logits(as_rows(from, c10::CppTypeToScalarType<T>::value)) {
    const int64_t* row_counts = nullptr;
    if (from_row_k.has_value()) {
      row_k = from_row_k->contiguous();
      row_counts = row_k.const_data_ptr<int64_t>();
    }
    rows = {logits.const_data_ptr<T>(), row_counts, k, row_total(logits), logits.size(-1)};
  }
};

}  // namespace cuda
}  // namespace dg
