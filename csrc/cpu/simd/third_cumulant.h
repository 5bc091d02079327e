// SPDX-License-Identifier: Apache-2.0
//
// The third cumulant of a k-subset contracted with two vectors: the derivative of the
// vector-Jacobian product, O(n). It is the law of total cumulance over the nodes of the contour
// (docs/mathematics.md, "The third cumulant"), always in double: it serves second derivatives,
// where accuracy matters and speed little.
#pragma once

#include "cpu/simd/contour_vjp.h"

namespace dg {
inline namespace CPU_CAPABILITY {

DG_INLINE Complex plus(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
DG_INLINE Complex scaled(Complex a, double factor) { return {a.re * factor, a.im * factor}; }

// Per item and node: d, e' = e (1 - e) and e'' = e' (1 - 2 e) with e = q + d.
struct NodeDerivatives {
  Complex d, first, second;
};

DG_INLINE NodeDerivatives node_derivatives(double q, double p, double tau) {
  const double delta = q - p;
  const double factor = 2.0 * q * p / (delta * delta + tau * tau);
  NodeDerivatives result;
  result.d = {factor * delta, factor * tau};
  const Complex e = {q + result.d.re, result.d.im};
  const Complex rest = {p - result.d.re, -result.d.im};
  result.first = multiply(e, rest);
  result.second = multiply(result.first, {rest.re - e.re, rest.im - e.im});
  return result;
}

struct NodeSums {
  Complex a, b, ab;  // sum a d, sum b d, sum a b e'
};

// Node 0 (t = 0, where d = 0) comes first here, since e' and e'' do not vanish there.
struct CumulantNodes {
  int count;
  double tau[kMostNodes + 1];
  Complex weight[kMostNodes + 1];
};

DG_INLINE NodeDerivatives derivatives_at(const CumulantNodes& nodes, int m, double q, double p) {
  if (m > 0) return node_derivatives(q, p, nodes.tau[m]);
  return {{0.0, 0.0}, {q * p, 0.0}, {q * p * (p - q), 0.0}};
}

DG_INLINE void tail_probabilities(double signed_tail, double* q, double* p) {
  const double w = std::fabs(signed_tail);
  const bool above = std::signbit(signed_tail);
  *q = above ? 1.0 - w : w;
  *p = above ? w : 1.0 - w;
}

static void third_cumulant_row(const SolvedRow<double>& solved, int64_t n, const double* tails,
                               const double* a, const double* b, double* out) {
  CumulantNodes nodes;
  nodes.count = solved.nodes.kept + 1;
  nodes.weight[0] = {1.0, 0.0};
  nodes.tau[0] = 0.0;
  for (int m = 1; m < nodes.count; ++m) {
    nodes.tau[m] = solved.nodes.cotangent[m - 1];
    nodes.weight[m] = {solved.weights.re[m - 1], solved.weights.im[m - 1]};
    nodes.weight[0].re -= nodes.weight[m].re;
  }
  // A constant added to a or b changes nothing, since the count is certain: centre both.
  double sum_a = 0.0, sum_b = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    double q, p;
    tail_probabilities(tails[i], &q, &p);
    sum_a += q * p * a[i];
    sum_b += q * p * b[i];
  }
  const double centre_a = sum_a / solved.tilted.sums.variance;
  const double centre_b = sum_b / solved.tilted.sums.variance;

  NodeSums sums[kMostNodes + 1] = {};
  for (int64_t i = 0; i < n; ++i) {
    double q, p;
    tail_probabilities(tails[i], &q, &p);
    const double u = a[i] - centre_a, v = b[i] - centre_b;
    for (int m = 0; m < nodes.count; ++m) {
      const NodeDerivatives at = derivatives_at(nodes, m, q, p);
      sums[m].a = plus(sums[m].a, scaled(at.d, u));
      sums[m].b = plus(sums[m].b, scaled(at.d, v));
      sums[m].ab = plus(sums[m].ab, scaled(at.first, u * v));
    }
  }
  NodeSums mean{};
  for (int m = 0; m < nodes.count; ++m) {
    mean.a.re += multiply(nodes.weight[m], sums[m].a).re;
    mean.b.re += multiply(nodes.weight[m], sums[m].b).re;
    mean.ab.re += multiply(nodes.weight[m], sums[m].ab).re;
  }
  Complex joint[kMostNodes + 1];
  for (int m = 0; m < nodes.count; ++m) {
    sums[m].a.re -= mean.a.re;
    sums[m].b.re -= mean.b.re;
    sums[m].ab.re -= mean.ab.re;
    joint[m] = plus(sums[m].ab, multiply(sums[m].a, sums[m].b));
  }

  for (int64_t i = 0; i < n; ++i) {
    double q, p;
    tail_probabilities(tails[i], &q, &p);
    const double u = a[i] - centre_a, v = b[i] - centre_b;
    double r = 0.0;
    for (int m = 1; m < nodes.count; ++m) {
      r += multiply(nodes.weight[m], derivatives_at(nodes, m, q, p).d).re;
    }
    double total = 0.0;
    for (int m = 0; m < nodes.count; ++m) {
      const NodeDerivatives at = derivatives_at(nodes, m, q, p);
      Complex term = scaled(at.second, u * v);
      term = plus(term, multiply(at.first, plus(scaled(sums[m].b, u), scaled(sums[m].a, v))));
      term = plus(term, multiply({at.d.re - r, at.d.im}, joint[m]));
      total += multiply(nodes.weight[m], term).re;
    }
    out[i] = total;
  }
}

template <class T>
void third_cumulant(const Rows<T>& rows, int64_t begin, int64_t end, const T* a, const T* b, T* out,
                    const Executor& executor) {
  const int64_t n = rows.n;
  Workspace work(n);
  Buffer<double> scratch(5 * n);
  double* row = scratch.get();
  double* row_a = row + n;
  double* row_b = row_a + n;
  double* tails = row_b + n;
  double* result = tails + n;
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t i = 0; i < n; ++i) {
      row[i] = static_cast<double>(rows.logits[r * n + i]);
      row_a[i] = static_cast<double>(a[r * n + i]);
      row_b[i] = static_cast<double>(b[r * n + i]);
    }
    const RowSummary summary = summarize<double>(row, n, executor, work.summary.get());
    const RowKind kind = row_kind(summary, rows.row_count(r));
    if (kind != RowKind::kOrdinary) {
      fill_row<T>(out + r * n, n, kind == RowKind::kInvalid ? T(NAN) : T(0));
      continue;
    }
    const SolvedRow<double> solved =
        solve_row<double>(row, n, rows.row_count(r), summary, tails, executor, work);
    if (!(solved.tilted.sums.variance > kNoVariance)) {
      fill_row<T>(out + r * n, n, T(0));
      continue;
    }
    third_cumulant_row(solved, n, tails, row_a, row_b, result);
    for (int64_t i = 0; i < n; ++i) out[r * n + i] = static_cast<T>(result[i]);
  }
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
