// SPDX-License-Identifier: Apache-2.0
//
// A team of threads that serves one row: 1 to 32 lanes of a warp (several teams a warp), or a whole
// block; a power of two. Its members call the same functions in the same order.
//
// kMarch: the teams of a warp go through the kernel together, so that all its lanes take part in
// every collective of each of them. Without, each team goes its own way, which costs instructions:
// a collective is cheap where the compiler knows that the warp has not diverged. For the same
// reason a loop or a branch around collectives asks any(), whose value it knows to be the warp's.
//
// Reductions are trees of fixed shape, without atomics: the result does not vary from run to run,
// and where combine(a, b) and combine(b, a) are the same bits, every member gets the same bits.
#pragma once

#include <cstring>
#include <type_traits>

#include "cuda/math.cuh"

namespace dg {
namespace cuda {

constexpr unsigned kWarpThreads = 32;

// The value of the lane whose number differs by `flip`, for any type of a multiple of 4 bytes.
template <class V>
DG_DEVICE V shuffle_xor(unsigned mask, const V& value, int flip) {
  static_assert(sizeof(V) % sizeof(uint32_t) == 0, "values are exchanged in words");
  static_assert(std::is_trivially_copyable<V>::value, "values are exchanged as bits");
  constexpr int kWords = sizeof(V) / sizeof(uint32_t);
  uint32_t word[kWords];
  memcpy(word, &value, sizeof(V));
#pragma unroll
  for (int i = 0; i < kWords; ++i) word[i] = __shfl_xor_sync(mask, word[i], flip);
  V other;
  memcpy(static_cast<void*>(&other), word, sizeof(V));
  return other;
}

template <int kTeamThreads, bool kMarch = false>
class Team {
 public:
  static constexpr int kThreads = kTeamThreads;
  static_assert((kThreads & (kThreads - 1)) == 0 && kThreads <= 1024, "a power of two");
  static constexpr bool kIsBlock = kThreads > static_cast<int>(kWarpThreads);

  // Number of this member.
  DG_DEVICE int rank() const { return static_cast<int>(threadIdx.x) & (kThreads - 1); }
  // Number of this team in its block.
  DG_DEVICE int index() const { return static_cast<int>(threadIdx.x) / kThreads; }

  // What members wrote to memory before, all see after.
  DG_DEVICE void sync() const {
    if constexpr (kIsBlock) {
      __syncthreads();
    } else {
      __syncwarp(mask());
    }
  }

  // Whether `value` is true for any team of those that march together; the same for all members of
  // a team.
  DG_DEVICE bool any(bool value) const { return __any_sync(mask(), value) != 0; }

  // combine over the values of all members, which all of them get.
  template <class V, class Combine>
  DG_DEVICE V reduce(V value, Combine combine) {
    constexpr int kLanes = kIsBlock ? static_cast<int>(kWarpThreads) : kThreads;
#pragma unroll
    for (int flip = kLanes / 2; flip > 0; flip /= 2) {
      value = combine(value, shuffle_xor(mask(), value, flip));
    }
    if constexpr (kIsBlock) {
      // Two buffers in turn: a warp that writes one has passed the barrier after which all warps
      // have read it, two reductions ago.
      constexpr int kWarps = kThreads / static_cast<int>(kWarpThreads);
      __shared__ Bytes<V> partial[2][kWarps];
      const int lane = static_cast<int>(threadIdx.x) % static_cast<int>(kWarpThreads);
      Bytes<V>* const buffer = partial[turn_];
      turn_ ^= 1;
      if (lane == 0) memcpy(&buffer[threadIdx.x / kWarpThreads], &value, sizeof(V));
      __syncthreads();
      memcpy(static_cast<void*>(&value), &buffer[lane % kWarps], sizeof(V));
#pragma unroll
      for (int flip = kWarps / 2; flip > 0; flip /= 2) {
        value = combine(value, shuffle_xor(mask(), value, flip));
      }
    }
    return value;
  }

  // The sum over the members of lower rank; `total`: over all of them.
  template <class V>
  DG_DEVICE V sum_before(V value, V* total) {
    constexpr int kLanes = kIsBlock ? static_cast<int>(kWarpThreads) : kThreads;
    const int lane = static_cast<int>(threadIdx.x) & (kLanes - 1);
    V sum = value;
#pragma unroll
    for (int by = 1; by < kLanes; by *= 2) {
      const V lower = __shfl_up_sync(mask(), sum, by, kLanes);
      if (lane >= by) sum += lower;
    }
    *total = __shfl_sync(mask(), sum, kLanes - 1, kLanes);
    V before = sum - value;
    if constexpr (kIsBlock) {
      constexpr int kWarps = kThreads / static_cast<int>(kWarpThreads);
      __shared__ V of_warp[kWarps];
      __syncthreads();  // all have read what an earlier call left
      const int warp = static_cast<int>(threadIdx.x / kWarpThreads);
      if (lane == 0) of_warp[warp] = *total;
      __syncthreads();
      *total = V(0);
      for (int w = 0; w < kWarps; ++w) {
        if (w < warp) before += of_warp[w];
        *total += of_warp[w];
      }
    }
    return before;
  }

 private:
  // Shared memory has no constructors.
  template <class V>
  struct alignas(alignof(V)) Bytes {
    unsigned char bytes[sizeof(V)];
  };

  // The lanes that take part in a collective.
  DG_DEVICE unsigned mask() const {
    if constexpr (kMarch || kThreads >= static_cast<int>(kWarpThreads)) {
      return 0xFFFFFFFFu;
    } else {
      const unsigned lane = threadIdx.x % kWarpThreads;
      return ((1u << kThreads) - 1u) << (lane & ~static_cast<unsigned>(kThreads - 1));
    }
  }

  int turn_ = 0;
};

// Several numbers that are summed together.
template <class T, int kCount>
struct Sums {
  T of[kCount];
};

// Rounded: fused with a product, the sum would be one of a member's own exact number and another's
// rounded one, so that members that must go the same way might not.
struct Add {
  template <class T>
  DG_DEVICE T operator()(const T& a, const T& b) const {
    return rounded_sum(a, b);
  }
  template <class T, int kCount>
  DG_DEVICE Sums<T, kCount> operator()(const Sums<T, kCount>& a, const Sums<T, kCount>& b) const {
    Sums<T, kCount> sum;
#pragma unroll
    for (int i = 0; i < kCount; ++i) sum.of[i] = rounded_sum(a.of[i], b.of[i]);
    return sum;
  }
};

}  // namespace cuda
}  // namespace dg
