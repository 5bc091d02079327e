// SPDX-License-Identifier: Apache-2.0
//
// method="linear" for short rows: one thread takes a row through the tree in its registers, all
// loops unrolled. No step subtracts, so the marginals keep their relative accuracy.
#include "cuda/linear.cuh"

namespace dg {
namespace cuda {
namespace {

constexpr int kRowThreads = 128;

// Nodes of one level, each a polynomial of degree kDegree.
template <class Number, int kNodes, int kDegree>
struct RegisterLevel {
  Number of[kNodes][kDegree + 1];
};

template <class Number, int kNodes, int kDegree, int kMost>
using ParentLevel = RegisterLevel<Number, kNodes / 2, (2 * kDegree < kMost ? 2 * kDegree : kMost)>;

template <int kMost, class Number, int kNodes, int kDegree>
DG_DEVICE void multiply_level(const RegisterLevel<Number, kNodes, kDegree>& level,
                              ParentLevel<Number, kNodes, kDegree, kMost>& parents) {
  constexpr int kParent = 2 * kDegree < kMost ? 2 * kDegree : kMost;
#pragma unroll
  for (int h = 0; h < kNodes / 2; ++h) {
#pragma unroll
    for (int j = 0; j <= kParent; ++j) {
      Number sum = {};
#pragma unroll
      for (int a = 0; a <= kDegree; ++a) {
        if (j - a < 0 || j - a > kDegree) continue;
        sum = sum + level.of[2 * h][a] * level.of[2 * h + 1][j - a];
      }
      parents.of[h][j] = sum;
    }
  }
}

// Adjoints of a level's nodes; returns the root's coefficient `target`.
template <int kMost, class Number, int kNodes, int kDegree>
DG_DEVICE Number find_adjoints(const RegisterLevel<Number, kNodes, kDegree>& level, int target,
                               RegisterLevel<Number, kNodes, kDegree>& adjoints) {
  Number root = {};
  if constexpr (kNodes == 2) {
#pragma unroll
    for (int a = 0; a <= kDegree; ++a) {
      Number left = {}, right = {};
#pragma unroll
      for (int b = 0; b <= kDegree; ++b) {
        if (a + b != target) continue;
        left = level.of[1][b];
        right = level.of[0][b];
      }
      adjoints.of[0][a] = left;
      adjoints.of[1][a] = right;
      root = root + level.of[0][a] * left;
    }
  } else {
    ParentLevel<Number, kNodes, kDegree, kMost> parents, above;
    multiply_level<kMost>(level, parents);
    root = find_adjoints<kMost>(parents, target, above);
    constexpr int kParent = 2 * kDegree < kMost ? 2 * kDegree : kMost;
#pragma unroll
    for (int h = 0; h < kNodes; ++h) {
#pragma unroll
      for (int a = 0; a <= kDegree; ++a) {
        Number sum = {};
#pragma unroll
        for (int b = 0; b <= kDegree; ++b) {
          if (a + b <= kParent) sum = sum + above.of[h / 2][a + b] * level.of[h ^ 1][b];
        }
        adjoints.of[h][a] = sum;
      }
    }
  }
  return root;
}

// Half way between the k-th largest of kItems numbers and the next: P(S = k) is at least 2^-kItems
// at that tilt.
template <class T, int kItems>
DG_DEVICE T middle_of_sorted(const T (&given)[kItems], int k) {
  T sorted[kItems];
#pragma unroll
  for (int i = 0; i < kItems; ++i) sorted[i] = given[i];
#pragma unroll
  for (int size = 2; size <= kItems; size *= 2) {
#pragma unroll
    for (int stride = size / 2; stride > 0; stride /= 2) {
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        const int j = i ^ stride;
        if (j < i) continue;
        const bool descending = (i & size) == 0;
        const T a = sorted[i], b = sorted[j];
        const T more = a > b ? a : b, less = a > b ? b : a;
        sorted[i] = descending ? more : less;
        sorted[j] = descending ? less : more;
      }
    }
  }
  T middle = T(0);
#pragma unroll
  for (int i = 1; i < kItems; ++i) {
    if (i == k) middle = T(0.5) * sorted[i - 1] + T(0.5) * sorted[i];
  }
  return middle;
}

// A row of kItems in memory, in words of 16 bytes.
template <class T>
struct alignas(16) Word {
  T of[16 / sizeof(T)];
};

template <class T, int kItems>
DG_DEVICE void load_row(const T* row, int n, bool in_words, T fill, T (&items)[kItems]) {
  constexpr int kOfWord = 16 / sizeof(T);
  if (in_words) {
#pragma unroll
    for (int i = 0; i < kItems; i += kOfWord) {
      const Word<T> word = *reinterpret_cast<const Word<T>*>(row + i);
#pragma unroll
      for (int j = 0; j < kOfWord; ++j) items[i + j] = word.of[j];
    }
  } else {
#pragma unroll
    for (int i = 0; i < kItems; ++i) items[i] = i < n ? row[i] : fill;
  }
}

template <class T, int kItems>
DG_DEVICE void store_row(const T (&items)[kItems], int n, bool in_words, T* row) {
  constexpr int kOfWord = 16 / sizeof(T);
  if (in_words) {
#pragma unroll
    for (int i = 0; i < kItems; i += kOfWord) {
      Word<T> word;
#pragma unroll
      for (int j = 0; j < kOfWord; ++j) word.of[j] = items[i + j];
      *reinterpret_cast<Word<T>*>(row + i) = word;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (i < n) row[i] = items[i];
    }
  }
}

// sum softplus(theta + s) - k s + log P(S = k), or the sum of the logits of a certain subset.
template <class T, int kItems>
DG_DEVICE T log_partition_of(RowKind kind, const T (&theta)[kItems], T s, int64_t k, T root) {
  if (kind == RowKind::kInvalid) return T(NAN);
  const bool ordinary = kind == RowKind::kOrdinary;
  ExactSum<T> sum = {T(0), T(0)};
  T product = T(1);
  int above = 0;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const Probabilities<T> item = probabilities(theta[i] + s);
    const bool counted = ordinary ? item.above : kind == RowKind::kAll;
    sum.add(counted && is_finite(theta[i]) ? theta[i] : T(0));
    product *= T(1) + item.e;
    above += item.above;
  }
  if (!ordinary) return static_cast<T>(sum.value());
  const double shift = static_cast<double>(above - k) * static_cast<double>(s);
  return static_cast<T>(sum.value() + shift + static_cast<double>(std::log(product * root)));
}

template <class T, int kItems, bool kBackward>
__global__ void __launch_bounds__(kRowThreads)
    linear_threads_kernel(Rows<T> rows, LinearRequest<T> request, bool in_words) {
  using Number = LinearNumber<T, kBackward>;
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (r >= rows.rows) return;
  const int n = static_cast<int>(rows.n);
  const int64_t k = count_of_row(rows, r);
  T theta[kItems], change[kItems];
  load_row(rows.logits + r * n, n, in_words, -T(INFINITY), theta);
  BasicRowSummary<T> summary;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    summary.live += is_finite(theta[i]);
    summary.forced += theta[i] == T(INFINITY);
    summary.has_nan = summary.has_nan || theta[i] != theta[i];
  }
  const RowKind kind = row_kind(summary, k);
  const bool ordinary = kind == RowKind::kOrdinary;
  const bool flipped = ordinary && 2 * k > n;
  const int target = !ordinary ? 0 : static_cast<int>(flipped ? n - k : k);
  const T s = ordinary ? -middle_of_sorted(theta, static_cast<int>(k)) : T(0);

#pragma unroll
  for (int i = 0; i < kItems; ++i) change[i] = T(0);
  if (kBackward && request.grad_marginals != nullptr) {
    load_row(request.grad_marginals + r * n, n, in_words, T(0), change);
    T variance = T(0), sum = T(0);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const Probabilities<T> item = probabilities(theta[i] + s);
      const T qp = item.q * item.p;
      if (!(qp > T(0))) change[i] = T(0);
      variance += qp;
      sum += qp * change[i];
    }
    const bool varies = variance > T(kNoVariance);
    const T centre = varies ? sum / variance : T(0);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const Probabilities<T> item = probabilities(theta[i] + s);
      change[i] = varies ? item.q * item.p * (change[i] - centre) : T(0);
    }
  }

  RegisterLevel<Number, kItems, 1> leaves, adjoints;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const Probabilities<T> item = probabilities(theta[i] + s);
    // Padding is never counted, in either way of counting.
    Leaf<Number> leaf;
    make_leaf(item.q, item.p, change[i], flipped && i < n, leaf);
    leaves.of[i][0] = leaf.absent;
    leaves.of[i][1] = leaf.present;
  }
  const Number root = find_adjoints<kItems / 2>(leaves, target, adjoints);
  if (!kBackward && request.log_partition != nullptr) {
    request.log_partition[r] = log_partition_of(kind, theta, s, k, value_of(root));
  }
  const T slope =
      kBackward && request.grad_log_partition != nullptr ? request.grad_log_partition[r] : T(0);
  T result[kItems];
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const Leaf<Number> leaf = {leaves.of[i][0], leaves.of[i][1]};
    const Leaf<Number> adjoint = {adjoints.of[i][0], adjoints.of[i][1]};
    result[i] = item_result(kind, theta[i], marginal_of_leaf(flipped, leaf, adjoint), slope);
  }
  store_row(result, n, in_words, (kBackward ? request.grad_logits : request.marginals) + r * n);
}

bool is_word_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

template <class T, int kItems, bool kBackward>
int launch_threads(const Rows<T>& problem, const LinearRequest<T>& request, void* stream) {
  const void* const out = kBackward ? request.grad_logits : request.marginals;
  const bool in_words = problem.n == kItems && is_word_aligned(problem.logits) &&
                        is_word_aligned(out) && is_word_aligned(request.grad_marginals);
  const int64_t blocks = (problem.rows + kRowThreads - 1) / kRowThreads;
  return DG_LAUNCH((linear_threads_kernel<T, kItems, kBackward>), blocks, kRowThreads, 0, stream,
                   problem, request, in_words);
}

}  // namespace

template <class T, bool kBackward>
int linear_by_threads(const Rows<T>& problem, const LinearRequest<T>& request, void* stream) {
  constexpr int64_t kLongest = kLongestThreadRow<T, kBackward>;
  if (problem.n <= 4) return launch_threads<T, 4, kBackward>(problem, request, stream);
  if constexpr (kLongest >= 8) {
    if (problem.n <= 8) return launch_threads<T, 8, kBackward>(problem, request, stream);
  }
  if constexpr (kLongest >= 16) {
    if (problem.n <= 16) return launch_threads<T, 16, kBackward>(problem, request, stream);
  }
  return kInvalidConfiguration;
}

template int linear_by_threads<float, false>(const Rows<float>&, const LinearRequest<float>&,
                                             void*);
template int linear_by_threads<float, true>(const Rows<float>&, const LinearRequest<float>&, void*);
template int linear_by_threads<double, false>(const Rows<double>&, const LinearRequest<double>&,
                                              void*);
template int linear_by_threads<double, true>(const Rows<double>&, const LinearRequest<double>&,
                                             void*);

}  // namespace cuda
}  // namespace dg
