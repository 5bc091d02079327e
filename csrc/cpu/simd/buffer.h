// SPDX-License-Identifier: Apache-2.0
//
// Scratch memory for the SIMD kernels. Standard containers stay out of files that are compiled for
// one SIMD level: their out-of-line members would be shared by the linker across levels.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

#include "cpu/simd/vec.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace dg {
inline namespace CPU_CAPABILITY {

template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t size) : size_(size), data_(allocate(size)) {}
  ~Buffer() { std::free(data_); }

  // Room for `size` values; what it held is lost.
  void reserve(int64_t size) {
    if (size <= size_) return;
    std::free(data_);
    data_ = nullptr;  // should the allocation throw
    data_ = allocate(size);
    size_ = size;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* get() { return data_; }
  const T* get() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

 private:
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kHugePage = size_t{1} << 21;

  static T* allocate(int64_t size) {
    const size_t bytes = static_cast<size_t>(size > 0 ? size : 1) * sizeof(T);
    const size_t alignment = bytes < kHugePage ? kAlignment : kHugePage;
    const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    T* data = static_cast<T*>(std::aligned_alloc(alignment, rounded));
    if (data == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    // Only a hint: one fault for each page of a long row takes longer than the work on it.
    if (bytes >= kHugePage) madvise(data, rounded, MADV_HUGEPAGE);
#endif
    return data;
  }

  int64_t size_;
  T* data_;
};

}  // namespace CPU_CAPABILITY
}  // namespace dg
