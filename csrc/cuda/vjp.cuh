// SPDX-License-Identifier: Apache-2.0
//
// The product of the covariance of a k-subset with a vector, in the centred form: what the fused
// and the split backward pass share (docs/mathematics.md).
#pragma once

#include "cuda/contour_items.cuh"

namespace dg {
namespace cuda {

// What the last pass knows of a row.
template <class T>
struct VjpTerms {
  T centre;              // sum q p g / V
  T total_correction;    // R = sum r (g - centre)
  T grad_log_partition;  // c
  bool has_covariance;
};

// D_m = sum (g - centre) d_m for a group of nodes, but for a factor tau_m of the imaginary part.
template <class T, int kTogether>
struct NodeDots {
  Complex<T> of[kTogether];
};

struct CombineDots {
  template <class T, int kTogether>
  DG_DEVICE NodeDots<T, kTogether> operator()(const NodeDots<T, kTogether>& a,
                                              const NodeDots<T, kTogether>& b) const {
    NodeDots<T, kTogether> all;
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      all.of[j] = {a.of[j].re + b.of[j].re, a.of[j].im + b.of[j].im};
    }
    return all;
  }
};

// tau^2 of one group, in registers.
template <class T>
struct GroupTaus {
  static constexpr int kTogether = NodeGroup<T>::kTogether;
  T square[kTogether];

  DG_DEVICE GroupTaus(const NodeTable<T>& table, int first) {
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      square[j] = table.tau[first + j] * table.tau[first + j];
    }
  }

  DG_DEVICE void add_item(T tail, T centred, NodeDots<T, kTogether>& dots) const {
    const Item<T> item = unpack_item(tail);
    const T delta_square = item.delta * item.delta;
    const T scaled = T(2) * item.qp * centred;
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const T part = quotient(scaled, delta_square + square[j]);
      dots.of[j].re += part * item.delta;
      dots.of[j].im += part;
    }
  }
};

// Sums over the nodes that an item's gradient is made of, but for factors of 2 q p.
template <class T>
struct ItemSums {
  T first = 0;   // Re sum W d
  T dotted = 0;  // Re sum W D d
  T second = 0;  // Re sum W d^2

  // One node: W, and W D with its imaginary part times tau.
  DG_DEVICE void add(T delta, T tau, Complex<T> weight, Complex<T> dot) {
    const T tau_square = tau * tau;
    const T inverse = quotient(T(1), delta * delta + tau_square);
    first += (weight.re * delta - weight.im * tau) * inverse;
    dotted += (dot.re * delta - dot.im * tau) * inverse;
    second += (weight.re * (delta * delta - tau_square) - T(2) * weight.im * tau * delta) *
              (inverse * inverse);
  }
};

// (Cov g + c mu) of an item that is not forced.
template <class T>
DG_DEVICE T item_gradient(T tail, T grad, const ItemSums<T>& sums, const VjpTerms<T>& terms) {
  const Item<T> item = unpack_item(tail);
  const T twice = T(2) * item.qp;
  const T r = twice * sums.first;
  const T mu = item.q + r;
  T gradient = mu * terms.grad_log_partition;
  // An item that is certain has no part in the covariance, whatever its g is.
  if (terms.has_covariance && item.qp > T(0)) {
    const T centred = grad - terms.centre;
    gradient += twice * sums.dotted - centred * (twice * twice * sums.second) -
                r * (terms.total_correction - r * centred) + mu * (item.p - r) * centred;
  }
  return gradient;
}

// Logits to signed tails; returns a bit for each slot with a forced item.
template <class T, class Shape>
DG_DEVICE unsigned replace_by_tails(int n, T s, RowItems<T, Shape>& items) {
  unsigned forced = 0;
  for_slots<Shape>(n, [&](int j) {
    if (items.of[j] == T(INFINITY)) forced |= 1u << j;
    items.of[j] = signed_tail(items.of[j] + s);
  });
  return forced;
}

// Tails to the gradient, by W and W D: node by node, a few slots at a time, since each has three
// sums.
template <class T, class Shape>
DG_DEVICE void replace_by_gradient(int n, int kept, unsigned forced, const RowItems<T, Shape>& grad,
                                   const NodeTable<T>& table, const Complex<T>* dots,
                                   const VjpTerms<T>& terms, RowItems<T, Shape>& tails) {
  constexpr int kAtOnce = Shape::kItems < 8 ? Shape::kItems : 8;
#pragma unroll
  for (int base = 0; base < Shape::kItems; base += kAtOnce) {
    if (base * Shape::kThreads >= n) break;
    ItemSums<T> sums[kAtOnce] = {};
    for (int m = 0; m < kept; ++m) {
      const Complex<T> weight = {table.re[m], table.im[m]};
      const Complex<T> dot = terms.has_covariance ? dots[m] : Complex<T>{T(0), T(0)};
      const T tau = table.tau[m];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        sums[j].add(unpack_item(tails.of[base + j]).delta, tau, weight, dot);
      }
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const T g = terms.has_covariance ? grad.of[base + j] : T(0);
      const T gradient = item_gradient(tails.of[base + j], g, sums[j], terms);
      tails.of[base + j] = (forced >> (base + j) & 1u) != 0 ? T(0) : gradient;
    }
  }
}

// Logits to the gradient where the subset is certain (s = +-inf) and all marginals are constants;
// NaN in an invalid row.
template <class T, class Shape>
DG_DEVICE void replace_by_certain_gradient(int n, T s, T grad_log_partition,
                                           RowItems<T, Shape>& theta) {
  for_slots<Shape>(n, [&](int j) {
    const T slope = is_finite(theta.of[j]) && s > T(0) ? grad_log_partition : T(0);
    theta.of[j] = s != s ? T(NAN) : slope;
  });
}

}  // namespace cuda
}  // namespace dg
