// SPDX-License-Identifier: Apache-2.0
//
// Trees in the device's memory, one launch for each level, and the rule that says which trees fit a
// block's shared memory.
#pragma once

#include "cuda/tree_levels.cuh"

namespace dg {
namespace cuda {

constexpr int kTreeThreads = 256;
// Scratch memory of one turn of rows, unless one row takes more.
constexpr int64_t kTurnBytes = int64_t{1} << 26;
// What a block takes of its shared memory for trees, and how many rows it serves at most.
constexpr int64_t kTreeBytes = int64_t{44} << 10;
constexpr int64_t kMostTreeRows = 32;

inline int64_t blocks_for(int64_t numbers) { return (numbers + kTreeThreads - 1) / kTreeThreads; }

// How many rows of `bytes` each a block serves from shared memory, 0 where not even one fits: as
// many as give the widest level a few numbers a thread.
inline int64_t rows_of_block(const TreeShape& shape, int64_t bytes) {
  if (bytes > kTreeBytes) return 0;
  int64_t rows = 4 * kTreeThreads / (2 * shape.n);
  if (rows > kTreeBytes / bytes) rows = kTreeBytes / bytes;
  if (rows > kMostTreeRows) rows = kMostTreeRows;
  return rows < 1 ? 1 : rows;
}

// Rows that one turn serves, of `bytes` of scratch memory each.
inline int64_t rows_of_turn(int64_t rows, int64_t bytes) {
  int64_t turn = kTurnBytes / bytes;
  if (turn < 1) turn = 1;
  return turn < rows ? turn : rows;
}

template <class Algebra>
__global__ void __launch_bounds__(kTreeThreads)
    climb_kernel(Trees<typename Algebra::Number, int64_t> trees, TreeLevel<int64_t> below,
                 TreeLevel<int64_t> here) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kTreeThreads + threadIdx.x;
  climb_level<Algebra>(trees, below, here, thread, static_cast<int64_t>(gridDim.x) * kTreeThreads);
}

template <class Algebra>
__global__ void __launch_bounds__(kTreeThreads)
    descend_kernel(Trees<typename Algebra::Number, int64_t> trees, TreeLevel<int64_t> above,
                   TreeLevel<int64_t> here) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kTreeThreads + threadIdx.x;
  descend_level<Algebra>(trees, above, here, thread,
                         static_cast<int64_t>(gridDim.x) * kTreeThreads);
}

// Levels 1 to `last` from the leaves.
template <class Algebra>
int launch_climb(const TreeShape& shape, const Trees<typename Algebra::Number, int64_t>& trees,
                 int last, void* stream) {
  auto below = leaf_level<int64_t>(shape);
  for (int level = 1; level <= last; ++level) {
    const auto here = next_level(shape, below, level);
    const int64_t blocks = blocks_for(trees.rows * here.nodes * here.stride);
    const int error =
        DG_LAUNCH(climb_kernel<Algebra>, blocks, kTreeThreads, 0, stream, trees, below, here);
    if (error != 0) return error;
    below = here;
  }
  return 0;
}

// Adjoints of the levels below `first`, down to the leaves, from those at it.
template <class Algebra>
int launch_descend(const TreeShape& shape, const Trees<typename Algebra::Number, int64_t>& trees,
                   int first, void* stream) {
  auto above = level_at<int64_t>(shape, first);
  for (int level = first - 1; level >= 0; --level) {
    const auto here = level_at<int64_t>(shape, level);
    const int64_t blocks = blocks_for(trees.rows * here.nodes * here.stride);
    const int error =
        DG_LAUNCH(descend_kernel<Algebra>, blocks, kTreeThreads, 0, stream, trees, above, here);
    if (error != 0) return error;
    above = here;
  }
  return 0;
}

// The same by a block for its own rows.
template <class Algebra>
DG_DEVICE void climb_in_block(const TreeShape& shape,
                              const Trees<typename Algebra::Number, int>& trees, int last) {
  auto below = leaf_level<int>(shape);
  for (int level = 1; level <= last; ++level) {
    __syncthreads();
    const auto here = next_level(shape, below, level);
    climb_level<Algebra>(trees, below, here, static_cast<int>(threadIdx.x), kTreeThreads);
    below = here;
  }
  __syncthreads();
}

template <class Algebra>
DG_DEVICE void descend_in_block(const TreeShape& shape,
                                const Trees<typename Algebra::Number, int>& trees, int first) {
  auto above = level_at<int>(shape, first);
  for (int level = first - 1; level >= 0; --level) {
    __syncthreads();
    const auto here = level_at<int>(shape, level);
    descend_level<Algebra>(trees, above, here, static_cast<int>(threadIdx.x), kTreeThreads);
    above = here;
  }
  __syncthreads();
}

}  // namespace cuda
}  // namespace dg
