// SPDX-License-Identifier: Apache-2.0
//
// The nodes of a row's contour, in shared memory: their angles, their weights, and the state that
// the forward pass leaves to the backward pass.
//
// Sums over the items are made for a group of kTogether nodes at a time, in registers. The table is
// filled up to whole groups with nodes at t = 0, whose factors are 1.
#pragma once

#include "core/node_rule.h"
#include "cuda/row.cuh"

namespace dg {
namespace cuda {

template <class T>
struct NodeGroup;
template <>
struct NodeGroup<float> {
  static constexpr int kTogether = 6;  // 5 are kept where V is large
};
template <>
struct NodeGroup<double> {
  static constexpr int kTogether = 5;  // 10 are kept where V is large
};

template <class T>
constexpr int kNodesRoom = (NodeRule<T>::kMaxNodes + NodeGroup<T>::kTogether - 1) /
                           NodeGroup<T>::kTogether * NodeGroup<T>::kTogether;
static_assert(kContourStateWidth<float> == 2 + 2 * NodeRule<float>::kMaxNodes &&
                  kContourStateWidth<double> == 2 + 2 * NodeRule<double>::kMaxNodes,
              "room for each node");

// Entry m belongs to the node t_{m+1}.
template <class T>
struct NodeTable {
  T cosine_minus_1[kNodesRoom<T>];
  T sine[kNodesRoom<T>];
  T tau[kNodesRoom<T>];  // cot(t / 2)
  T re[kNodesRoom<T>];   // W
  T im[kNodesRoom<T>];
};

// M: the odd number from V, at most the first odd number above the live items.
template <class T>
DG_DEVICE int64_t node_total(T variance, int64_t live) {
  const T wanted =
      std::ceil(T(NodeRule<T>::kSlope) * std::sqrt(variance) + T(NodeRule<T>::kOffset));
  const int64_t exact = (live + 1) | 1;
  const int64_t total = static_cast<int64_t>(wanted) | 1;
  return total < exact ? total : exact;
}

// The angles of the nodes within the truncation of the rule, and of none beyond them.
template <class T, class TeamType>
DG_DEVICE void fill_angles(const TeamType& team, T variance, int64_t total, NodeTable<T>& table) {
  for (int m = team.rank(); m < kNodesRoom<T>; m += TeamType::kThreads) {
    const bool exists = m < NodeRule<T>::kMaxNodes && 2 * (m + 1) < total;
    const SineCosine<T> half = sine_cosine<T>(exists ? m + 1 : 0, total);
    const bool kept =
        exists && T(2) * variance * half.sine * half.sine <= T(NodeRule<T>::kExponent);
    table.cosine_minus_1[m] = kept ? T(-2) * half.sine * half.sine : T(0);
    table.sine[m] = kept ? T(2) * half.sine * half.cosine : T(0);
    table.tau[m] = kept ? half.cosine / half.sine : T(1);
  }
}

// How many nodes have an angle: the first ones.
template <class T>
DG_DEVICE int kept_nodes(const NodeTable<T>& table) {
  int kept = 0;
  while (kept < NodeRule<T>::kMaxNodes && table.sine[kept] != T(0)) ++kept;
  return kept;
}

// Running products for a group of nodes, less 1: the part of phi that is left when the integer
// phases of the items with q > 1/2 are taken out.
template <class T, int kTogether>
struct NodeProducts {
  Complex<T> of[kTogether];
};

struct CombineProducts {
  template <class T, int kTogether>
  DG_DEVICE NodeProducts<T, kTogether> operator()(const NodeProducts<T, kTogether>& a,
                                                  const NodeProducts<T, kTogether>& b) const {
    NodeProducts<T, kTogether> all;
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      all.of[j] = multiply_minus_1(a.of[j], b.of[j]);
    }
    return all;
  }
};

// The angles of one group, in registers.
template <class T>
struct GroupAngles {
  static constexpr int kTogether = NodeGroup<T>::kTogether;
  T cosine_minus_1[kTogether];
  T sine[kTogether];

  DG_DEVICE GroupAngles(const NodeTable<T>& table, int first) {
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      cosine_minus_1[j] = table.cosine_minus_1[first + j];
      sine[j] = table.sine[first + j];
    }
  }

  DG_DEVICE void multiply_item(T tail, NodeProducts<T, kTogether>& products) const {
    const T w = is_negative(tail) ? -tail : tail;
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const Complex<T> factor = {w * cosine_minus_1[j], tail * sine[j]};
      products.of[j] = multiply_minus_1(products.of[j], factor);
    }
  }
};

// A node's product over the items of several threads, twice: less 1, which is accurate where it is
// near 1, and as it is, which is accurate where it is near 0. There the node may lie close to a
// zero of phi, where the derivatives are large.
template <class T>
struct NodeFactor {
  Complex<T> less_1, whole;

  DG_DEVICE Complex<T> value() const {
    const bool near_1 = less_1.re * less_1.re + less_1.im * less_1.im < T(0.25);
    return near_1 ? Complex<T>{T(1) + less_1.re, less_1.im} : whole;
  }
};

template <class T, int kTogether>
struct NodeFactors {
  NodeFactor<T> of[kTogether];

  DG_DEVICE explicit NodeFactors(const NodeProducts<T, kTogether>& products) {
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      of[j].less_1 = products.of[j];
      of[j].whole = {T(1) + products.of[j].re, products.of[j].im};
    }
  }
  NodeFactors() = default;
};

struct CombineFactors {
  template <class T, int kTogether>
  DG_DEVICE NodeFactors<T, kTogether> operator()(const NodeFactors<T, kTogether>& a,
                                                 const NodeFactors<T, kTogether>& b) const {
    NodeFactors<T, kTogether> all;
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      all.of[j].less_1 = multiply_minus_1(a.of[j].less_1, b.of[j].less_1);
      all.of[j].whole = multiply(a.of[j].whole, b.of[j].whole);
    }
    return all;
  }
};

// 2 product e^{i turns t_m}: twice the node's term, for m and -m. `turns`: items with q > 1/2 less
// k.
template <class T>
DG_DEVICE Complex<T> node_weight(Complex<T> product, int64_t turns, int m, int64_t total) {
  int64_t remainder = turns % total;
  if (remainder < 0) remainder += total;
  const SineCosine<T> half = sine_cosine<T>(remainder * (m + 1) % total, total);
  const Complex<T> phase = {T(1) - T(2) * half.sine * half.sine, T(2) * half.sine * half.cosine};
  const Complex<T> term = multiply(product, phase);
  return {T(2) * term.re, T(2) * term.im};
}

// From products (in table.re and table.im) to normalised weights; returns Re sum W before that.
template <class T, class TeamType>
DG_DEVICE T normalise_weights(const TeamType& team, int kept, int64_t turns, int64_t total,
                              NodeTable<T>& table) {
  for (int m = team.rank(); m < kept; m += TeamType::kThreads) {
    const Complex<T> weight = node_weight<T>({table.re[m], table.im[m]}, turns, m, total);
    table.re[m] = weight.re;
    table.im[m] = weight.im;
  }
  team.sync();
  T whole = T(1);
  for (int m = 0; m < kept; ++m) whole += table.re[m];
  team.sync();
  for (int m = team.rank(); m < kept; m += TeamType::kThreads) {
    table.re[m] /= whole;
    table.im[m] /= whole;
  }
  team.sync();
  return whole;
}

// r / (2 q p) of an item: sum_m (Re W_m delta - Im W_m tau_m) / (delta^2 + tau_m^2). One node.
template <class T>
DG_DEVICE T correction_term(T delta, T re, T im_tau, T tau_square) {
  return quotient(re * delta - im_tau, delta * delta + tau_square);
}

// The state: s, M and the weights, 0 beyond the last node kept. Where the subset is certain, s is
// -inf (the forced items only) or +inf (all but the excluded); all is NaN in an invalid row.
template <class T, class TeamType>
DG_DEVICE void write_state(const TeamType& team, RowKind kind, T s, int64_t total, int kept,
                           const NodeTable<T>& table, T* state) {
  if (kind == RowKind::kNone) s = -T(INFINITY);
  if (kind == RowKind::kAll) s = T(INFINITY);
  const bool invalid = kind == RowKind::kInvalid;
  for (int m = team.rank(); m < NodeRule<T>::kMaxNodes; m += TeamType::kThreads) {
    state[2 + 2 * m] = invalid ? T(NAN) : m < kept ? table.re[m] : T(0);
    state[3 + 2 * m] = invalid ? T(NAN) : m < kept ? table.im[m] : T(0);
  }
  if (team.rank() == 0) {
    state[0] = invalid ? T(NAN) : s;
    state[1] = invalid ? T(NAN) : static_cast<T>(total);
  }
}

// The weights and angles of a row from its state; returns how many nodes there are: none where the
// row is not `ordinary`.
template <class T, class TeamType>
DG_DEVICE int read_state(const TeamType& team, bool ordinary, const T* state, NodeTable<T>& table) {
  const int64_t total = ordinary ? static_cast<int64_t>(state[1]) : 1;
  for (int m = team.rank(); m < kNodesRoom<T>; m += TeamType::kThreads) {
    const bool exists = m < NodeRule<T>::kMaxNodes && 2 * (m + 1) < total;
    const T re = exists ? state[2 + 2 * m] : T(0);
    const T im = exists ? state[3 + 2 * m] : T(0);
    const SineCosine<T> half = sine_cosine<T>(exists ? m + 1 : 0, total);
    table.re[m] = re;
    table.im[m] = im;
    table.tau[m] = exists ? half.cosine / half.sine : T(1);
  }
  team.sync();
  int kept = 0;
  for (int m = 0; m < NodeRule<T>::kMaxNodes; ++m) {
    if (table.re[m] != T(0) || table.im[m] != T(0)) kept = m + 1;
  }
  return kept;
}

}  // namespace cuda
}  // namespace dg
