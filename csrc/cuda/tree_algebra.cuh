// SPDX-License-Identifier: Apache-2.0
//
// The algebras in which the tree multiplies polynomials, one coefficient a thread: logarithms of
// probabilities, and the same with tangents, which turn the outside pass into a derivative of it.
// Adjoints are linear in both.
//
// Each has
//   zero(): the coefficient that is not there;
//   product(left, right, stride, j): coefficient j of the product of two nodes of `stride` numbers;
//   adjoint(itself, sibling, above, adjoint, terms): that of one coefficient a of a node, from its
//     value, the sibling's coefficients b = 0 .. terms - 1, and its parent's values and adjoints
//     from a on. Without a sibling, `sibling` is null: then the parent is the node.
#pragma once

#include <cmath>

#include "core/platform.h"
#include "cuda/launch.cuh"

namespace dg {
namespace cuda {

// A value and its derivative along one direction.
template <class T>
struct Dual {
  T v, d;
};
template <class T>
DG_INLINE Dual<T> operator+(Dual<T> a, Dual<T> b) {
  return {a.v + b.v, a.d + b.d};
}
template <class T>
DG_INLINE Dual<T> operator*(Dual<T> a, Dual<T> b) {
  return {a.v * b.v, a.v * b.d + a.d * b.v};
}

// The terms a = first .. last of coefficient j.
template <class Index>
struct Terms {
  Index first, last;
};
template <class Index>
DG_INLINE Terms<Index> terms_of(Index stride, Index j) {
  const Index degree = stride - 1;
  return {j > degree ? j - degree : 0, j < degree ? j : degree};
}

// exp(left + right - product): the posterior probability of a split, 0 where it is impossible.
template <class T>
DG_INLINE T split_weight(T left, T right, T product) {
  return product == -T(INFINITY) ? T(0) : std::exp(left + right - product);
}

// Logarithms of probabilities; every weight of the outside pass is a probability. It keeps the
// relative accuracy of the smallest coefficient.
template <class T>
struct LogAlgebra {
  using Number = T;

  DG_INLINE Number zero() { return -T(INFINITY); }

  template <class Index>
  DG_INLINE T product(const T* left, const T* right, Index stride, Index j) {
    const Terms<Index> terms = terms_of(stride, j);
    T most = -T(INFINITY);
    for (Index a = terms.first; a <= terms.last; ++a) {
      const T term = left[a] + right[j - a];
      most = term > most ? term : most;
    }
    const T shift = most == -T(INFINITY) ? T(0) : most;
    T sum = T(0);
    for (Index a = terms.first; a <= terms.last; ++a) {
      sum += std::exp(left[a] + right[j - a] - shift);
    }
    return std::log(sum) + shift;
  }

  template <class Index>
  DG_INLINE T adjoint(T itself, const T* sibling, const T* above, const T* adjoint, Index terms) {
    if (sibling == nullptr) return adjoint[0] * split_weight(itself, T(0), above[0]);
    T sum = T(0);
    for (Index b = 0; b < terms; ++b) {
      sum += adjoint[b] * split_weight(itself, sibling[b], above[b]);
    }
    return sum;
  }
};

// The same with tangents: values (log z, its derivative), adjoints (linear, their derivative).
template <class T>
struct LogDualAlgebra {
  using Number = Dual<T>;

  DG_INLINE Number zero() { return {-T(INFINITY), T(0)}; }

  template <class Index>
  DG_INLINE Number product(const Number* left, const Number* right, Index stride, Index j) {
    const Terms<Index> terms = terms_of(stride, j);
    T most = -T(INFINITY);
    for (Index a = terms.first; a <= terms.last; ++a) {
      const T term = left[a].v + right[j - a].v;
      most = term > most ? term : most;
    }
    const T shift = most == -T(INFINITY) ? T(0) : most;
    T sum = T(0), tangent = T(0);
    for (Index a = terms.first; a <= terms.last; ++a) {
      const Number x = left[a], y = right[j - a];
      const T part = std::exp(x.v + y.v - shift);
      sum += part;
      tangent += part * (x.d + y.d);
    }
    return {std::log(sum) + shift, sum == T(0) ? T(0) : tangent / sum};
  }

  template <class Index>
  DG_INLINE Number adjoint(Number itself, const Number* sibling, const Number* above,
                           const Number* adjoint, Index terms) {
    Number sum{};
    for (Index b = 0; b < terms; ++b) {
      const Number other = sibling == nullptr ? Number{} : sibling[b];
      const T weight = split_weight(itself.v, other.v, above[b].v);
      sum = sum + adjoint[b] * Number{weight, weight * (itself.d + other.d - above[b].d)};
    }
    return sum;
  }
};

}  // namespace cuda
}  // namespace dg
