// SPDX-License-Identifier: Apache-2.0
//
// The backward pass of the contour for a row in the registers of a team, from the state that the
// forward pass saved.
#include "cuda/vjp.cuh"

namespace dg {
namespace cuda {

// W D of each node; returns the real part of their sum, R. D is formed group by group.
template <class T, class Shape>
DG_DEVICE T write_dots(TeamOf<Shape>& team, int n, int kept, T centre,
                       const RowItems<T, Shape>& tails, const RowItems<T, Shape>& grad,
                       const NodeTable<T>& table, Complex<T>* dots) {
  constexpr int kTogether = NodeGroup<T>::kTogether;
  for (int first = 0; team.any(first < kept); first += kTogether) {
    const GroupTaus<T> taus(table, first);
    NodeDots<T, kTogether> sums = {};
    for_slots<Shape>(n, [&](int j) { taus.add_item(tails.of[j], grad.of[j] - centre, sums); });
    sums = team.reduce(sums, CombineDots());
    if (team.rank() == 0) {
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const int m = first + j;
        dots[m] =
            multiply<T>({table.re[m], table.im[m]}, {sums.of[j].re, sums.of[j].im * table.tau[m]});
      }
    }
  }
  team.sync();
  T total = T(0);
  for (int m = 0; m < kept; ++m) total += dots[m].re;
  return total;
}

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kBlockThreads, 1)
    contour_vjp_kernel(Rows<T> rows, const T* states, const T* grad_marginals,
                       const T* grad_log_partition, T* grad_logits) {
  __shared__ NodeTable<T> tables[Shape::kTeams];
  __shared__ Complex<T> dots_of_teams[Shape::kTeams][kNodesRoom<T>];
  TeamOf<Shape> team;
  const TeamRow row = row_of_team<Shape>(team, rows.rows);
  const int n = static_cast<int>(rows.n);
  NodeTable<T>& table = tables[team.index()];
  Complex<T>* const dots = dots_of_teams[team.index()];
  const T* const state = states + row.number * kContourStateWidth<T>;

  VjpTerms<T> terms = {};
  if (grad_log_partition != nullptr) terms.grad_log_partition = grad_log_partition[row.number];
  const T s = state[0];
  const bool ordinary = is_finite(s);
  const int kept = read_state(team, ordinary, state, table);
  RowItems<T, Shape> items, grad = {};
  items.load(team, rows.logits + row.number * rows.n, n, -T(INFINITY));
  unsigned forced = 0;
  if (ordinary) {
    forced = replace_by_tails<T, Shape>(n, s, items);
  } else {
    replace_by_certain_gradient<T, Shape>(n, s, terms.grad_log_partition, items);
  }
  if (grad_marginals != nullptr) {
    grad.load(team, grad_marginals + row.number * rows.n, n, T(0));
    Sums<T, 2> sums = {};  // V, sum q p g
    for_slots<Shape>(n, [&](int j) {
      const T qp = unpack_item(items.of[j]).qp;
      if (!(qp > T(0))) grad.of[j] = T(0);
      sums.of[0] += qp;
      sums.of[1] += qp * grad.of[j];
    });
    sums = team.reduce(sums, Add());
    terms.has_covariance = ordinary && sums.of[0] > T(kNoVariance);
    if (terms.has_covariance) terms.centre = sums.of[1] / sums.of[0];
    terms.total_correction =
        write_dots<T, Shape>(team, n, kept, terms.centre, items, grad, table, dots);
  }
  if (!row.exists) return;
  if (ordinary) replace_by_gradient<T, Shape>(n, kept, forced, grad, table, dots, terms, items);
  items.store(team, grad_logits + row.number * rows.n, n);
}

template <class T>
int fused_vjp(const Rows<T>& problem, const T* state, const T* grad_marginals,
              const T* grad_log_partition, T* grad_logits, void* stream) {
  return with_fused_shape<T>(problem.n, [&](auto shape) {
    using Shape = decltype(shape);
    return DG_LAUNCH((contour_vjp_kernel<T, Shape>), blocks_for<Shape>(problem.rows),
                     Shape::kBlockThreads, 0, stream, problem, state, grad_marginals,
                     grad_log_partition, grad_logits);
  });
}

template int fused_vjp<float>(const Rows<float>&, const float*, const float*, const float*, float*,
                              void*);
template int fused_vjp<double>(const Rows<double>&, const double*, const double*, const double*,
                               double*, void*);

}  // namespace cuda
}  // namespace dg
