// SPDX-License-Identifier: Apache-2.0
//
// The law of the number of successes (Poisson-binomial) in the log algebra, with its first and
// second derivatives by the outside pass.
#pragma once

#include "cpu/simd/lane_groups.h"

namespace dg {
inline namespace CPU_CAPABILITY {

// Untilted: item i succeeds with probability sigmoid(theta_i).
template <class Lanes>
void load_counts(const Rows<typename Lanes::Scalar>& problem, int64_t first, int count,
                 const TreePlan& plan, LaneRows<Lanes>& rows, typename Lanes::Real* values) {
  rows.load_rows(problem, first, count);
  for (int64_t i = 0; i < problem.n; ++i) {
    const LogSigmoid<Lanes> log_of = log_sigmoid<Lanes>(rows.theta(i));
    values[plan.leaf_offset(i)] = log_of.of_minus;
    values[plan.leaf_offset(i) + 1] = log_of.of_plus;
  }
}

// problem.k is the largest count; the result has k + 1 columns, -inf beyond n.
template <class T>
void count_log_prob(const Rows<T>& problem, int64_t begin, int64_t end, T* log_prob) {
  const int64_t columns = problem.k + 1;
  const TreePlan plan(problem.n, problem.k);
  for_lane_groups<T>(begin, end, problem.n, [&](int64_t first, int count, auto& rows) {
    using Lanes = typename std::decay_t<decltype(rows)>::LanesType;
    using Real = typename Lanes::Real;
    Buffer<Real> values(plan.size());
    load_counts<Lanes>(problem, first, count, plan, rows, values.get());
    tree_up<LogAlgebra<Lanes>>(plan, values.get(), 0);
    const Real* root = values.get() + plan.offset(1);
    for (int64_t j = 0; j < columns; ++j) {
      const Real value = j <= plan.degree(1) ? root[j] : splat<Lanes>(-T(INFINITY));
      write_lane<Lanes>(value, count, j, columns, log_prob + first * columns);
    }
    for (int l = 0; l < count; ++l) {
      if (rows.has_nan(l)) fill_row<T>(log_prob + (first + l) * columns, columns, T(NAN));
    }
  });
}

// `derivative`, or 0 of a count that is impossible. The joins see to that; a single item has none.
template <class Lanes>
DG_INLINE typename Lanes::Real unless_impossible(typename Lanes::Real log_prob,
                                                 typename Lanes::Real derivative) {
  using T = typename Lanes::Scalar;
  return select(log_prob == splat<Lanes>(-T(INFINITY)), typename Lanes::Real{}, derivative);
}

template <class T>
void count_log_prob_vjp(const Rows<T>& problem, int64_t begin, int64_t end, const T* grad,
                        T* grad_logits) {
  const int64_t n = problem.n, columns = problem.k + 1;
  const TreePlan plan(n, problem.k);
  for_lane_groups<T>(begin, end, n, [&](int64_t first, int count, auto& rows) {
    using Lanes = typename std::decay_t<decltype(rows)>::LanesType;
    using Real = typename Lanes::Real;
    using Algebra = LogAlgebra<Lanes>;
    Buffer<Real> values(plan.size()), adjoints(plan.size());
    load_counts<Lanes>(problem, first, count, plan, rows, values.get());
    tree_up<Algebra>(plan, values.get(), 0);
    for (int64_t i = 0; i < n; ++i) adjoints[plan.leaf_offset(i) + 1] = Real{};
    for (int64_t j = 0; j <= plan.degree(1); ++j) {
      const Real upstream = read_lanes<Lanes>(grad, first, count, j, columns);
      adjoints[plan.offset(1) + j] = unless_impossible<Lanes>(values[plan.offset(1) + j], upstream);
    }
    tree_down<Algebra>(plan, values.get(), adjoints.get(), 0);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t at = plan.leaf_offset(i);
      const Item<Lanes> item = untilted_item<Lanes>(rows.theta(i));
      const Real out = adjoints[at + 1] * item.p - adjoints[at] * item.q;
      write_lane<Lanes>(out, count, i, n, grad_logits + first * n);
    }
    for (int l = 0; l < count; ++l) {
      if (rows.has_nan(l)) fill_row<T>(grad_logits + (first + l) * n, n, T(NAN));
    }
  });
}

template <class T>
void count_log_prob_vjp_backward(const Rows<T>& problem, int64_t begin, int64_t end, const T* grad,
                                 const T* tangent, T* grad_grad, T* grad_logits) {
  const int64_t n = problem.n, columns = problem.k + 1;
  const TreePlan plan(n, problem.k);
  for_lane_groups<T>(begin, end, n, [&](int64_t first, int count, auto& rows) {
    using Lanes = typename std::decay_t<decltype(rows)>::LanesType;
    using Real = typename Lanes::Real;
    using Number = Dual<Real>;
    using Algebra = LogDualAlgebra<Lanes>;
    rows.load_rows(problem, first, count);
    Buffer<Number> values(plan.size()), adjoints(plan.size());
    for (int64_t i = 0; i < n; ++i) {
      const LogSigmoid<Lanes> log_of = log_sigmoid<Lanes>(rows.theta(i));
      const Item<Lanes> item = untilted_item<Lanes>(rows.theta(i));
      const Real direction = read_lanes<Lanes>(tangent, first, count, i, n);
      const int64_t at = plan.leaf_offset(i);
      values[at] = {log_of.of_minus, -item.q * direction};
      values[at + 1] = {log_of.of_plus, item.p * direction};
      adjoints[at + 1] = Number{};
    }
    tree_up<Algebra>(plan, values.get(), 0);
    for (int64_t j = 0; j < columns; ++j) {
      Real change{};
      if (j <= plan.degree(1)) {
        const Number root = values[plan.offset(1) + j];
        change = unless_impossible<Lanes>(root.v, root.d);
        const Real upstream = read_lanes<Lanes>(grad, first, count, j, columns);
        adjoints[plan.offset(1) + j] = {unless_impossible<Lanes>(root.v, upstream), Real{}};
      }
      write_lane<Lanes>(change, count, j, columns, grad_grad + first * columns);
    }
    tree_down<Algebra>(plan, values.get(), adjoints.get(), 0);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t at = plan.leaf_offset(i);
      const Item<Lanes> item = untilted_item<Lanes>(rows.theta(i));
      const Real direction = read_lanes<Lanes>(tangent, first, count, i, n);
      const Real out = adjoints[at + 1].d * item.p - adjoints[at].d * item.q -
                       (adjoints[at + 1].v + adjoints[at].v) * item.qp * direction;
      write_lane<Lanes>(out, count, i, n, grad_logits + first * n);
    }
    for (int l = 0; l < count; ++l) {
      if (!rows.has_nan(l)) continue;
      fill_row<T>(grad_grad + (first + l) * columns, columns, T(NAN));
      fill_row<T>(grad_logits + (first + l) * n, n, T(NAN));
    }
  });
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
