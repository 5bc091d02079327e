// SPDX-License-Identifier: Apache-2.0
//
// Long rows, shared out over several blocks: the backward pass, from the state.
#include "cuda/split.cuh"
#include "cuda/vjp.cuh"

namespace dg {
namespace cuda {

// A part's record: V and sum q p g; then sum (g - centre) d_m for each node.
constexpr int kMeanRecord = 2;
template <class T>
constexpr int kDotRecord = 2 * kNodesRoom<T>;

template <class T>
__global__ void __launch_bounds__(kSplitThreads)
    split_means_kernel(Rows<T> rows, Split split, const T* states, const T* grad, double* means) {
  SplitTeam team;
  const Part part(split, rows.n);
  const T s = states[part.row * kContourStateWidth<T>];
  if (!team.any(is_finite(s))) return;
  const T* const row = rows.logits + part.row * rows.n;
  const T* const g = grad + part.row * rows.n;
  Sums<double, 2> all = {};
  T variance = T(0), sum = T(0);
  for_items(
      part.begin, part.end,
      [&](int64_t i) {
        const T qp = unpack_item(signed_tail(row[i] + s)).qp;
        variance += qp;
        if (qp > T(0)) sum += qp * g[i];
      },
      [&] {
        all.of[0] += variance;
        all.of[1] += sum;
        variance = sum = T(0);
      });
  all = team.reduce(all, Add());
  if (team.rank() != 0) return;
  means[part.block * kMeanRecord] = all.of[0];
  means[part.block * kMeanRecord + 1] = all.of[1];
}

// The centre of g, and whether the row has a covariance at all.
template <class T>
DG_DEVICE void set_centre(SplitTeam& team, Split split, int64_t row, const double* means,
                          VjpTerms<T>& terms) {
  const Sums<double, 2> sums =
      sum_of_parts<2>(team, means + row * split.parts * kMeanRecord, split.parts, kMeanRecord);
  terms.has_covariance = sums.of[0] > kNoVariance;
  terms.centre = terms.has_covariance ? static_cast<T>(sums.of[1] / sums.of[0]) : T(0);
}

template <class T>
__global__ void __launch_bounds__(kSplitThreads)
    split_dots_kernel(Rows<T> rows, Split split, const T* states, const T* grad,
                      const double* means, double* partial) {
  constexpr int kTogether = NodeGroup<T>::kTogether;
  __shared__ NodeTable<T> table;
  SplitTeam team;
  const Part part(split, rows.n);
  const T* const state = states + part.row * kContourStateWidth<T>;
  const T s = state[0];
  if (!team.any(is_finite(s))) return;
  const T* const row = rows.logits + part.row * rows.n;
  const T* const g = grad + part.row * rows.n;
  VjpTerms<T> terms = {};
  set_centre(team, split, part.row, means, terms);
  if (!team.any(terms.has_covariance)) return;
  const int kept = read_state(team, /*ordinary=*/true, state, table);
  for (int first = 0; team.any(first < kept); first += kTogether) {
    const GroupTaus<T> taus(table, first);
    NodeDots<double, kTogether> all = {};
    NodeDots<T, kTogether> some = {};
    for_items(
        part.begin, part.end,
        [&](int64_t i) {
          const T tail = signed_tail(row[i] + s);
          const bool varies = unpack_item(tail).qp > T(0);
          taus.add_item(tail, varies ? g[i] - terms.centre : T(0), some);
        },
        [&] {
#pragma unroll
          for (int j = 0; j < kTogether; ++j) {
            all.of[j].re += some.of[j].re;
            all.of[j].im += some.of[j].im;
            some.of[j] = {T(0), T(0)};
          }
        });
    all = team.reduce(all, CombineDots());
    if (team.rank() == 0) {
      double* const record = partial + part.block * kDotRecord<T>;
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        record[2 * (first + j)] = all.of[j].re;
        record[2 * (first + j) + 1] = all.of[j].im;
      }
    }
  }
}

// W D of a row's nodes from the sums of its parts; returns their sum's real part.
template <class T>
DG_DEVICE T dots_of_parts(SplitTeam& team, Split split, const double* partial, int kept,
                          const NodeTable<T>& table, Complex<T>* dots) {
  constexpr int kTogether = NodeGroup<double>::kTogether;
  for (int first = 0; team.any(first < kept); first += kTogether) {
    NodeDots<double, kTogether> sums = {};
    for (int64_t part = team.rank(); part < split.parts; part += kSplitThreads) {
      const double* const record = partial + part * kDotRecord<T>;
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        if (first + j >= kept) continue;
        sums.of[j].re += record[2 * (first + j)];
        sums.of[j].im += record[2 * (first + j) + 1];
      }
    }
    sums = team.reduce(sums, CombineDots());
    if (team.rank() == 0) {
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const int m = first + j;
        if (m >= kept) continue;
        const double tau = table.tau[m];
        const Complex<double> dot =
            multiply<double>({table.re[m], table.im[m]}, {sums.of[j].re, sums.of[j].im * tau});
        dots[m] = {static_cast<T>(dot.re), static_cast<T>(dot.im)};
      }
    }
  }
  team.sync();
  T total = T(0);
  for (int m = 0; m < kept; ++m) total += dots[m].re;
  return total;
}

template <class T>
__global__ void __launch_bounds__(kSplitThreads)
    split_gradient_kernel(Rows<T> rows, Split split, const T* states, const T* grad_marginals,
                          const T* grad_log_partition, const double* means, const double* partial,
                          T* grad_logits) {
  __shared__ NodeTable<T> table;
  __shared__ Complex<T> dots[kNodesRoom<T>];
  SplitTeam team;
  const Part part(split, rows.n);
  const T* const state = states + part.row * kContourStateWidth<T>;
  const T s = state[0];
  VjpTerms<T> terms = {};
  if (grad_log_partition != nullptr) terms.grad_log_partition = grad_log_partition[part.row];
  const bool ordinary = is_finite(s);
  const int kept = read_state(team, ordinary, state, table);
  if (grad_marginals != nullptr && team.any(ordinary)) {
    set_centre(team, split, part.row, means, terms);
    if (team.any(terms.has_covariance)) {
      terms.total_correction = dots_of_parts(
          team, split, partial + part.row * split.parts * kDotRecord<T>, kept, table, dots);
    }
  }
  for (int64_t at = part.begin; at < part.end; at += kSplitTileItems) {
    const int left =
        static_cast<int>(part.end - at < kSplitTileItems ? part.end - at : kSplitTileItems);
    const int64_t offset = part.row * rows.n + at;
    RowItems<T, SplitTile> items, grad = {};
    items.load(team, rows.logits + offset, left, -T(INFINITY));
    if (ordinary) {
      if (terms.has_covariance) grad.load(team, grad_marginals + offset, left, T(0));
      const unsigned forced = replace_by_tails<T, SplitTile>(left, s, items);
      replace_by_gradient<T, SplitTile>(left, kept, forced, grad, table, dots, terms, items);
    } else {
      replace_by_certain_gradient<T, SplitTile>(left, s, terms.grad_log_partition, items);
    }
    items.store(team, grad_logits + offset, left);
  }
}

template <class T>
size_t split_vjp_scratch_bytes(int64_t rows, Split split) {
  return static_cast<size_t>(rows * split.parts) * (kMeanRecord + kDotRecord<T>)*sizeof(double);
}

template <class T>
int split_vjp(const Rows<T>& problem, Split split, const T* state, const T* grad_marginals,
              const T* grad_log_partition, T* grad_logits, void* scratch, void* stream) {
  const int64_t blocks = problem.rows * split.parts;
  double* const means = static_cast<double*>(scratch);
  double* const partial = means + blocks * kMeanRecord;
  if (grad_marginals != nullptr) {
    int error = DG_LAUNCH(split_means_kernel<T>, blocks, kSplitThreads, 0, stream, problem, split,
                          state, grad_marginals, means);
    if (error != 0) return error;
    error = DG_LAUNCH(split_dots_kernel<T>, blocks, kSplitThreads, 0, stream, problem, split, state,
                      grad_marginals, means, partial);
    if (error != 0) return error;
  }
  return DG_LAUNCH(split_gradient_kernel<T>, blocks, kSplitThreads, 0, stream, problem, split,
                   state, grad_marginals, grad_log_partition, means, partial, grad_logits);
}

template size_t split_vjp_scratch_bytes<float>(int64_t, Split);
template size_t split_vjp_scratch_bytes<double>(int64_t, Split);
template int split_vjp<float>(const Rows<float>&, Split, const float*, const float*, const float*,
                              float*, void*, void*);
template int split_vjp<double>(const Rows<double>&, Split, const double*, const double*,
                               const double*, double*, void*, void*);

}  // namespace cuda
}  // namespace dg
