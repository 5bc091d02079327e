// SPDX-License-Identifier: Apache-2.0
//
// What both ways of method="linear" share: the algebra, the leaves, and what an item's adjoints
// say. The backward pass is the derivative of the marginals along the centred gradient: the
// covariance is symmetric, so it is the vector-Jacobian product.
#pragma once

#include "cuda/linear.h"
#include "cuda/row.cuh"
#include "cuda/tree_algebra.cuh"

namespace dg {
namespace cuda {

template <class T, bool kBackward>
using LinearNumber = std::conditional_t<kBackward, Dual<T>, T>;

template <class T>
DG_DEVICE Dual<T> operator/(Dual<T> a, Dual<T> b) {
  const T quotient = a.v / b.v;
  return {quotient, (a.d - quotient * b.d) / b.v};
}
DG_DEVICE float value_of(float x) { return x; }
DG_DEVICE double value_of(double x) { return x; }
template <class T>
DG_DEVICE T value_of(Dual<T> x) {
  return x.v;
}

// An item at its tilted logit.
template <class T>
struct Probabilities {
  T q, p, e;  // e = e^-|x|
  bool above;
};
template <class T>
DG_DEVICE Probabilities<T> probabilities(T x) {
  const bool above = x > T(0);
  const T e = std::exp(above ? -x : x);
  const T near = T(1) / (T(1) + e);
  const T far = e * near;
  return {above ? near : far, above ? far : near, e, above};
}

// The two coefficients of a leaf: of an item that is not counted, and of one that is.
template <class Number>
struct Leaf {
  Number absent, present;
};

// change: the derivative of q.
template <class T>
DG_DEVICE void make_leaf(T q, T p, T /*change*/, bool flipped, Leaf<T>& leaf) {
  leaf = {flipped ? q : p, flipped ? p : q};
}
template <class T>
DG_DEVICE void make_leaf(T q, T p, T change, bool flipped, Leaf<Dual<T>>& leaf) {
  const T counted = flipped ? -change : change;
  leaf = {{flipped ? q : p, -counted}, {flipped ? p : q, counted}};
}

// What is known of a row beside its tree.
template <class T>
struct LinearRow {
  RowKind kind;
  bool flipped;    // whether the tree counts the unchosen items
  int64_t target;  // items that it counts
  double outside;  // log Z without log P(S = k); log Z itself where the subset is certain
};

// The marginal of an item (and its derivative), from its leaf and the leaf's adjoints.
template <class Number>
DG_DEVICE Number marginal_of_leaf(bool flipped, const Leaf<Number>& leaf,
                                  const Leaf<Number>& adjoint) {
  const Number absent = leaf.absent * adjoint.absent;
  const Number present = leaf.present * adjoint.present;
  return (flipped ? absent : present) / (absent + present);
}

template <class T>
DG_DEVICE T certain_marginal(RowKind kind, T theta) {
  if (kind == RowKind::kInvalid) return T(NAN);
  return is_certain_member(theta, kind) ? T(1) : T(0);
}

// What an item is left with: its marginal, or its gradient, c mu + d mu. Forced items are
// constants.
template <class T>
DG_DEVICE T item_result(RowKind kind, T theta, T mu, T /*slope*/) {
  // Rounding must not lift it above 1.
  const T inside = mu < T(1) ? mu : T(1);
  return kind == RowKind::kOrdinary ? inside : certain_marginal(kind, theta);
}
template <class T>
DG_DEVICE T item_result(RowKind kind, T theta, Dual<T> mu, T slope) {
  if (kind == RowKind::kInvalid) return T(NAN);
  if (theta == T(INFINITY)) return T(0);
  const bool ordinary = kind == RowKind::kOrdinary;
  return ordinary ? mu.d + slope * mu.v : slope * certain_marginal(kind, theta);
}

}  // namespace cuda
}  // namespace dg
