// SPDX-License-Identifier: Apache-2.0
//
// The k largest of a row that no block holds in its registers: radix selection, whose passes make
// the keys again from the seed, so that it needs no memory but a histogram in shared memory.
#pragma once

#include "cuda/selection.cuh"

namespace dg {
namespace cuda {

constexpr int kLongThreads = 512;
constexpr int kDigitBits = 11;
constexpr int kDigits = 1 << kDigitBits;

struct DigitStore {
  unsigned count[kDigits];
  unsigned digit, rest, equal;
};

// The `wanted`-th largest key, and how many keys equal to it are wanted of how many there are.
template <class Key>
struct RadixResult {
  Key key;
  unsigned wanted, equal;
};

// The wanted-th largest of at least so many keys; visit(body) calls body(key) for each key of this
// member.
template <class Key, class Visit>
DG_DEVICE RadixResult<Key> radix_select(Team<kLongThreads>& team, DigitStore& store,
                                        unsigned wanted, Visit&& visit) {
  constexpr int kOwn = kDigits / kLongThreads;
  RadixResult<Key> found = {0, wanted, 0};
  Key known = 0;  // the bits of the key that are found
  for (int shift = kKeyBits<Key>; shift > 0;) {
    const int width = shift < kDigitBits ? shift : kDigitBits;
    shift -= width;
    for (int d = team.rank(); d < kDigits; d += kLongThreads) store.count[d] = 0;
    team.sync();
    const Key mask = (Key(1) << width) - 1;
    visit([&](Key key) {
      if ((key & known) == found.key) atomicAdd(&store.count[key >> shift & mask], 1u);
    });
    team.sync();
    // The member of highest rank has the lowest digits.
    const int first = kDigits - kOwn * (team.rank() + 1);
    unsigned own = 0, total = 0;
#pragma unroll
    for (int d = 0; d < kOwn; ++d) own += store.count[first + d];
    unsigned above = team.sum_before(own, &total);
    if (above < found.wanted && found.wanted <= above + own) {
      int d = kOwn - 1;
      while (above + store.count[first + d] < found.wanted) above += store.count[first + d--];
      store.digit = static_cast<unsigned>(first + d);
      store.rest = found.wanted - above;
      store.equal = store.count[first + d];
    }
    team.sync();
    found.key |= static_cast<Key>(store.digit) << shift;
    found.wanted = store.rest;
    found.equal = store.equal;
    known |= mask << shift;
    team.sync();
  }
  return found;
}

// A chosen subset: items of a key above `key`, or equal to it and of an index up to `last`.
template <class Key>
struct LongSubset {
  Key key;
  uint32_t last;

  DG_DEVICE bool holds(Key of_item, int64_t i) const {
    return of_item > key || (of_item == key && i <= static_cast<int64_t>(last));
  }
};

// The k largest, 0 <= k <= the number of items; visit(body) calls body(i, key) for this member's
// items.
template <class Key, class Visit>
DG_DEVICE LongSubset<Key> choose_largest_of_long(Team<kLongThreads>& team, DigitStore& store,
                                                 int64_t k, Visit&& visit) {
  if (k == 0) return {~Key(0), 0};
  const auto keys = [&](auto&& body) { visit([&](int64_t, Key key) { body(key); }); };
  const RadixResult<Key> found = radix_select<Key>(team, store, static_cast<unsigned>(k), keys);
  if (found.wanted == found.equal) return {found.key, ~uint32_t(0)};
  // Of the equal ones, those of lowest index.
  const auto places = [&](auto&& body) {
    visit([&](int64_t i, Key key) {
      if (key == found.key) body(~static_cast<uint32_t>(i));
    });
  };
  return {found.key, ~radix_select<uint32_t>(team, store, found.wanted, places).key};
}

}  // namespace cuda
}  // namespace dg
