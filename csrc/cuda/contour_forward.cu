// SPDX-License-Identifier: Apache-2.0
//
// The contour of a row in the registers of a team: tilt, node weights, log-partition and marginals
// in one launch (docs/mathematics.md).
#include "cuda/contour_items.cuh"

namespace dg {
namespace cuda {

// What a team knows of its row.
template <class T>
struct SolvedRow {
  RowKind kind;
  T s;
  int64_t turns;  // items with q > 1/2, less k
  int64_t total;  // M
  int kept;
  T whole;  // M P(S = k)
};

// What is left of phi at the nodes, in table.re and table.im.
template <class T, class Shape>
DG_DEVICE void write_products(TeamOf<Shape>& team, int n, int kept, const RowItems<T, Shape>& tails,
                              NodeTable<T>& table) {
  constexpr int kTogether = NodeGroup<T>::kTogether;
  for (int first = 0; team.any(first < kept); first += kTogether) {
    const GroupAngles<T> angles(table, first);
    NodeProducts<T, kTogether> products = {};
    for_slots<Shape>(n, [&](int j) { angles.multiply_item(tails.of[j], products); });
    const auto factors = team.reduce(NodeFactors<T, kTogether>(products), CombineFactors());
    if (team.rank() == 0) {
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const Complex<T> product = factors.of[j].value();
        table.re[first + j] = product.re;
        table.im[first + j] = product.im;
      }
    }
  }
  team.sync();
}

// Leaves the tails at the tilt, and the weights and angles in the table.
template <class T, class Shape>
DG_DEVICE SolvedRow<T> solve_row(TeamOf<Shape>& team, const Rows<T>& rows, int64_t row, int n,
                                 const RowItems<T, Shape>& theta, RowItems<T, Shape>& tails,
                                 NodeTable<T>& table) {
  const T origin = origin_of_row(rows.logits + row * rows.n);
  SummarySums<T> look;
  for_slots<Shape>(n, [&](int j) { look.add(theta.of[j], origin); });
  const BasicRowSummary<T> summary = summary_of(team.reduce(look, CombineSummaries()), origin);
  const int64_t k = count_of_row(rows, row);
  SolvedRow<T> solved;
  solved.kind = row_kind(summary, k);
  const bool ordinary = solved.kind == RowKind::kOrdinary;
  const FoundTilt<T> tilt = find_tilt(team, ordinary, summary, k, T(kContourTilt), [&](T s) {
    TailSums<T> sums;
    for_slots<Shape>(n, [&](int j) {
      tails.of[j] = signed_tail(theta.of[j] + s);
      sums.add(tails.of[j]);
    });
    return team.reduce(sums, CombineTails());
  });
  solved.s = tilt.s;
  solved.turns = tilt.sums.above - k;
  solved.total = ordinary ? node_total(tilt.sums.variance, summary.live) : 1;
  fill_angles(team, tilt.sums.variance, solved.total, table);
  team.sync();
  solved.kept = kept_nodes(table);
  write_products<T, Shape>(team, n, solved.kept, tails, table);
  solved.whole = normalise_weights(team, solved.kept, solved.turns, solved.total, table);
  return solved;
}

// sum softplus(theta + s) - k s + log P(S = k). With e = e^{-|x|}, softplus is log(1 + e), and
// theta + s on top where x > 0. Where the subset is certain, the sum of its logits.
template <class T, class Shape>
DG_DEVICE T log_partition_of(TeamOf<Shape>& team, int n, const SolvedRow<T>& solved,
                             const RowItems<T, Shape>& theta, const RowItems<T, Shape>& tails) {
  const bool ordinary = solved.kind == RowKind::kOrdinary;
  ExactSum<T> sum = {T(0), T(0)};
  T product = T(0);  // prod (1 + e) - 1
  for_slots<Shape>(n, [&](int j) {
    const bool above = is_negative(tails.of[j]);
    const T w = above ? -tails.of[j] : tails.of[j];
    const T e = w / (T(1) - w);
    product += e + e * product;
    sum.add(is_finite(theta.of[j]) && (above || !ordinary) ? theta.of[j] : T(0));
  });
  if (ordinary) sum.add(std::log1p(product));
  sum = team.reduce(sum, AddExactly());
  if (solved.kind == RowKind::kInvalid) return T(NAN);
  if (solved.kind == RowKind::kNone) return T(0);
  if (solved.kind == RowKind::kAll) return static_cast<T>(sum.value());
  const double shift = static_cast<double>(solved.turns) * static_cast<double>(solved.s);
  const T log_probability = std::log(solved.whole / static_cast<T>(solved.total));
  return static_cast<T>(sum.value() + shift + static_cast<double>(log_probability));
}

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kBlockThreads, 1)
    contour_forward_kernel(Rows<T> rows, T* marginals, T* log_partition, T* states) {
  __shared__ NodeTable<T> tables[Shape::kTeams];
  TeamOf<Shape> team;
  const TeamRow row = row_of_team<Shape>(team, rows.rows);
  const int n = static_cast<int>(rows.n);
  NodeTable<T>& table = tables[team.index()];
  RowItems<T, Shape> theta, tails;
  theta.load(team, rows.logits + row.number * rows.n, n, -T(INFINITY));
  const SolvedRow<T> solved = solve_row<T, Shape>(team, rows, row.number, n, theta, tails, table);
  if (row.exists) {
    write_state(team, solved.kind, solved.s, solved.total, solved.kept, table,
                states + row.number * kContourStateWidth<T>);
  }
  if (log_partition != nullptr) {
    const T value = log_partition_of<T, Shape>(team, n, solved, theta, tails);
    if (row.exists && team.rank() == 0) log_partition[row.number] = value;
  }
  if (marginals == nullptr || !row.exists) return;
  T* const out = marginals + row.number * rows.n;
  if (solved.kind == RowKind::kOrdinary) {
    replace_by_marginals<T, Shape>(n, solved.kept, table, tails);
    tails.store(team, out, n);
  } else {
    replace_by_members<T, Shape>(n, solved.kind, theta);
    theta.store(team, out, n);
  }
}

template <class T>
int fused_forward(const Rows<T>& problem, T* marginals, T* log_partition, T* state, void* stream) {
  return with_fused_shape<T>(problem.n, [&](auto shape) {
    using Shape = decltype(shape);
    return DG_LAUNCH((contour_forward_kernel<T, Shape>), blocks_for<Shape>(problem.rows),
                     Shape::kBlockThreads, 0, stream, problem, marginals, log_partition, state);
  });
}

template int fused_forward<float>(const Rows<float>&, float*, float*, float*, void*);
template int fused_forward<double>(const Rows<double>&, double*, double*, double*, void*);

}  // namespace cuda
}  // namespace dg
