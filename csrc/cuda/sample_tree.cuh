// SPDX-License-Identifier: Apache-2.0
//
// Exact sampling by the tree, for at most kTreeItems items: walk down from the root and split each
// node's count between its children. The law of a split does not depend on the tilt.
//
// Node i of level l has 2^l leaves and 2^l + 1 coefficients. The width is a power of two; items
// that are not there are never chosen. In the heap that the random numbers are counted by, the root
// is 1 and the children of h are 2h and 2h + 1.
#pragma once

#include "core/philox.h"
#include "cuda/row.cuh"

namespace dg {
namespace cuda {

constexpr int kTreeItems = 64;             // a part of the canonical algorithm
constexpr float kTreeSamplingTilt = 0.3f;  // it only keeps the laws from underflow

// The uniform number of a position, by a choice among registers.
DG_DEVICE double uniform_at(const PhiloxStream& stream, uint32_t position) {
  const PhiloxBlock block = philox_block(stream, position / 4);
  const uint32_t low = position % 2 == 0 ? block.word[0] : block.word[1];
  const uint32_t high = position % 2 == 0 ? block.word[2] : block.word[3];
  return uniform_from_bits(position % 4 < 2 ? low : high);
}

DG_INLINE constexpr int levels_of(int items) {
  int levels = 0;
  while ((1 << levels) < items) ++levels;
  return levels;
}

// The memory of one tree, in shared memory.
template <class T, int kItems>
struct TreeStore {
  static constexpr int kLevels = levels_of(kItems);
  T values[(kLevels + 1) * kItems + 2 * kItems - 1];
  uint8_t counts[2 * kItems];  // by heap number
};

template <class T, int kThreads>
class TreeSampler {
 public:
  // Of an ordinary row of `items` logits that chooses `target`.
  template <int kItems>
  DG_DEVICE TreeSampler(Team<kThreads>& team, TreeStore<T, kItems>& store, const T* row, int items,
                        const BasicRowSummary<T>& summary, int target)
      : team_(team),
        values_(store.values),
        counts_(store.counts),
        items_(items),
        levels_(levels_of(items)),
        target_(target) {
    const T tolerance = T(kTreeSamplingTilt);
    const T s = find_tilt_of_row(team_, row, items, summary, target, tolerance).s;
    for (int i = team_.rank(); i < width(); i += kThreads) {
      const Item<T> item = unpack_item(signed_tail(i < items ? row[i] + s : -T(INFINITY)));
      values_[2 * i] = item.p;
      values_[2 * i + 1] = item.q;
    }
    for (int level = 1; level <= levels_; ++level) multiply_level(level);
    team_.sync();
  }

  // One subset, as bits by item. The stream has the purpose kTreeSplit.
  DG_DEVICE uint64_t draw(const PhiloxStream& stream) {
    if (team_.rank() == 0) counts_[1] = static_cast<uint8_t>(target_);
    for (int level = levels_; level >= 1; --level) {
      team_.sync();
      const int nodes = width() >> level;
      for (int node = team_.rank(); node < nodes; node += kThreads) split(level, node, stream);
    }
    team_.sync();
    uint64_t chosen = 0;
    for (int i = team_.rank(); i < items_; i += kThreads) {
      chosen |= static_cast<uint64_t>(counts_[width() + i]) << i;
    }
    return team_.reduce(chosen, Unite());
  }

 private:
  struct Unite {
    DG_DEVICE uint64_t operator()(uint64_t a, uint64_t b) const { return a | b; }
  };

  DG_DEVICE int width() const { return 1 << levels_; }
  // Where a level's coefficients begin.
  DG_DEVICE int offset(int level) const { return (level + 2) * width() - (2 * width() >> level); }

  // Coefficients above the target are not asked for.
  DG_DEVICE void multiply_level(int level) {
    team_.sync();
    const int half = 1 << (level - 1), stride = 2 * half + 1;
    const T* below = values_ + offset(level - 1);
    T* here = values_ + offset(level);
    for (int index = team_.rank(); index < (width() >> level) * stride; index += kThreads) {
      const int node = index / stride, j = index - node * stride;
      if (j > target_) continue;
      const T* left = below + 2 * node * (half + 1);
      const T* right = left + half + 1;
      T sum = T(0);
      for (int a = j > half ? j - half : 0; a <= (j < half ? j : half); ++a) {
        sum += left[a] * right[j - a];
      }
      here[index] = sum;
    }
  }

  // The left child gets the smallest a whose cumulative weight exceeds v times the node's.
  DG_DEVICE void split(int level, int node, const PhiloxStream& stream) {
    const int half = 1 << (level - 1), heap = (width() >> level) + node;
    const int count = counts_[heap];
    int below_right = items_ - (2 * node + 1) * half;
    below_right = below_right < half ? below_right : half;
    int given = count;
    if (below_right > 0 && count > 0) {
      const T* left = values_ + offset(level - 1) + 2 * node * (half + 1);
      const T* right = left + half + 1;
      const T whole = values_[offset(level) + node * (2 * half + 1) + count];
      const T threshold = static_cast<T>(uniform_at(stream, static_cast<uint32_t>(heap))) * whole;
      T cumulative = T(0);
      int below = 0, last = 0;
      for (int a = 0; a <= (count < half ? count : half); ++a) {
        const T term = count - a <= half ? left[a] * right[count - a] : T(0);
        cumulative += term;
        below += cumulative <= threshold ? 1 : 0;
        if (term > T(0)) last = a;
      }
      // Rounding may leave the whole sum at or below the threshold: take the last possible split.
      given = below < last ? below : last;
      if (given < count - below_right) given = count - below_right;
    }
    counts_[2 * heap] = static_cast<uint8_t>(given);
    counts_[2 * heap + 1] = static_cast<uint8_t>(count - given);
  }

  Team<kThreads>& team_;
  T* values_;
  uint8_t* counts_;
  int items_, levels_, target_;
};

}  // namespace cuda
}  // namespace dg
