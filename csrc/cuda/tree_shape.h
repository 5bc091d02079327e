// SPDX-License-Identifier: Apache-2.0
//
// How a balanced tree over the items of a row lies in memory.
//
// Node h of level l holds the law of the number of counted items among items h 2^l to
// (h + 1) 2^l - 1, cut off at degree `most`: min(2^l, most) + 1 numbers. A level has ceil(n / 2^l)
// nodes; the last may lack a sibling, whose place the constant 1 takes. The levels of a row follow
// each other in memory, leaves first.
#pragma once

#include <cstdint>

#include "core/platform.h"

namespace dg {
namespace cuda {

template <class Index>
struct TreeLevel {
  Index offset;  // of the level within the row's tree
  Index nodes;
  Index stride;  // numbers of a node
};

struct TreeShape {
  int64_t n;
  int64_t most;  // the largest degree kept, at least 1
  int64_t size;  // numbers of one row
  int top;       // the level of the root, at least 1
};

template <class Index>
DG_INLINE TreeLevel<Index> leaf_level(const TreeShape& shape) {
  return {0, static_cast<Index>(shape.n), 2};
}

// The parents of `below`, which is level `level - 1`.
template <class Index>
DG_INLINE TreeLevel<Index> next_level(const TreeShape& shape, TreeLevel<Index> below, int level) {
  const int64_t width = int64_t{1} << level;
  const int64_t degree = width < shape.most ? width : shape.most;
  return {static_cast<Index>(below.offset + below.nodes * below.stride),
          static_cast<Index>((below.nodes + 1) / 2), static_cast<Index>(degree + 1)};
}

template <class Index>
DG_INLINE TreeLevel<Index> level_at(const TreeShape& shape, int level) {
  TreeLevel<Index> at = leaf_level<Index>(shape);
  for (int l = 1; l <= level; ++l) at = next_level(shape, at, l);
  return at;
}

// The tree over n >= 1 items that keeps degrees up to `most`. `with_root`: whether the root is
// stored, or only what lies below it.
inline TreeShape tree_shape(int64_t n, int64_t most, bool with_root) {
  TreeShape shape{n, most < n ? most : n, 0, 1};
  if (shape.most < 1) shape.most = 1;
  while ((int64_t{1} << shape.top) < n) ++shape.top;
  const auto end = level_at<int64_t>(shape, with_root ? shape.top : shape.top - 1);
  shape.size = end.offset + end.nodes * end.stride;
  return shape;
}

}  // namespace cuda
}  // namespace dg
