// SPDX-License-Identifier: Apache-2.0
//
// The algebras in which the tree multiplies polynomials: probabilities (linear), their logarithms,
// and each with a tangent, which turns the outside pass into a derivative of it.
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
  Real v, d;
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
  const Real quotient = a.v / b.v;
  return {quotient, (a.d - quotient * b.d) / b.v};
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

// Probabilities: with tilted items every coefficient is one, and underflow is harmless.
template <class NumberType>
struct LinearAlgebra {
  using Number = NumberType;

  static void multiply(const Number* left, int64_t left_degree, const Number* right,
                       int64_t right_degree, Number* product, int64_t from, int64_t to) {
    // Half of a tree's nodes are the lowest, a quarter those above: there a loop costs more than
    // its sums.
    if (is_whole<1>(left_degree, right_degree, from, to)) {
      multiply_whole<1>(left, right, product);
    } else if (is_whole<2>(left_degree, right_degree, from, to)) {
      multiply_whole<2>(left, right, product);
    } else {
      for (int64_t j = from; j <= to; ++j) {
        Number sum{};
        const int64_t last = at_most(j, left_degree);
        for (int64_t a = at_least(0, j - right_degree); a <= last; ++a) {
          sum = sum + left[a] * right[j - a];
        }
        product[j] = sum;
      }
    }
  }

  static void pull_back(const Number* left, int64_t left_degree, const Number* right,
                        int64_t right_degree, const Number*, const Number* adjoint, int64_t from,
                        int64_t to, Number* adjoint_left, Number* adjoint_right) {
    if (is_whole<1>(left_degree, right_degree, from, to)) {
      correlate_whole<1>(adjoint, right, adjoint_left);
      correlate_whole<1>(adjoint, left, adjoint_right);
    } else if (is_whole<2>(left_degree, right_degree, from, to)) {
      correlate_whole<2>(adjoint, right, adjoint_left);
      correlate_whole<2>(adjoint, left, adjoint_right);
    } else {
      correlate(adjoint, from, to, right, right_degree, adjoint_left, left_degree);
      correlate(adjoint, from, to, left, left_degree, adjoint_right, right_degree);
    }
  }

 private:
  // Both factors of this degree, and no coefficient of the product left out.
  template <int degree>
  static bool is_whole(int64_t left_degree, int64_t right_degree, int64_t from, int64_t to) {
    return left_degree == degree && right_degree == degree && from == 0 && to == 2 * degree;
  }

  template <int degree>
  static void multiply_whole(const Number* left, const Number* right, Number* product) {
#pragma GCC unroll 8
    for (int j = 0; j <= 2 * degree; ++j) {
      Number sum{};
#pragma GCC unroll 4
      for (int a = j > degree ? j - degree : 0; a <= (j < degree ? j : degree); ++a) {
        sum = sum + left[a] * right[j - a];
      }
      product[j] = sum;
    }
  }

  // result[a] = sum over b of adjoint[a + b] other[b].
  template <int degree>
  static void correlate_whole(const Number* adjoint, const Number* other, Number* result) {
#pragma GCC unroll 4
    for (int a = 0; a <= degree; ++a) {
      Number sum{};
#pragma GCC unroll 4
      for (int b = 0; b <= degree; ++b) sum = sum + adjoint[a + b] * other[b];
      result[a] = sum;
    }
  }

  // The same for a + b from `from` to `to`.
  static void correlate(const Number* adjoint, int64_t from, int64_t to, const Number* other,
                        int64_t other_degree, Number* result, int64_t degree) {
    for (int64_t a = 0; a <= degree; ++a) {
      Number sum{};
      const int64_t last = at_most(other_degree, to - a);
      for (int64_t b = at_least(0, from - a); b <= last; ++b) sum = sum + adjoint[a + b] * other[b];
      result[a] = sum;
    }
  }
};

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
