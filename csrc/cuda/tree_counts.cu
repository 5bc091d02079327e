// SPDX-License-Identifier: Apache-2.0
//
// The law of the number of successes (Poisson-binomial) in the log algebra, with its first and
// second derivatives by the outside pass. Untilted: item i succeeds with probability
// sigmoid(theta_i).
//
// A NaN among a row's logits reaches every coefficient and every adjoint of its tree by itself;
// only columns beyond n, which have no coefficient, ask the root.
#include "cuda/tree_marginals.cuh"
#include "cuda/tree_memory.cuh"

namespace dg {
namespace cuda {
namespace {

// What is wanted of a row; pointers are null for what is not.
template <class T>
struct CountTask {
  const T* grad;       // [rows, columns], of the vector-Jacobian product
  const T* direction;  // [rows, n], of the tangents
  T* columns;          // [rows, columns]: the law, or its derivative along the direction
  T* gradient;         // [rows, n]: of the logits, or its derivative along the direction
};

// The algebra without and with tangents, and how numbers come and go.
template <class T>
struct Plain {
  using Scalar = T;
  using Algebra = LogAlgebra<T>;
  using Number = T;

  static DG_DEVICE Number make(T value, T) { return value; }
  static DG_DEVICE T impossible() { return -T(INFINITY); }
  static DG_DEVICE T column(Number root) { return root; }
  static DG_DEVICE bool is_nan(Number number) { return number != number; }
  // d log q = p d theta and d log p = -q d theta.
  static DG_DEVICE T gradient(const Item<T>& item, const Number* adjoint, T) {
    return adjoint[1] * item.p - adjoint[0] * item.q;
  }
};

template <class T>
struct WithTangents {
  using Scalar = T;
  using Algebra = LogDualAlgebra<T>;
  using Number = Dual<T>;

  static DG_DEVICE Number make(T value, T tangent) { return {value, tangent}; }
  static DG_DEVICE T impossible() { return T(0); }
  static DG_DEVICE T column(Number root) { return root.d; }
  static DG_DEVICE bool is_nan(Number number) { return number.v != number.v; }
  static DG_DEVICE T gradient(const Item<T>& item, const Number* adjoint, T direction) {
    return adjoint[1].d * item.p - adjoint[0].d * item.q -
           (adjoint[1].v + adjoint[0].v) * item.qp * direction;
  }
};

// Coefficients of the root that are columns too.
template <class T>
DG_INLINE int64_t possible_columns(const Rows<T>& problem) {
  return (problem.k < problem.n ? problem.k : problem.n) + 1;
}

// The steps below serve one number each: leaf `i` of row `r`, and so on.
template <class Kind, class T = typename Kind::Scalar>
DG_DEVICE void open_leaf(const Rows<T>& problem, const CountTask<T>& task, int64_t at,
                         typename Kind::Number* leaf) {
  const T theta = problem.logits[at];
  const LogLeaf<T> log_of = log_leaf(theta);
  const Item<T> item = unpack_item(signed_tail(theta));
  const T direction = task.direction == nullptr ? T(0) : task.direction[at];
  leaf[0] = Kind::make(log_of.absent, -item.q * direction);
  leaf[1] = Kind::make(log_of.present, item.p * direction);
}

template <class Kind, class T = typename Kind::Scalar>
DG_DEVICE void write_column(const Rows<T>& problem, const CountTask<T>& task, int64_t r, int64_t j,
                            const typename Kind::Number* root) {
  T value = Kind::impossible();
  if (Kind::is_nan(root[0])) {
    value = T(NAN);
  } else if (j < possible_columns(problem)) {
    value = Kind::column(root[j]);
  }
  task.columns[r * (problem.k + 1) + j] = value;
}

template <class Kind, class T = typename Kind::Scalar>
DG_DEVICE typename Kind::Number root_adjoint(const Rows<T>& problem, const CountTask<T>& task,
                                             int64_t r, int64_t j) {
  const bool given = j < possible_columns(problem);
  return Kind::make(given ? task.grad[r * (problem.k + 1) + j] : T(0), T(0));
}

template <class Kind, class T = typename Kind::Scalar>
DG_DEVICE void write_gradient(const Rows<T>& problem, const CountTask<T>& task, int64_t at,
                              const typename Kind::Number* adjoint) {
  const T theta = problem.logits[at];
  const T direction = task.direction == nullptr ? T(0) : task.direction[at];
  const T value = Kind::gradient(unpack_item(signed_tail(theta)), adjoint, direction);
  task.gradient[at] = theta != theta ? T(NAN) : value;
}

// Several rows a block, in its shared memory.
template <class Kind, class T = typename Kind::Scalar>
__global__ void __launch_bounds__(kTreeThreads)
    counts_kernel(Rows<T> problem, TreeShape shape, int group, CountTask<T> task) {
  using Number = typename Kind::Number;
  DG_DYNAMIC_SHARED(bytes);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * group;
  const int n = static_cast<int>(problem.n), size = static_cast<int>(shape.size);
  const int rows = static_cast<int>(problem.rows - first < group ? problem.rows - first : group);
  const int thread = static_cast<int>(threadIdx.x);
  Number* values = reinterpret_cast<Number*>(bytes);
  const Trees<Number, int> trees = {values, values + rows * size, size, rows};
  for (int index = thread; index < rows * n; index += kTreeThreads) {
    const int i = index / n;
    open_leaf<Kind>(problem, task, first * n + index, values + i * size + 2 * (index - i * n));
  }
  climb_in_block<typename Kind::Algebra>(shape, trees, shape.top);
  const TreeLevel<int> root = level_at<int>(shape, shape.top);
  if (task.columns != nullptr) {
    const int64_t columns = problem.k + 1;
    for (int64_t index = thread; index < rows * columns; index += kTreeThreads) {
      const int64_t i = index / columns;
      write_column<Kind>(problem, task, first + i, index - i * columns,
                         values + i * size + root.offset);
    }
  }
  if (task.grad == nullptr) return;
  for (int index = thread; index < rows * root.stride; index += kTreeThreads) {
    const int i = index / root.stride, j = index - i * root.stride;
    trees.adjoints[i * size + root.offset + j] = root_adjoint<Kind>(problem, task, first + i, j);
  }
  descend_in_block<typename Kind::Algebra>(shape, trees, shape.top);
  for (int index = thread; index < rows * n; index += kTreeThreads) {
    const int i = index / n;
    write_gradient<Kind>(problem, task, first * n + index,
                         trees.adjoints + i * size + 2 * (index - i * n));
  }
}

// The same steps, each a launch, for trees in scratch memory.
template <class Kind, class T = typename Kind::Scalar>
__global__ void __launch_bounds__(kTreeThreads)
    count_leaves_kernel(Rows<T> problem, CountTask<T> task,
                        Trees<typename Kind::Number, int64_t> trees) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kTreeThreads + threadIdx.x;
  if (at >= problem.rows * problem.n) return;
  const int64_t r = at / problem.n;
  open_leaf<Kind>(problem, task, at, trees.values + r * trees.size + 2 * (at - r * problem.n));
}

template <class Kind, class T = typename Kind::Scalar>
__global__ void __launch_bounds__(kTreeThreads)
    count_columns_kernel(Rows<T> problem, CountTask<T> task,
                         Trees<typename Kind::Number, int64_t> trees, TreeLevel<int64_t> root) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kTreeThreads + threadIdx.x;
  const int64_t columns = problem.k + 1;
  if (index >= problem.rows * columns) return;
  const int64_t r = index / columns;
  write_column<Kind>(problem, task, r, index - r * columns,
                     trees.values + r * trees.size + root.offset);
}

template <class Kind, class T = typename Kind::Scalar>
__global__ void __launch_bounds__(kTreeThreads)
    count_root_kernel(Rows<T> problem, CountTask<T> task,
                      Trees<typename Kind::Number, int64_t> trees, TreeLevel<int64_t> root) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kTreeThreads + threadIdx.x;
  if (index >= problem.rows * root.stride) return;
  const int64_t r = index / root.stride, j = index - r * root.stride;
  trees.adjoints[r * trees.size + root.offset + j] = root_adjoint<Kind>(problem, task, r, j);
}

template <class Kind, class T = typename Kind::Scalar>
__global__ void __launch_bounds__(kTreeThreads)
    count_gradient_kernel(Rows<T> problem, CountTask<T> task,
                          Trees<typename Kind::Number, int64_t> trees) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kTreeThreads + threadIdx.x;
  if (at >= problem.rows * problem.n) return;
  const int64_t r = at / problem.n;
  write_gradient<Kind>(problem, task, at,
                       trees.adjoints + r * trees.size + 2 * (at - r * problem.n));
}

// One turn of rows.
template <class Kind, class T = typename Kind::Scalar>
int launch_turn(const Rows<T>& problem, const TreeShape& shape, const CountTask<T>& task,
                void* scratch, void* stream) {
  using Number = typename Kind::Number;
  using Algebra = typename Kind::Algebra;
  const int64_t items = blocks_for(problem.rows * problem.n);
  auto* values = static_cast<Number*>(scratch);
  const Trees<Number, int64_t> trees = {values, values + problem.rows * shape.size, shape.size,
                                        problem.rows};
  const auto root = level_at<int64_t>(shape, shape.top);
  int error =
      DG_LAUNCH(count_leaves_kernel<Kind>, items, kTreeThreads, 0, stream, problem, task, trees);
  if (error == 0) error = launch_climb<Algebra>(shape, trees, shape.top, stream);
  if (error == 0 && task.columns != nullptr) {
    error = DG_LAUNCH(count_columns_kernel<Kind>, blocks_for(problem.rows * (problem.k + 1)),
                      kTreeThreads, 0, stream, problem, task, trees, root);
  }
  if (error != 0 || task.grad == nullptr) return error;
  error = DG_LAUNCH(count_root_kernel<Kind>, blocks_for(problem.rows * root.stride), kTreeThreads,
                    0, stream, problem, task, trees, root);
  if (error == 0) error = launch_descend<Algebra>(shape, trees, shape.top, stream);
  if (error != 0) return error;
  return DG_LAUNCH(count_gradient_kernel<Kind>, items, kTreeThreads, 0, stream, problem, task,
                   trees);
}

template <class T>
int64_t bytes_of_row(const TreeShape& shape, CountOrder order) {
  const int64_t arrays = order == CountOrder::kLaw ? 1 : order == CountOrder::kVjp ? 2 : 4;
  return arrays * shape.size * static_cast<int64_t>(sizeof(T));
}

template <class T>
const T* moved(const T* rows, int64_t by) {
  return rows == nullptr ? nullptr : rows + by;
}
template <class T>
T* moved(T* rows, int64_t by) {
  return rows == nullptr ? nullptr : rows + by;
}

template <class Kind, class T = typename Kind::Scalar>
int launch_counts(const Rows<T>& problem, CountOrder order, const CountTask<T>& task, void* scratch,
                  void* stream) {
  const TreeShape shape = tree_shape(problem.n, problem.k, /*with_root=*/true);
  const int64_t bytes = bytes_of_row<T>(shape, order);
  const int64_t group = rows_of_block(shape, bytes);
  if (group > 0) {
    return DG_LAUNCH(counts_kernel<Kind>, (problem.rows + group - 1) / group, kTreeThreads,
                     group * bytes, stream, problem, shape, static_cast<int>(group), task);
  }
  const int64_t turn = rows_of_turn(problem.rows, bytes), columns = problem.k + 1;
  for (int64_t first = 0; first < problem.rows; first += turn) {
    Rows<T> part = problem;
    part.logits += first * problem.n;
    part.rows = problem.rows - first < turn ? problem.rows - first : turn;
    const CountTask<T> of_part = {
        moved(task.grad, first * columns), moved(task.direction, first * problem.n),
        moved(task.columns, first * columns), moved(task.gradient, first * problem.n)};
    const int error = launch_turn<Kind>(part, shape, of_part, scratch, stream);
    if (error != 0) return error;
  }
  return 0;
}

}  // namespace

template <class T>
size_t count_scratch_bytes(const Rows<T>& problem, CountOrder order) {
  const TreeShape shape = tree_shape(problem.n, problem.k, /*with_root=*/true);
  const int64_t bytes = bytes_of_row<T>(shape, order);
  if (rows_of_block(shape, bytes) > 0) return 0;
  return static_cast<size_t>(rows_of_turn(problem.rows, bytes) * bytes);
}

template <class T>
int launch_count_log_prob(const Rows<T>& problem, T* log_prob, void* scratch, void* stream) {
  return launch_counts<Plain<T>>(problem, CountOrder::kLaw, {nullptr, nullptr, log_prob, nullptr},
                                 scratch, stream);
}

template <class T>
int launch_count_log_prob_vjp(const Rows<T>& problem, const T* grad, T* grad_logits, void* scratch,
                              void* stream) {
  return launch_counts<Plain<T>>(problem, CountOrder::kVjp, {grad, nullptr, nullptr, grad_logits},
                                 scratch, stream);
}

template <class T>
int launch_count_log_prob_vjp_backward(const Rows<T>& problem, const T* grad, const T* tangent,
                                       T* grad_grad, T* grad_logits, void* scratch, void* stream) {
  return launch_counts<WithTangents<T>>(problem, CountOrder::kVjpBackward,
                                        {grad, tangent, grad_grad, grad_logits}, scratch, stream);
}

#define DG_INSTANTIATE(T)                                                                        \
  template size_t count_scratch_bytes<T>(const Rows<T>&, CountOrder);                            \
  template int launch_count_log_prob<T>(const Rows<T>&, T*, void*, void*);                       \
  template int launch_count_log_prob_vjp<T>(const Rows<T>&, const T*, T*, void*, void*);         \
  template int launch_count_log_prob_vjp_backward<T>(const Rows<T>&, const T*, const T*, T*, T*, \
                                                     void*, void*);
DG_INSTANTIATE(float)
DG_INSTANTIATE(double)

}  // namespace cuda
}  // namespace dg
