// SPDX-License-Identifier: Apache-2.0
//
// method="linear" for rows whose tree is in memory: several rows a block where their trees fit its
// shared memory, else in scratch memory, a launch for each level.
#include "cuda/linear.cuh"
#include "cuda/tree_memory.cuh"

namespace dg {
namespace cuda {
namespace {

// Probabilities; every adjoint is one too.
template <class NumberType>
struct LinearAlgebra {
  using Number = NumberType;

  DG_INLINE Number zero() { return Number{}; }

  template <class Index>
  DG_INLINE Number product(const Number* left, const Number* right, Index stride, Index j) {
    const Terms<Index> terms = terms_of(stride, j);
    Number sum{};
    for (Index a = terms.first; a <= terms.last; ++a) sum = sum + left[a] * right[j - a];
    return sum;
  }

  template <class Index>
  DG_INLINE Number adjoint(Number, const Number* sibling, const Number*, const Number* adjoint,
                           Index terms) {
    if (sibling == nullptr) return adjoint[0];
    Number sum{};
    for (Index b = 0; b < terms; ++b) sum = sum + adjoint[b] * sibling[b];
    return sum;
  }
};

template <class T>
struct SolvedRow {
  LinearRow<T> row;
  T root;  // P(S = k)
};

// Tilts a row and writes its leaves; every member of the team gets what is known of the row.
template <class T, class Number, int kThreads>
DG_DEVICE LinearRow<T> open_row(Team<kThreads>& team, const Rows<T>& problem, int64_t r,
                                const T* grad_marginals, Number* leaves) {
  const int64_t n = problem.n, k = count_of_row(problem, r);
  const T* const row = problem.logits + r * n;
  const T* const grad = grad_marginals == nullptr ? nullptr : grad_marginals + r * n;
  const BasicRowSummary<T> summary = summarize_row(team, row, n);
  LinearRow<T> out;
  out.kind = row_kind(summary, k);
  const bool ordinary = out.kind == RowKind::kOrdinary;
  out.flipped = ordinary && 2 * k > n;
  out.target = !ordinary ? 0 : out.flipped ? n - k : k;
  const T s = find_tilt(team, ordinary, summary, k, T(kContourTilt), [&](T tilt) {
                TailSums<T> sums;
                for (int64_t i = team.rank(); i < n; i += kThreads) {
                  sums.add(signed_tail(row[i] + tilt));
                }
                return team.reduce(sums, CombineTails());
              }).s;
  // Logits that count, log(1 + e), items with q > 1/2, V, sum q p g.
  Sums<double, 5> sums = {};
  for (int64_t i = team.rank(); i < n; i += kThreads) {
    const Probabilities<T> item = probabilities(row[i] + s);
    const T qp = item.q * item.p;
    if (is_finite(row[i]) && (item.above || !ordinary)) sums.of[0] += row[i];
    sums.of[1] += std::log1p(item.e);
    sums.of[2] += item.above;
    sums.of[3] += qp;
    if (grad != nullptr && qp > T(0)) sums.of[4] += qp * grad[i];
  }
  sums = team.reduce(sums, Add());
  const double shift = (sums.of[2] - static_cast<double>(k)) * static_cast<double>(s);
  out.outside = ordinary                        ? sums.of[0] + sums.of[1] + shift
                : out.kind == RowKind::kAll     ? sums.of[0]
                : out.kind == RowKind::kInvalid ? static_cast<double>(NAN)
                                                : 0.0;
  const bool varies = grad != nullptr && sums.of[3] > kNoVariance;
  const T centre = varies ? static_cast<T>(sums.of[4] / sums.of[3]) : T(0);
  for (int64_t i = team.rank(); i < n; i += kThreads) {
    const Probabilities<T> item = probabilities(row[i] + s);
    const T qp = item.q * item.p;
    Leaf<Number> leaf;
    make_leaf(item.q, item.p, varies && qp > T(0) ? qp * (grad[i] - centre) : T(0), out.flipped,
              leaf);
    leaves[2 * i] = leaf.absent;
    leaves[2 * i + 1] = leaf.present;
  }
  return out;
}

// Over the root, of which only coefficient `target` is wanted: its value, and the adjoints of the
// root's children. `left`: the values of the first child.
template <class Number, int kThreads, class Index>
DG_DEVICE auto join_children(Team<kThreads>& team, const Number* left, Number* adjoint_left,
                             Index stride, Index target) {
  const Terms<Index> terms = terms_of(stride, target);
  const Number* const right = left + stride;
  auto sum = value_of(Number{});
  for (Index a = terms.first + team.rank(); a <= terms.last; a += kThreads) {
    sum += value_of(left[a]) * value_of(right[target - a]);
  }
  for (Index j = team.rank(); j < stride; j += kThreads) {
    // Both children have partners for the same j.
    const bool paired = j >= terms.first && j <= terms.last;
    adjoint_left[j] = paired ? right[target - j] : Number{};
    adjoint_left[stride + j] = paired ? left[target - j] : Number{};
  }
  return team.reduce(sum, Add());
}

template <class T, class Number>
DG_DEVICE void close_item(const Rows<T>& problem, const LinearRequest<T>& request, int64_t r,
                          int64_t item, const SolvedRow<T>& solved, const Number* values,
                          const Number* adjoints) {
  constexpr bool kBackward = !std::is_same<T, Number>::value;
  const LinearRow<T>& row = solved.row;
  const int64_t at = r * problem.n + item;
  const Leaf<Number> leaf = {values[2 * item], values[2 * item + 1]};
  const Leaf<Number> adjoint = {adjoints[2 * item], adjoints[2 * item + 1]};
  const T slope =
      kBackward && request.grad_log_partition != nullptr ? request.grad_log_partition[r] : T(0);
  T* const out = kBackward ? request.grad_logits : request.marginals;
  out[at] = item_result(row.kind, problem.logits[at], marginal_of_leaf(row.flipped, leaf, adjoint),
                        slope);
  if (kBackward || item != 0 || request.log_partition == nullptr) return;
  const bool ordinary = row.kind == RowKind::kOrdinary;
  const double inside = ordinary ? std::log(static_cast<double>(solved.root)) : 0.0;
  request.log_partition[r] = static_cast<T>(row.outside + inside);
}

template <class T, bool kBackward>
__global__ void __launch_bounds__(kTreeThreads, 2)
    linear_tree_kernel(Rows<T> problem, LinearRequest<T> request, TreeShape shape, int group) {
  using Number = LinearNumber<T, kBackward>;
  DG_DYNAMIC_SHARED(bytes);
  __shared__ SolvedRow<T> solved[kMostTreeRows];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * group;
  const int n = static_cast<int>(problem.n), size = static_cast<int>(shape.size);
  const int rows = static_cast<int>(problem.rows - first < group ? problem.rows - first : group);
  Number* const values = reinterpret_cast<Number*>(bytes);
  const Trees<Number, int> trees = {values, values + rows * size, size, rows};
  Team<kWarpThreads> warp;
  const int warps = kTreeThreads / static_cast<int>(kWarpThreads);
  for (int i = warp.index(); warp.any(i < rows); i += warps) {
    const LinearRow<T> row =
        open_row(warp, problem, first + i, request.grad_marginals, values + i * size);
    if (warp.rank() == 0) solved[i].row = row;
  }
  climb_in_block<LinearAlgebra<Number>>(shape, trees, shape.top - 1);
  const TreeLevel<int> halves = level_at<int>(shape, shape.top - 1);
  if (halves.nodes == 2) {
    for (int i = warp.index(); warp.any(i < rows); i += warps) {
      const int at = i * size + halves.offset;
      const T root = join_children(warp, values + at, trees.adjoints + at, halves.stride,
                                   static_cast<int>(solved[i].row.target));
      if (warp.rank() == 0) solved[i].root = root;
    }
    descend_in_block<LinearAlgebra<Number>>(shape, trees, shape.top - 1);
  }
  for (int index = static_cast<int>(threadIdx.x); index < rows * n; index += kTreeThreads) {
    const int i = index / n;
    close_item(problem, request, first + i, index - i * n, solved[i], values + i * size,
               trees.adjoints + i * size);
  }
}

template <class T, bool kBackward>
__global__ void __launch_bounds__(kTreeThreads, 2)
    linear_leaves_kernel(Rows<T> problem, const T* grad_marginals, int64_t size,
                         LinearNumber<T, kBackward>* values, SolvedRow<T>* solved) {
  Team<kTreeThreads> team;
  const int64_t r = blockIdx.x;
  const LinearRow<T> row = open_row(team, problem, r, grad_marginals, values + r * size);
  if (team.rank() == 0) solved[r].row = row;
}

template <class T, bool kBackward>
__global__ void __launch_bounds__(kTreeThreads)
    linear_join_kernel(Trees<LinearNumber<T, kBackward>, int64_t> trees, TreeLevel<int64_t> halves,
                       SolvedRow<T>* solved) {
  Team<kTreeThreads> team;
  const int64_t r = blockIdx.x;
  const int64_t at = r * trees.size + halves.offset;
  const T root = join_children(team, trees.values + at, trees.adjoints + at, halves.stride,
                               solved[r].row.target);
  if (team.rank() == 0) solved[r].root = root;
}

template <class T, bool kBackward>
__global__ void __launch_bounds__(kTreeThreads)
    linear_close_kernel(Rows<T> problem, LinearRequest<T> request,
                        Trees<LinearNumber<T, kBackward>, int64_t> trees,
                        const SolvedRow<T>* solved) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kTreeThreads + threadIdx.x;
  if (index >= problem.rows * problem.n) return;
  const int64_t r = index / problem.n;
  close_item(problem, request, r, index - r * problem.n, solved[r], trees.values + r * trees.size,
             trees.adjoints + r * trees.size);
}

// Chosen or unchosen items, whichever are fewer: the most that any row's tree counts.
template <class T>
TreeShape shape_of(const Rows<T>& problem) {
  const int64_t unchosen = problem.n - problem.k;
  const int64_t fewer = problem.k < unchosen ? problem.k : unchosen;
  const int64_t most = problem.row_k != nullptr ? problem.n / 2 : fewer;
  return tree_shape(problem.n, most, /*with_root=*/false);
}

template <class T, bool kBackward>
int64_t bytes_of_row(const TreeShape& shape) {
  return 2 * shape.size * static_cast<int64_t>(sizeof(LinearNumber<T, kBackward>));
}

template <class T, bool kBackward>
int64_t scratch_bytes_of_row(const TreeShape& shape) {
  return bytes_of_row<T, kBackward>(shape) + static_cast<int64_t>(sizeof(SolvedRow<T>));
}

// One turn of rows, whose trees are in scratch memory.
template <class T, bool kBackward>
int launch_turn(const Rows<T>& problem, const LinearRequest<T>& request, const TreeShape& shape,
                void* scratch, void* stream) {
  using Number = LinearNumber<T, kBackward>;
  using Algebra = LinearAlgebra<Number>;
  auto* const solved = static_cast<SolvedRow<T>*>(scratch);
  Number* const values = reinterpret_cast<Number*>(solved + problem.rows);
  const Trees<Number, int64_t> trees = {values, values + problem.rows * shape.size, shape.size,
                                        problem.rows};
  const auto halves = level_at<int64_t>(shape, shape.top - 1);
  int error = DG_LAUNCH((linear_leaves_kernel<T, kBackward>), problem.rows, kTreeThreads, 0, stream,
                        problem, request.grad_marginals, shape.size, values, solved);
  if (error == 0) error = launch_climb<Algebra>(shape, trees, shape.top - 1, stream);
  if (error == 0) {
    error = DG_LAUNCH((linear_join_kernel<T, kBackward>), problem.rows, kTreeThreads, 0, stream,
                      trees, halves, solved);
  }
  if (error == 0) error = launch_descend<Algebra>(shape, trees, shape.top - 1, stream);
  if (error != 0) return error;
  return DG_LAUNCH((linear_close_kernel<T, kBackward>), blocks_for(problem.rows * problem.n),
                   kTreeThreads, 0, stream, problem, request, trees, solved);
}

template <class T>
T* advanced(T* pointer, int64_t by) {
  return pointer == nullptr ? nullptr : pointer + by;
}

}  // namespace

template <class T, bool kBackward>
size_t linear_tree_scratch_bytes(const Rows<T>& problem) {
  const TreeShape shape = shape_of(problem);
  if (rows_of_block(shape, bytes_of_row<T, kBackward>(shape)) > 0) return 0;
  const int64_t bytes = scratch_bytes_of_row<T, kBackward>(shape);
  return static_cast<size_t>(rows_of_turn(problem.rows, bytes) * bytes);
}

template <class T, bool kBackward>
int linear_by_tree(const Rows<T>& problem, const LinearRequest<T>& request, void* scratch,
                   void* stream) {
  const TreeShape shape = shape_of(problem);
  const int64_t bytes = bytes_of_row<T, kBackward>(shape);
  const int64_t group = rows_of_block(shape, bytes);
  if (group > 0) {
    return DG_LAUNCH((linear_tree_kernel<T, kBackward>), (problem.rows + group - 1) / group,
                     kTreeThreads, group * bytes, stream, problem, request, shape,
                     static_cast<int>(group));
  }
  const int64_t turn = rows_of_turn(problem.rows, scratch_bytes_of_row<T, kBackward>(shape));
  for (int64_t first = 0; first < problem.rows; first += turn) {
    Rows<T> part = problem;
    part.logits += first * problem.n;
    part.row_k = advanced(problem.row_k, first);
    part.rows = problem.rows - first < turn ? problem.rows - first : turn;
    const LinearRequest<T> of_part = {advanced(request.marginals, first * problem.n),
                                      advanced(request.log_partition, first),
                                      advanced(request.grad_marginals, first * problem.n),
                                      advanced(request.grad_log_partition, first),
                                      advanced(request.grad_logits, first * problem.n)};
    const int error = launch_turn<T, kBackward>(part, of_part, shape, scratch, stream);
    if (error != 0) return error;
  }
  return 0;
}

#define DG_INSTANTIATE(T, kBackward)                                       \
  template size_t linear_tree_scratch_bytes<T, kBackward>(const Rows<T>&); \
  template int linear_by_tree<T, kBackward>(const Rows<T>&, const LinearRequest<T>&, void*, void*);
DG_INSTANTIATE(float, false)
DG_INSTANTIATE(float, true)
DG_INSTANTIATE(double, false)
DG_INSTANTIATE(double, true)
#undef DG_INSTANTIATE

}  // namespace cuda
}  // namespace dg
