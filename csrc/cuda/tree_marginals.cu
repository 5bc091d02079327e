// SPDX-License-Identifier: Apache-2.0
//
// method="recursion": marginals and log-partition with relative accuracy, by the tree in the log
// algebra; several rows a block where their trees fit its shared memory, else in scratch memory.
#include "cuda/tree_marginals.cuh"

#include "cuda/tree_memory.cuh"

namespace dg {
namespace cuda {
namespace {

// What a row's scratch memory holds beside its values and adjoints.
template <class T>
struct SolvedRow {
  TreeRow row;
  T root;  // log P(S = k)
};

template <class T>
DG_DEVICE void write_log_partition(const SolvedRow<T>& solved, int64_t r, T* log_partition) {
  const bool ordinary = solved.row.kind == RowKind::kOrdinary;
  log_partition[r] =
      static_cast<T>(solved.row.outside + (ordinary ? static_cast<double>(solved.root) : 0.0));
}

// The marginal of an item from its leaf's adjoints.
template <class T>
DG_DEVICE T marginal(const TreeRow& row, T theta, const T* adjoint) {
  if (row.kind == RowKind::kInvalid) return T(NAN);
  if (row.kind != RowKind::kOrdinary) return is_certain_member(theta, row.kind) ? T(1) : T(0);
  const T chosen = row.flipped != 0 ? adjoint[0] : adjoint[1];
  return chosen / (adjoint[0] + adjoint[1]);
}

// The 2 in the launch bounds: where it is not given, ptxas spills to fit one block more.
template <class T>
__global__ void __launch_bounds__(kTreeThreads, 2)
    tree_marginals_kernel(Rows<T> problem, TreeShape shape, int group, T* marginals,
                          T* log_partition) {
  DG_DYNAMIC_SHARED(bytes);
  __shared__ SolvedRow<T> solved[kMostTreeRows];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * group;
  const int n = static_cast<int>(problem.n), size = static_cast<int>(shape.size);
  const int rows = static_cast<int>(problem.rows - first < group ? problem.rows - first : group);
  T* values = reinterpret_cast<T*>(bytes);
  const Trees<T, int> trees = {values, values + rows * size, size, rows};
  Team<kWarpThreads> warp;
  const int warps = kTreeThreads / static_cast<int>(kWarpThreads);
  for (int i = warp.index(); i < rows; i += warps) {
    const TreeRow row = open_tree_row(warp, problem, first + i, values + i * size);
    if (warp.rank() == 0) solved[i].row = row;
  }
  climb_in_block<LogAlgebra<T>>(shape, trees, shape.top - 1);
  const TreeLevel<int> halves = level_at<int>(shape, shape.top - 1);
  if (halves.nodes == 2) {
    for (int i = warp.index(); i < rows; i += warps) {
      const int at = i * size + halves.offset;
      const T root = join_children(warp, values + at, trees.adjoints + at, halves.stride,
                                   static_cast<int>(solved[i].row.target));
      if (warp.rank() == 0) solved[i].root = root;
    }
    descend_in_block<LogAlgebra<T>>(shape, trees, shape.top - 1);
  }
  for (int index = static_cast<int>(threadIdx.x); index < rows * n; index += kTreeThreads) {
    const int i = index / n, item = index - i * n;
    const int64_t at = first * n + index;
    marginals[at] =
        marginal(solved[i].row, problem.logits[at], trees.adjoints + i * size + 2 * item);
    if (item == 0) write_log_partition(solved[i], first + i, log_partition);
  }
}

template <class T>
__global__ void __launch_bounds__(kTreeThreads, 2)
    tree_leaves_kernel(Rows<T> problem, int64_t size, T* values, SolvedRow<T>* solved) {
  Team<kTreeThreads> team;
  const int64_t r = blockIdx.x;
  const TreeRow row = open_tree_row(team, problem, r, values + r * size);
  if (team.rank() == 0) solved[r].row = row;
}

template <class T>
__global__ void __launch_bounds__(kTreeThreads)
    tree_join_kernel(Trees<T, int64_t> trees, TreeLevel<int64_t> halves, SolvedRow<T>* solved) {
  Team<kTreeThreads> team;
  const int64_t r = blockIdx.x;
  const int64_t at = r * trees.size + halves.offset;
  const T root = join_children(team, trees.values + at, trees.adjoints + at, halves.stride,
                               solved[r].row.target);
  if (team.rank() == 0) solved[r].root = root;
}

template <class T>
__global__ void __launch_bounds__(kTreeThreads)
    tree_close_kernel(Rows<T> problem, Trees<T, int64_t> trees, const SolvedRow<T>* solved,
                      T* marginals, T* log_partition) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kTreeThreads + threadIdx.x;
  if (index >= problem.rows * problem.n) return;
  const int64_t r = index / problem.n, item = index - r * problem.n;
  marginals[index] =
      marginal(solved[r].row, problem.logits[index], trees.adjoints + r * trees.size + 2 * item);
  if (item == 0) write_log_partition(solved[r], r, log_partition);
}

// Chosen or unchosen items, whichever are fewer: the most that any row's tree counts.
template <class T>
TreeShape shape_of(const Rows<T>& problem) {
  const int64_t unchosen = problem.n - problem.k;
  const int64_t fewer = problem.k < unchosen ? problem.k : unchosen;
  const int64_t most = problem.row_k != nullptr ? problem.n / 2 : fewer;
  return tree_shape(problem.n, most, /*with_root=*/false);
}

template <class T>
int64_t bytes_of_row(const TreeShape& shape) {
  return 2 * shape.size * static_cast<int64_t>(sizeof(T));
}

// One turn of rows, whose trees are in scratch memory.
template <class T>
int launch_turn(const Rows<T>& problem, const TreeShape& shape, T* marginals, T* log_partition,
                void* scratch, void* stream) {
  auto* solved = static_cast<SolvedRow<T>*>(scratch);
  T* values = reinterpret_cast<T*>(solved + problem.rows);
  const Trees<T, int64_t> trees = {values, values + problem.rows * shape.size, shape.size,
                                   problem.rows};
  const auto halves = level_at<int64_t>(shape, shape.top - 1);
  int error = DG_LAUNCH(tree_leaves_kernel<T>, problem.rows, kTreeThreads, 0, stream, problem,
                        shape.size, values, solved);
  if (error == 0) error = launch_climb<LogAlgebra<T>>(shape, trees, shape.top - 1, stream);
  if (error == 0) {
    error = DG_LAUNCH(tree_join_kernel<T>, problem.rows, kTreeThreads, 0, stream, trees, halves,
                      solved);
  }
  if (error == 0) error = launch_descend<LogAlgebra<T>>(shape, trees, shape.top - 1, stream);
  if (error != 0) return error;
  return DG_LAUNCH(tree_close_kernel<T>, blocks_for(problem.rows * problem.n), kTreeThreads, 0,
                   stream, problem, trees, solved, marginals, log_partition);
}

template <class T>
int64_t scratch_bytes_of_row(const TreeShape& shape) {
  return bytes_of_row<T>(shape) + static_cast<int64_t>(sizeof(SolvedRow<T>));
}

}  // namespace

template <class T>
size_t recursion_scratch_bytes(const Rows<T>& problem) {
  const TreeShape shape = shape_of(problem);
  if (rows_of_block(shape, bytes_of_row<T>(shape)) > 0) return 0;
  const int64_t bytes = scratch_bytes_of_row<T>(shape);
  return static_cast<size_t>(rows_of_turn(problem.rows, bytes) * bytes);
}

template <class T>
int launch_recursion(const Rows<T>& problem, T* marginals, T* log_partition, void* scratch,
                     void* stream) {
  const TreeShape shape = shape_of(problem);
  const int64_t group = rows_of_block(shape, bytes_of_row<T>(shape));
  if (group > 0) {
    return DG_LAUNCH(tree_marginals_kernel<T>, (problem.rows + group - 1) / group, kTreeThreads,
                     group * bytes_of_row<T>(shape), stream, problem, shape,
                     static_cast<int>(group), marginals, log_partition);
  }
  const int64_t turn = rows_of_turn(problem.rows, scratch_bytes_of_row<T>(shape));
  for (int64_t first = 0; first < problem.rows; first += turn) {
    Rows<T> part = problem;
    part.logits += first * problem.n;
    if (part.row_k != nullptr) part.row_k += first;
    part.rows = problem.rows - first < turn ? problem.rows - first : turn;
    const int error = launch_turn(part, shape, marginals + first * problem.n, log_partition + first,
                                  scratch, stream);
    if (error != 0) return error;
  }
  return 0;
}

#define DG_INSTANTIATE(T)                                     \
  template size_t recursion_scratch_bytes<T>(const Rows<T>&); \
  template int launch_recursion<T>(const Rows<T>&, T*, T*, void*, void*);
DG_INSTANTIATE(float)
DG_INSTANTIATE(double)

}  // namespace cuda
}  // namespace dg
