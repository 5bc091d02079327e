// SPDX-License-Identifier: Apache-2.0
//
// One level of the trees of some rows, from the level below it (values) or above it (adjoints). A
// thread takes every `step`-th number from `begin` on: of a block's own rows in shared memory, or
// of all rows in global memory.
#pragma once

#include "cuda/tree_algebra.cuh"
#include "cuda/tree_shape.h"

namespace dg {
namespace cuda {

// The trees of `rows` rows, `size` numbers apart.
template <class Number, class Index>
struct Trees {
  Number* values;
  Number* adjoints;  // null on the way up
  Index size;
  Index rows;
};

// Number `j` of node `node` in the tree of row `row`.
template <class Index>
struct Place {
  Index row, node, j;
};

template <class Index>
DG_INLINE Place<Index> place_of(Index index, const TreeLevel<Index>& level) {
  const Index numbers = level.nodes * level.stride;
  const Index row = index / numbers;
  const Index rest = index - row * numbers;
  const Index node = rest / level.stride;
  return {row, node, rest - node * level.stride};
}

template <class Algebra, class Index>
DG_INLINE void climb_level(const Trees<typename Algebra::Number, Index>& trees,
                           const TreeLevel<Index>& below, const TreeLevel<Index>& here, Index begin,
                           Index step) {
  const Index end = trees.rows * here.nodes * here.stride;
  for (Index index = begin; index < end; index += step) {
    const Place<Index> at = place_of(index, here);
    auto* tree = trees.values + at.row * trees.size;
    const auto* left = tree + below.offset + 2 * at.node * below.stride;
    auto* to = tree + here.offset + at.node * here.stride + at.j;
    if (2 * at.node + 1 < below.nodes) {
      *to = Algebra::product(left, left + below.stride, below.stride, at.j);
    } else {
      *to = at.j < below.stride ? left[at.j] : Algebra::zero();
    }
  }
}

template <class Algebra, class Index>
DG_INLINE void descend_level(const Trees<typename Algebra::Number, Index>& trees,
                             const TreeLevel<Index>& above, const TreeLevel<Index>& here,
                             Index begin, Index step) {
  const Index end = trees.rows * here.nodes * here.stride;
  for (Index index = begin; index < end; index += step) {
    const Place<Index> at = place_of(index, here);
    const Index first = at.row * trees.size;
    const Index node = first + here.offset + at.node * here.stride;
    const Index sibling = first + here.offset + (at.node ^ 1) * here.stride;
    const Index parent = first + above.offset + (at.node / 2) * above.stride + at.j;
    const bool alone = (at.node ^ 1) >= here.nodes;
    const Index terms = above.stride - at.j < here.stride ? above.stride - at.j : here.stride;
    trees.adjoints[node + at.j] =
        Algebra::adjoint(trees.values[node + at.j], alone ? nullptr : trees.values + sibling,
                         trees.values + parent, trees.adjoints + parent, alone ? Index(1) : terms);
  }
}

}  // namespace cuda
}  // namespace dg
