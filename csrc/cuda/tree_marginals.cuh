// SPDX-License-Identifier: Apache-2.0
//
// Marginals by the tree in the log algebra: from logits to leaves, over the root, and from the
// leaves' adjoints to marginals.
//
// The rows are tilted, so that logarithms stay small. A row with more chosen than unchosen items
// counts the unchosen ones: its tree keeps lower degrees.
#pragma once

#include "cuda/row.cuh"
#include "cuda/tree_levels.cuh"

namespace dg {
namespace cuda {

// The tree is exact for any tilt; the tilt only keeps its numbers small. Below 1: in a wide gap
// after one item too few or too many, sum q is off by exactly 1.
constexpr float kTreeTilt = 0.3f;

// What is known of a row beside its tree.
struct TreeRow {
  double outside;  // log Z without log P(S = k); log Z itself where the subset is certain
  int64_t target;  // items that the tree counts
  RowKind kind;
  int flipped;  // whether these are the unchosen ones
};

// log p and log q of an item at x, and log(1 + e^-|x|), which they share: it keeps the logarithm of
// a probability that is itself too small to be represented.
template <class T>
struct LogLeaf {
  T absent, present, shared;
};
template <class T>
DG_DEVICE LogLeaf<T> log_leaf(T x) {
  const bool above = x > T(0);
  const T shared = std::log1p(std::exp(above ? -x : x));
  return {(above ? -x : T(0)) - shared, (above ? T(0) : x) - shared, shared};
}

// Tilts a row and writes its leaves; every member of the team gets what is known of the row.
template <class T, int kThreads>
DG_DEVICE TreeRow open_tree_row(Team<kThreads>& team, const Rows<T>& problem, int64_t r,
                                T* leaves) {
  const T* row = problem.logits + r * problem.n;
  const int64_t n = problem.n, k = count_of_row(problem, r);
  const BasicRowSummary<T> summary = summarize_row(team, row, n);
  TreeRow out;
  out.kind = row_kind(summary, k);
  const bool ordinary = out.kind == RowKind::kOrdinary;
  out.flipped = ordinary && 2 * k > n ? 1 : 0;
  out.target = !ordinary ? 0 : out.flipped ? n - k : k;
  const T s = ordinary ? find_tilt_of_row(team, row, n, summary, k, T(kTreeTilt)).s : T(0);
  Sums<double, 3> sums{};  // of finite logits, counted where ordinary rows have x > 0; log1p; above
  for (int64_t i = team.rank(); i < n; i += kThreads) {
    const T theta = row[i], x = theta + s;
    const LogLeaf<T> leaf = log_leaf(x);
    leaves[2 * i] = out.flipped ? leaf.present : leaf.absent;
    leaves[2 * i + 1] = out.flipped ? leaf.absent : leaf.present;
    const bool above = x > T(0);
    if (is_finite(theta) && (above || !ordinary)) sums.of[0] += static_cast<double>(theta);
    sums.of[1] += static_cast<double>(leaf.shared);
    sums.of[2] += above ? 1.0 : 0.0;
  }
  sums = team.reduce(sums, Add());
  switch (out.kind) {
    case RowKind::kOrdinary:
      out.outside =
          sums.of[0] + sums.of[1] + (sums.of[2] - static_cast<double>(k)) * static_cast<double>(s);
      break;
    case RowKind::kAll:
      out.outside = sums.of[0];
      break;
    case RowKind::kNone:
      out.outside = 0.0;
      break;
    case RowKind::kInvalid:
      out.outside = NAN;
  }
  return out;
}

struct Larger {
  template <class T>
  DG_DEVICE T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

// Over the root, of which only coefficient `target` is wanted: its logarithm, and the adjoints of
// the root's children, which are posterior probabilities. `left`: the values of the first child.
template <class T, int kThreads, class Index>
DG_DEVICE T join_children(Team<kThreads>& team, const T* left, T* adjoint_left, Index stride,
                          Index target) {
  const Terms<Index> terms = terms_of(stride, target);
  const T* right = left + stride;
  T most = -T(INFINITY);
  for (Index a = terms.first + team.rank(); a <= terms.last; a += kThreads) {
    const T term = left[a] + right[target - a];
    most = term > most ? term : most;
  }
  most = team.reduce(most, Larger());
  const T shift = most == -T(INFINITY) ? T(0) : most;
  T sum = T(0);
  for (Index a = terms.first + team.rank(); a <= terms.last; a += kThreads) {
    sum += std::exp(left[a] + right[target - a] - shift);
  }
  const T root = std::log(team.reduce(sum, Add())) + shift;
  for (Index j = team.rank(); j < stride; j += kThreads) {
    // Both children have partners for the same j.
    const bool paired = j >= terms.first && j <= terms.last;
    adjoint_left[j] = paired ? split_weight(left[j], right[target - j], root) : T(0);
    adjoint_left[stride + j] = paired ? split_weight(left[target - j], right[j], root) : T(0);
  }
  return root;
}

}  // namespace cuda
}  // namespace dg
