// SPDX-License-Identifier: Apache-2.0
//
// The algebra in which the tree multiplies polynomials of the logarithms of probabilities, and the
// same with a tangent, which turns the outside pass into a derivative of it. linear_algebra.h has
// that of the probabilities themselves.
#pragma once

#include "cpu/simd/math.h"

namespace dg {
inline namespace CPU_CAPABILITY {

DG_INLINE int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
DG_INLINE int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

// exp and log for vectors and for single numbers.
template <class Lanes>
DG_INLINE typename Lanes::Real exp_lanes(typename Lanes::Real x) {
  if constexpr (Lanes::kLanes == 1) {
    return std::exp(x);
  } else {
    return exp_nonpositive<Lanes>(x);
  }
}
template <class Lanes>
DG_INLINE typename Lanes::Real log_lanes(typename Lanes::Real x) {
  if constexpr (Lanes::kLanes == 1) {
    return std::log(x);
  } else {
    return log_positive<Lanes>(x);
  }
}

// A value and its derivative along one direction.
template <class Real>
struct Dual {
  Real v;
  Real d{};
};
template <class Real>
DG_INLINE Dual<Real> operator+(Dual<Real> a, Dual<Real> b) {
  return {a.v + b.v, a.d + b.d};
}
template <class Real>
DG_INLINE Dual<Real> operator*(Dual<Real> a, Dual<Real> b) {
  return {a.v * b.v, a.v * b.d + a.d * b.v};
}
template <class Real>
DG_INLINE Dual<Real> operator/(Dual<Real> a, Dual<Real> b) {
  const Real inverse = (Real{} + 1) / b.v, quotient = a.v * inverse;
  return {quotient, (a.d - quotient * b.d) * inverse};
}

// log(1 + e^{-|x|}) is what log sigmoid(x) and log sigmoid(-x) share: it keeps the logarithm of a
// probability that is itself too small to be represented.
template <class Lanes>
struct LogSigmoid {
  typename Lanes::Real of_plus, of_minus;
};
template <class Lanes>
DG_INLINE LogSigmoid<Lanes> log_sigmoid(typename Lanes::Real x) {
  using Real = typename Lanes::Real;
  using Scalar = typename Lanes::Scalar;
  const auto above = x > Real{};
  const Real negative = select(above, -x, x);
  const Real rest = log_lanes<Lanes>(Scalar(1) + exp_lanes<Lanes>(negative));
  return {select(above, Real{}, x) - rest, select(above, -x, Real{}) - rest};
}

// exp(left + right - product): the posterior probability of a split, 0 where it is impossible.
template <class Lanes>
DG_INLINE typename Lanes::Real split_weight(typename Lanes::Real left, typename Lanes::Real right,
                                            typename Lanes::Real product) {
  using Real = typename Lanes::Real;
  using Scalar = typename Lanes::Scalar;
  const Real impossible = splat<Lanes>(-Scalar(INFINITY));
  return exp_lanes<Lanes>(select(product == impossible, impossible, left + right - product));
}

// Logarithms of probabilities; adjoints are linear, since every weight is a probability. It keeps
// the relative accuracy of the smallest coefficient.
template <class Lanes>
struct LogAlgebra {
  using Real = typename Lanes::Real;
  using Scalar = typename Lanes::Scalar;
  using Number = Real;

  static void multiply(const Number* left, int64_t left_degree, const Number* right,
                       int64_t right_degree, Number* product, int64_t from, int64_t to) {
    const Real impossible = splat<Lanes>(-Scalar(INFINITY));
    for (int64_t j = from; j <= to; ++j) {
      const int64_t first = at_least(0, j - right_degree), last = at_most(j, left_degree);
      Real most = impossible;
      for (int64_t a = first; a <= last; ++a) most = larger(left[a] + right[j - a], most);
      const Real shift = select(most == impossible, Real{}, most);
      Real sum{};
      for (int64_t a = first; a <= last; ++a) {
        sum += exp_lanes<Lanes>(left[a] + right[j - a] - shift);
      }
      product[j] = log_lanes<Lanes>(sum) + shift;
    }
  }

  static void pull_back(const Number* left, int64_t left_degree, const Number* right,
                        int64_t right_degree, const Number* product, const Number* adjoint,
                        int64_t from, int64_t to, Number* adjoint_left, Number* adjoint_right) {
    for (int64_t b = 0; b <= right_degree; ++b) adjoint_right[b] = Real{};
    for (int64_t a = 0; a <= left_degree; ++a) {
      Real sum{};
      const int64_t last = at_most(right_degree, to - a);
      for (int64_t b = at_least(0, from - a); b <= last; ++b) {
        const Real part = adjoint[a + b] * split_weight<Lanes>(left[a], right[b], product[a + b]);
        sum += part;
        adjoint_right[b] += part;
      }
      adjoint_left[a] = sum;
    }
  }
};

// The same with tangents: values (log z, its derivative), adjoints (linear, their derivative).
template <class Lanes>
struct LogDualAlgebra {
  using Real = typename Lanes::Real;
  using Scalar = typename Lanes::Scalar;
  using Number = Dual<Real>;

  static void multiply(const Number* left, int64_t left_degree, const Number* right,
                       int64_t right_degree, Number* product, int64_t from, int64_t to) {
    const Real impossible = splat<Lanes>(-Scalar(INFINITY));
    for (int64_t j = from; j <= to; ++j) {
      const int64_t first = at_least(0, j - right_degree), last = at_most(j, left_degree);
      Real most = impossible;
      for (int64_t a = first; a <= last; ++a) most = larger(left[a].v + right[j - a].v, most);
      const Real shift = select(most == impossible, Real{}, most);
      Real sum{}, tangent{};
      for (int64_t a = first; a <= last; ++a) {
        const Real part = exp_lanes<Lanes>(left[a].v + right[j - a].v - shift);
        sum += part;
        tangent += part * (left[a].d + right[j - a].d);
      }
      const auto possible = sum > Real{};
      product[j] = {log_lanes<Lanes>(sum) + shift, select(possible, tangent / sum, Real{})};
    }
  }

  static void pull_back(const Number* left, int64_t left_degree, const Number* right,
                        int64_t right_degree, const Number* product, const Number* adjoint,
                        int64_t from, int64_t to, Number* adjoint_left, Number* adjoint_right) {
    for (int64_t b = 0; b <= right_degree; ++b) adjoint_right[b] = Number{};
    for (int64_t a = 0; a <= left_degree; ++a) {
      Number sum{};
      const int64_t last = at_most(right_degree, to - a);
      for (int64_t b = at_least(0, from - a); b <= last; ++b) {
        const Number above = product[a + b];
        const Real weight = split_weight<Lanes>(left[a].v, right[b].v, above.v);
        const Number part =
            adjoint[a + b] * Number{weight, weight * (left[a].d + right[b].d - above.d)};
        sum = sum + part;
        adjoint_right[b] = adjoint_right[b] + part;
      }
      adjoint_left[a] = sum;
    }
  }
};

}  // namespace CPU_CAPABILITY
}  // namespace dg
