// SPDX-License-Identifier: Apache-2.0
//
// The two lowest levels of the linear tree: a block of four items, in registers. They are half of
// the tree's numbers and three quarters of its nodes; kept in memory, they and their adjoints would
// leave the nearest cache at some 50 items.
#pragma once

#include "cpu/simd/linear_algebra.h"

namespace dg {
inline namespace CPU_CAPABILITY {

constexpr int kBlockItems = 4;

// The law of one item: its probabilities not to be counted and to be counted.
template <class Number>
struct Leaf {
  Number uncounted, counted;
};

// Of two neighbours.
template <class Number>
DG_INLINE void multiply_pair(const Leaf<Number>* leaf, Number* law) {
  const Leaf<Number> a = leaf[0], b = leaf[1];
  law[0] = a.uncounted * b.uncounted;
  law[1] = add_product(a.uncounted * b.counted, a.counted, b.uncounted);
  law[2] = a.counted * b.counted;
}

// law[j], j = 0 .. 4, of the number of counted items of a block.
template <class Number>
DG_INLINE void multiply_block(const Leaf<Number>* leaf, Number* law) {
  Number left[3], right[3];
  multiply_pair(leaf, left);
  multiply_pair(leaf + 2, right);
  multiply_fixed<2, 4>(left, right, law);
}

template <class Number>
DG_INLINE void pull_back_pair(const Leaf<Number>* leaf, const Number* adjoint,
                              Leaf<Number>* adjoint_of) {
  for (int h = 0; h < 2; ++h) {
    const Leaf<Number> other = leaf[1 - h];
    adjoint_of[h].uncounted = add_product(adjoint[0] * other.uncounted, adjoint[1], other.counted);
    adjoint_of[h].counted = add_product(adjoint[1] * other.uncounted, adjoint[2], other.counted);
  }
}

// The adjoints of its items from those of the law of a block.
template <class Number>
DG_INLINE void pull_back_block(const Leaf<Number>* leaf, const Number* adjoint,
                               Leaf<Number>* adjoint_of) {
  Number left[3], right[3], adjoint_left[3], adjoint_right[3];
  multiply_pair(leaf, left);
  multiply_pair(leaf + 2, right);
  correlate_fixed<2, 4>(adjoint, right, adjoint_left);
  correlate_fixed<2, 4>(adjoint, left, adjoint_right);
  pull_back_pair(leaf, adjoint_left, adjoint_of);
  pull_back_pair(leaf + 2, adjoint_right, adjoint_of + 2);
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
