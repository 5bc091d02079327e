// SPDX-License-Identifier: Apache-2.0
//
// The k largest of a row of perturbed logits; equal ones, which -0 and +0 are, by lowest index.
//
// Selections compare keys: unsigned integers in the order of the numbers, 0 where there is no item.
#pragma once

#include "cuda/math.cuh"
#include "cuda/team.cuh"

namespace dg {
namespace cuda {

template <class T>
struct KeyType;
template <>
struct KeyType<float> {
  using Key = uint32_t;
};
template <>
struct KeyType<double> {
  using Key = uint64_t;
};
template <class T>
using KeyOf = typename KeyType<T>::Key;

template <class Key>
constexpr int kKeyBits = 8 * static_cast<int>(sizeof(Key));

DG_DEVICE uint32_t key_bits(float x) { return static_cast<uint32_t>(__float_as_int(x)); }
DG_DEVICE uint64_t key_bits(double x) { return static_cast<uint64_t>(__double_as_longlong(x)); }

template <class T>
DG_DEVICE KeyOf<T> key_of(T x) {
  using Key = KeyOf<T>;
  const Key bits = x == T(0) ? Key(0) : key_bits(x);
  constexpr Key kSign = Key(1) << (kKeyBits<Key> - 1);
  return (bits & kSign) != 0 ? ~bits : bits | kSign;
}

// The value by which an item is chosen: an infinite logit settles it.
template <class T>
DG_DEVICE T settled_value(T theta, T moved) {
  return theta == T(INFINITY) || theta == -T(INFINITY) ? theta : moved;
}

// What makes a row invalid, counted.
template <class Count>
struct RowTally {
  Sums<Count, 3> sums = {};

  // x: the value by which an item of logit theta is chosen.
  template <class T>
  DG_DEVICE void add(T theta, T x) {
    const bool is_forced = theta == T(INFINITY), is_excluded = theta == -T(INFINITY);
    sums.of[0] += !is_forced && !is_excluded && !is_finite(x);
    sums.of[1] += is_forced;
    sums.of[2] += is_excluded;
  }
  DG_DEVICE bool has_subset(int64_t n, int64_t k) const {
    return sums.of[0] == 0 && k >= 0 && k <= n && k >= sums.of[1] && k <= n - sums.of[2];
  }
};

// The k-th largest of the keys of a team, 1 <= k <= how many of them are not 0, in `kBits` bits.
// Two bits at a time, from the highest.
template <int kBits, int kItems, class Key, class TeamType>
DG_DEVICE Key kth_largest(TeamType& team, const Key (&keys)[kItems], int k) {
  static_assert(kBits % 2 == 0, "two bits at a time");
  Key found = 0;
  for (int shift = kBits - 2; shift >= 0; shift -= 2) {
    Sums<int, 3> reached = {};
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
#pragma unroll
      for (int digit = 0; digit < 3; ++digit) {
        reached.of[digit] += keys[j] >= (found | static_cast<Key>(digit + 1) << shift);
      }
    }
    reached = team.reduce(reached, Add());
    const int digit = (reached.of[0] >= k) + (reached.of[1] >= k) + (reached.of[2] >= k);
    found |= static_cast<Key>(digit) << shift;
  }
  return found;
}

// Where item j of a member is in the row: members take blocks of four items in turn.
template <int kThreads>
DG_DEVICE int item_of_member(int rank, int j) {
  return 4 * (rank + kThreads * (j / 4)) + j % 4;
}

// Which of this member's items are among the k largest of the team, as bits; 0 <= k <= how many
// keys are not 0.
template <int kItems, class Key, class TeamType>
DG_DEVICE uint32_t choose_largest(TeamType& team, const Key (&keys)[kItems], int k) {
  static_assert(kItems <= 32, "a bit for each item");
  if (k == 0) return 0;
  const Key threshold = kth_largest<kKeyBits<Key>>(team, keys, k);
  uint32_t above = 0, equal = 0;
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    above |= static_cast<uint32_t>(keys[j] > threshold) << j;
    equal |= static_cast<uint32_t>(keys[j] == threshold) << j;
  }
  const Sums<int, 2> counts = team.reduce(Sums<int, 2>{{__popc(above), __popc(equal)}}, Add());
  const int wanted = k - counts.of[0];
  if (counts.of[1] == wanted) return above | equal;
  // Of the equal ones, those of lowest index.
  constexpr int kRoom = TeamType::kThreads * kItems;
  constexpr int kPlaceBits = 16;
  static_assert(kRoom < 1 << kPlaceBits, "places are found in 16 bits");
  uint32_t places[kItems];
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int i = item_of_member<TeamType::kThreads>(team.rank(), j);
    places[j] = (equal >> j & 1) != 0 ? static_cast<uint32_t>(kRoom - i) : 0;
  }
  const uint32_t last = kth_largest<kPlaceBits>(team, places, wanted);
#pragma unroll
  for (int j = 0; j < kItems; ++j) above |= static_cast<uint32_t>(places[j] >= last) << j;
  return above;
}

}  // namespace cuda
}  // namespace dg
