// SPDX-License-Identifier: Apache-2.0
//
// method="contour": marginals and log-partition in O(n), and the vector-Jacobian product.
#pragma once

#include "cpu/simd/contour_solve.h"

namespace dg {
inline namespace CPU_CAPABILITY {

template <class T>
void fill_row(T* row, int64_t n, T value) {
  for (int64_t i = 0; i < n; ++i) row[i] = value;
}

// Marginals of a row whose subset is certain: forced items only, or all but the excluded ones.
template <class T>
void certain_marginals(const T* row, int64_t n, RowKind kind, T* marginals) {
  for (int64_t i = 0; i < n; ++i) {
    const bool chosen = kind == RowKind::kNone ? row[i] == T(INFINITY) : row[i] > -T(INFINITY);
    marginals[i] = chosen ? T(1) : T(0);
  }
}

template <class T>
double certain_log_partition(const T* row, int64_t n, RowKind kind) {
  if (kind == RowKind::kNone) return 0.0;
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    if (row[i] > -T(INFINITY) && row[i] < T(INFINITY)) sum += static_cast<double>(row[i]);
  }
  return sum;
}

// Node weights as the item passes read them.
template <class T>
struct ItemWeights {
  T re[kMostNodes];
  T im_tau[kMostNodes];
  T tau_square[kMostNodes];
};

template <class T>
DG_INLINE ItemWeights<T> item_weights(const Nodes<T>& nodes, const double* re, const double* im) {
  ItemWeights<T> weights;
  for (int m = 0; m < nodes.kept; ++m) {
    const double tau = static_cast<double>(nodes.cotangent[m]);
    weights.re[m] = static_cast<T>(re[m]);
    weights.im_tau[m] = static_cast<T>(im[m] * tau);
    weights.tau_square[m] = static_cast<T>(tau * tau);
  }
  return weights;
}

// tails -> marginals, in place.
template <class T>
void marginals_segment(T* tails, int64_t begin, int64_t end, const Nodes<T>& nodes,
                       const ItemWeights<T>& weights) {
  using Lanes = Wide<T>;
  for_vectors<Lanes>(
      begin, end,
      [&](int64_t i, int count) {
        const Item<Lanes> item = unpack_item<Lanes>(load_items<Lanes>(tails, i, count, T(0)));
        const auto r =
            correction<Lanes>(item, nodes, weights.re, weights.im_tau, weights.tau_square);
        const auto mu = item.q + r;
        // Rounding may leave the smallest a little below 0, the largest a little above 1.
        const auto zero = splat<Lanes>(T(0)), one = splat<Lanes>(T(1));
        store_items<Lanes>(tails, i, count, select(mu < zero, zero, select(mu > one, one, mu)));
      },
      [] {});
}

template <class T>
void write_state(const SolvedRow<T>& solved, T* state) {
  static_assert(contour_state_width<T>() == 2 + 2 * NodeRule<T>::kMaxNodes, "room for each node");
  fill_row<T>(state, contour_state_width<T>(), T(0));
  state[0] = solved.tilted.s;
  state[1] = static_cast<T>(solved.nodes.total);
  for (int m = 0; m < solved.nodes.kept; ++m) {
    state[2 + 2 * m] = static_cast<T>(solved.weights.re[m]);
    state[3 + 2 * m] = static_cast<T>(solved.weights.im[m]);
  }
}

// Whether the row was an ordinary one: of others the number of nodes is left 0, or NaN.
template <class T>
DG_INLINE bool is_solved(const T* state) {
  return state[1] > T(0);
}

template <class T>
void contour_forward(const Rows<T>& rows, int64_t begin, int64_t end, T* marginals,
                     T* log_partition, T* state, const Executor& executor) {
  const int64_t n = rows.n;
  const int width = contour_state_width<T>();
  Workspace work(n);
  for (int64_t r = begin; r < end; ++r) {
    const T* row = rows.logits + r * n;
    T* mu = marginals + r * n;
    T* saved = state + r * width;
    const int64_t k = rows.row_count(r);
    const RowSummary summary = summarize<T>(row, n, executor, work.summary.get());
    const RowKind kind = row_kind(summary, k);
    if (kind == RowKind::kInvalid) {
      fill_row<T>(mu, n, T(NAN));
      fill_row<T>(saved, width, T(NAN));
      log_partition[r] = T(NAN);
      continue;
    }
    if (kind != RowKind::kOrdinary) {
      certain_marginals<T>(row, n, kind, mu);
      fill_row<T>(saved, width, T(0));
      log_partition[r] = static_cast<T>(certain_log_partition<T>(row, n, kind));
      continue;
    }
    const SolvedRow<T> solved = solve_row<T>(row, n, k, summary, mu, executor, work);
    const ItemWeights<T> weights =
        item_weights<T>(solved.nodes, solved.weights.re, solved.weights.im);
    auto body = [&](int64_t segment, int64_t first, int64_t last) {
      work.softplus[segment] = softplus_segment<T>(row, mu, first, last);
      marginals_segment<T>(mu, first, last, solved.nodes, weights);
    };
    for_segments(n, executor, body);
    double theta_above = 0.0, log_rest = 0.0;
    for (int64_t segment = 0; segment < segment_count(n); ++segment) {
      theta_above += work.softplus[segment].theta_above;
      log_rest += work.softplus[segment].log_rest;
    }
    const double shift =
        static_cast<double>(solved.tilted.sums.above - k) * static_cast<double>(solved.tilted.s);
    log_partition[r] =
        static_cast<T>(theta_above + shift + log_rest + solved.weights.log_probability);
    write_state<T>(solved, saved);
  }
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
