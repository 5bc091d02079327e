// SPDX-License-Identifier: Apache-2.0
//
// The product of the covariance of a k-subset with a vector, in the centred form: the gradient of
// the marginals (the Jacobian is the covariance, so this is the JVP too), O(n).
#pragma once

#include "cpu/simd/contour.h"

namespace dg {
inline namespace CPU_CAPABILITY {

// Below this the row is deterministic in working precision: its covariance is 0.
constexpr double kNoVariance = 1e-30;

template <class T>
double weighted_sum_segment(const T* tails, const T* g, int64_t begin, int64_t end) {
  using Lanes = Wide<T>;
  using Real = typename Lanes::Real;
  Real sum{};
  double total = 0.0;
  for_vectors<Lanes>(
      begin, end,
      [&](int64_t i, int count) {
        const Item<Lanes> item = unpack_item<Lanes>(load_items<Lanes>(tails, i, count, T(0)));
        sum += item.qp * load_items<Lanes>(g, i, count, T(0));
      },
      [&] {
        total += sum_lanes<Lanes>(sum);
        sum = Real{};
      });
  return total;
}

// D_m = sum_i (g_i - centre) d_im, for kTogether nodes.
template <class T, int kTogether>
void dot_nodes(const T* tails, const T* g, T centre, int64_t begin, int64_t end, const T* cotangent,
               Complex* dot) {
  using Lanes = Wide<T>;
  using Real = typename Lanes::Real;
  Real re[kTogether] = {}, im[kTogether] = {};
  for (int m = 0; m < kTogether; ++m) dot[m] = {0.0, 0.0};
  for_vectors<Lanes>(
      begin, end,
      [&](int64_t i, int count) {
        const Item<Lanes> item = unpack_item<Lanes>(load_items<Lanes>(tails, i, count, T(0)));
        const Real square = item.delta * item.delta;
        const Real scaled = T(2) * item.qp * (load_items<Lanes>(g, i, count, T(0)) - centre);
#pragma GCC unroll 4
        for (int m = 0; m < kTogether; ++m) {
          const Real part = scaled / (square + cotangent[m] * cotangent[m]);
          re[m] += part * item.delta;
          im[m] += part;
        }
      },
      [&] {
        for (int m = 0; m < kTogether; ++m) {
          dot[m].re += sum_lanes<Lanes>(re[m]);
          dot[m].im += sum_lanes<Lanes>(im[m]) * static_cast<double>(cotangent[m]);
          re[m] = im[m] = Real{};
        }
      });
}

template <class T>
void dot_nodes_segment(const T* tails, const T* g, T centre, int64_t begin, int64_t end,
                       const Nodes<T>& nodes, Complex* dot) {
  int m = 0;
  for (; m + 4 <= nodes.kept; m += 4) {
    dot_nodes<T, 4>(tails, g, centre, begin, end, nodes.cotangent + m, dot + m);
  }
  for (; m < nodes.kept; ++m) {
    dot_nodes<T, 1>(tails, g, centre, begin, end, nodes.cotangent + m, dot + m);
  }
}

// What the last pass knows of a row.
template <class T>
struct VjpTerms {
  T centre;
  T total_correction;  // R = sum_i r_i (g_i - centre)
  T grad_log_partition;
  bool has_covariance;
  ItemWeights<T> weights;  // W
  ItemWeights<T> dotted;   // W D
  T weight_im_2tau[kMostNodes];
};

// tails -> gradient, in place.
template <class T>
void vjp_segment(T* tails, const T* g, int64_t begin, int64_t end, const Nodes<T>& nodes,
                 const VjpTerms<T>& terms) {
  using Lanes = Wide<T>;
  using Real = typename Lanes::Real;
  for_vectors<Lanes>(
      begin, end,
      [&](int64_t i, int count) {
        const Item<Lanes> item = unpack_item<Lanes>(load_items<Lanes>(tails, i, count, T(0)));
        const Real square = item.delta * item.delta;
        Real first{}, dotted{}, second{};
        for (int m = 0; m < nodes.kept; ++m) {
          const T tau_square = terms.weights.tau_square[m];
          const Real inverse = T(1) / (square + tau_square);
          first += (terms.weights.re[m] * item.delta - terms.weights.im_tau[m]) * inverse;
          dotted += (terms.dotted.re[m] * item.delta - terms.dotted.im_tau[m]) * inverse;
          second +=
              (terms.weights.re[m] * (square - tau_square) - terms.weight_im_2tau[m] * item.delta) *
              (inverse * inverse);
        }
        const Real twice = T(2) * item.qp;
        const Real r = twice * first;
        const Real mu = item.q + r;
        Real out = mu * terms.grad_log_partition;
        if (terms.has_covariance) {
          const Real centred = load_items<Lanes>(g, i, count, T(0)) - terms.centre;
          out += twice * dotted - centred * (twice * twice * second) -
                 r * (terms.total_correction - r * centred) + mu * (item.p - r) * centred;
        }
        store_items<Lanes>(tails, i, count, out);
      },
      [] {});
}

// The row as the forward pass left it in `state`.
template <class T>
SolvedRow<T> restore_row(const T* row, int64_t n, const T* state, T* tails,
                         const Executor& executor, Workspace& work) {
  SolvedRow<T> solved;
  solved.tilted.s = state[0];
  solved.tilted.sums = tilt_row<T>(row, n, state[0], tails, executor, work);
  NodeCount count{static_cast<int64_t>(state[1]), 0};
  for (int m = 0; m < NodeRule<T>::kMaxNodes; ++m) {
    solved.weights.re[m] = static_cast<double>(state[2 + 2 * m]);
    solved.weights.im[m] = static_cast<double>(state[3 + 2 * m]);
    if (solved.weights.re[m] != 0.0 || solved.weights.im[m] != 0.0) count.kept = m + 1;
  }
  solved.nodes = make_nodes<T>(count);
  return solved;
}

template <class T>
void covariance_product(const SolvedRow<T>& solved, int64_t n, const T* g, T grad_log_partition,
                        T* tails, const Executor& executor, Workspace& work) {
  const Nodes<T>& nodes = solved.nodes;
  const double variance = solved.tilted.sums.variance;
  VjpTerms<T> terms{};
  terms.grad_log_partition = grad_log_partition;
  terms.weights = item_weights<T>(nodes, solved.weights.re, solved.weights.im);
  terms.has_covariance = g != nullptr && variance > kNoVariance;
  if (terms.has_covariance) {
    Buffer<double> sums(segment_count(n));
    auto weigh = [&](int64_t segment, int64_t first, int64_t last) {
      sums[segment] = weighted_sum_segment<T>(tails, g, first, last);
    };
    for_segments(n, executor, weigh);
    double total = 0.0;
    for (int64_t segment = 0; segment < segment_count(n); ++segment) total += sums[segment];
    terms.centre = static_cast<T>(total / variance);

    auto dot_body = [&](int64_t segment, int64_t first, int64_t last) {
      dot_nodes_segment<T>(tails, g, terms.centre, first, last, nodes,
                           work.products.get() + segment * kMostNodes);
    };
    for_segments(n, executor, dot_body);
    double dotted_re[kMostNodes], dotted_im[kMostNodes];
    double total_correction = 0.0;
    for (int m = 0; m < nodes.kept; ++m) {
      Complex dot{0.0, 0.0};
      for (int64_t segment = 0; segment < segment_count(n); ++segment) {
        dot.re += work.products[segment * kMostNodes + m].re;
        dot.im += work.products[segment * kMostNodes + m].im;
      }
      const Complex product = multiply({solved.weights.re[m], solved.weights.im[m]}, dot);
      dotted_re[m] = product.re;
      dotted_im[m] = product.im;
      total_correction += product.re;
      terms.weight_im_2tau[m] =
          static_cast<T>(2.0 * solved.weights.im[m] * static_cast<double>(nodes.cotangent[m]));
    }
    terms.dotted = item_weights<T>(nodes, dotted_re, dotted_im);
    terms.total_correction = static_cast<T>(total_correction);
  }
  auto finish = [&](int64_t, int64_t first, int64_t last) {
    vjp_segment<T>(tails, g, first, last, nodes, terms);
  };
  for_segments(n, executor, finish);
}

// The log-partition does not depend on the logit of a forced item, which is in every subset.
template <class T>
void zero_forced(const T* row, int64_t n, T* gradient) {
  for (int64_t i = 0; i < n; ++i) {
    if (row[i] == T(INFINITY)) gradient[i] = T(0);
  }
}

// The gradient of a row whose subset is certain: all its marginals are constants.
template <class T>
void certain_gradient(const T* row, int64_t n, RowKind kind, T grad_log_partition, T* gradient) {
  certain_marginals<T>(row, n, kind, gradient);
  for (int64_t i = 0; i < n; ++i) gradient[i] *= grad_log_partition;
  zero_forced<T>(row, n, gradient);
}

template <class T>
void contour_vjp(const Rows<T>& rows, int64_t begin, int64_t end, const T* state,
                 const T* grad_marginals, const T* grad_log_partition, T* grad_logits,
                 const Executor& executor) {
  const int64_t n = rows.n;
  Workspace work(n);
  for (int64_t r = begin; r < end; ++r) {
    const T* row = rows.logits + r * n;
    const T* g = grad_marginals == nullptr ? nullptr : grad_marginals + r * n;
    const T scale = grad_log_partition == nullptr ? T(0) : grad_log_partition[r];
    T* out = grad_logits + r * n;
    const T* saved = state == nullptr ? nullptr : state + r * contour_state_width<T>();
    if (saved != nullptr && is_solved(saved)) {
      const SolvedRow<T> solved = restore_row<T>(row, n, saved, out, executor, work);
      covariance_product<T>(solved, n, g, scale, out, executor, work);
      // Without it they are 0 as it is.
      if (scale != T(0)) zero_forced<T>(row, n, out);
      continue;
    }
    const RowSummary summary = summarize<T>(row, n, executor, work.summary.get());
    const RowKind kind = row_kind(summary, rows.row_count(r));
    if (kind == RowKind::kInvalid) {
      fill_row<T>(out, n, T(NAN));
    } else if (kind != RowKind::kOrdinary) {
      certain_gradient<T>(row, n, kind, scale, out);
    } else {
      const SolvedRow<T> solved =
          solve_row<T>(row, n, rows.row_count(r), summary, out, executor, work);
      covariance_product<T>(solved, n, g, scale, out, executor, work);
      if (summary.forced > 0) zero_forced<T>(row, n, out);
    }
  }
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
