// SPDX-License-Identifier: Apache-2.0
//
// The algebra in which the tree multiplies polynomials of probabilities: with tilted items every
// coefficient is one, and underflow is harmless. The numbers may carry a tangent (Dual).
#pragma once

#include "cpu/simd/algebra.h"

namespace dg {
inline namespace CPU_CAPABILITY {

// sum + a b.
template <class Real>
DG_INLINE Real add_product(Real sum, Real a, Real b) {
  return sum + a * b;
}
template <class Real>
DG_INLINE Dual<Real> add_product(Dual<Real> sum, Dual<Real> a, Dual<Real> b) {
  return {sum.v + a.v * b.v, (sum.d + a.v * b.d) + a.d * b.v};
}

// Factors of one degree that the compiler knows, their product cut at `top`: no loop is left, and
// the numbers stay in registers.
template <int degree, int top, class Number>
DG_INLINE void multiply_fixed(const Number* __restrict left, const Number* __restrict right,
                              Number* __restrict product) {
#pragma GCC unroll 16
  for (int j = 0; j <= top; ++j) {
    const int first = j > degree ? j - degree : 0, last = j < degree ? j : degree;
    Number sum{};
#pragma GCC unroll 16
    for (int a = first; a <= last; ++a) sum = add_product(sum, left[a], right[j - a]);
    product[j] = sum;
  }
}

// result[a] = sum over b of adjoint[a + b] other[b].
template <int degree, int top, class Number>
DG_INLINE void correlate_fixed(const Number* __restrict adjoint, const Number* __restrict other,
                               Number* __restrict result) {
#pragma GCC unroll 16
  for (int a = 0; a <= degree; ++a) {
    const int last = top - a < degree ? top - a : degree;
    Number sum{};
#pragma GCC unroll 16
    for (int b = 0; b <= last; ++b) sum = add_product(sum, adjoint[a + b], other[b]);
    result[a] = sum;
  }
}

template <class NumberType>
struct LinearAlgebra {
  using Number = NumberType;

  static void multiply(const Number* left, int64_t left_degree, const Number* right,
                       int64_t right_degree, Number* product, int64_t from, int64_t to) {
    if (from == 0 && left_degree == right_degree) {
      const bool done = with_fixed(left_degree, to, [&](auto degree, auto top) {
        multiply_fixed<degree(), top()>(left, right, product);
      });
      if (done) return;
    }
    for (int64_t j = from; j <= to;) {
      const bool is_last = j + kTogether - 1 > to;
      if (!is_last && multiply_few(left, left_degree, right, right_degree, j, product + j)) {
        j += kTogether;
        continue;
      }
      Number sum{};
      const int64_t last = at_most(j, left_degree);
      for (int64_t a = at_least(0, j - right_degree); a <= last; ++a) {
        sum = add_product(sum, left[a], right[j - a]);
      }
      product[j++] = sum;
    }
  }

  static void pull_back(const Number* left, int64_t left_degree, const Number* right,
                        int64_t right_degree, const Number*, const Number* adjoint, int64_t from,
                        int64_t to, Number* adjoint_left, Number* adjoint_right) {
    if (from == 0 && left_degree == right_degree) {
      const bool done = with_fixed(left_degree, to, [&](auto degree, auto top) {
        correlate_fixed<degree(), top()>(adjoint, right, adjoint_left);
        correlate_fixed<degree(), top()>(adjoint, left, adjoint_right);
      });
      if (done) return;
    }
    correlate(adjoint, from, to, right, right_degree, adjoint_left, left_degree);
    correlate(adjoint, from, to, left, left_degree, adjoint_right, right_degree);
  }

 private:
  // So many sums run side by side: a single one waits for each of its additions.
  static constexpr int kTogether = 4;

  // Calls body(degree, top) with constants if these degrees are among the few that have code of
  // their own: whole products of the lower levels, and those cut at k = 1, 2, 4 or 8.
  template <class Body>
  static bool with_fixed(int64_t degree, int64_t top, Body&& body) {
    return with_one<4, 8>(degree, top, body) || with_one<8, 8>(degree, top, body) ||
           with_one<4, 4>(degree, top, body) || with_one<2, 2>(degree, top, body) ||
           with_one<1, 1>(degree, top, body) || with_one<1, 2>(degree, top, body) ||
           with_one<2, 4>(degree, top, body) || with_one<8, 16>(degree, top, body);
  }
  template <int fixed_degree, int fixed_top, class Body>
  static bool with_one(int64_t degree, int64_t top, Body& body) {
    if (degree != fixed_degree || top != fixed_top) return false;
    body(std::integral_constant<int, fixed_degree>(), std::integral_constant<int, fixed_top>());
    return true;
  }

  // Coefficients j .. j + kTogether - 1 of a product, unless they have more than one ragged end.
  static bool multiply_few(const Number* __restrict left, int64_t left_degree,
                           const Number* __restrict right, int64_t right_degree, int64_t j,
                           Number* __restrict product) {
    const bool rises = j + kTogether - 1 <= at_most(left_degree, right_degree);
    const bool falls =
        j >= at_least(left_degree, right_degree) && j + kTogether - 2 - right_degree <= left_degree;
    if (!rises && !falls) return false;
    Number sum[kTogether] = {};
    const int64_t first = rises ? 0 : j + kTogether - 1 - right_degree;
    const int64_t last = rises ? j : left_degree;
    for (int64_t a = first; a <= last; ++a) {
#pragma GCC unroll 4
      for (int t = 0; t < kTogether; ++t) sum[t] = add_product(sum[t], left[a], right[j + t - a]);
    }
    if (rises) {
      // The terms a = j + s, which only sums t >= s have.
#pragma GCC unroll 4
      for (int s = 1; s < kTogether; ++s) {
#pragma GCC unroll 4
        for (int t = s; t < kTogether; ++t) sum[t] = add_product(sum[t], left[j + s], right[t - s]);
      }
    } else {
      // The terms a = j + s - right_degree, which only sums t <= s have.
      const Number* start = left + (j - right_degree);
#pragma GCC unroll 4
      for (int s = 0; s < kTogether - 1; ++s) {
#pragma GCC unroll 4
        for (int t = 0; t <= s; ++t) {
          sum[t] = add_product(sum[t], start[s], right[right_degree + t - s]);
        }
      }
    }
#pragma GCC unroll 4
    for (int t = 0; t < kTogether; ++t) product[t] = sum[t];
    return true;
  }

  // correlate_fixed for a + b from `from` to `to`.
  static void correlate(const Number* __restrict adjoint, int64_t from, int64_t to,
                        const Number* __restrict other, int64_t other_degree,
                        Number* __restrict result, int64_t degree) {
    for (int64_t a = 0; a <= degree;) {
      // Of kTogether sums all or none end before the last coefficient of `other`.
      const bool is_whole = to - a - kTogether + 1 >= other_degree;
      if (from == 0 && a + kTogether - 1 <= degree && (is_whole || to - a <= other_degree)) {
        Number sum[kTogether] = {};
        const int64_t last = is_whole ? other_degree : to - a - kTogether + 1;
        for (int64_t b = 0; b <= last; ++b) {
#pragma GCC unroll 4
          for (int t = 0; t < kTogether; ++t) {
            sum[t] = add_product(sum[t], adjoint[a + t + b], other[b]);
          }
        }
        if (!is_whole) {
          // The terms b = to - a - s, which only sums t <= s have.
          const Number* end = other + (to - a);
#pragma GCC unroll 4
          for (int s = 0; s < kTogether - 1; ++s) {
#pragma GCC unroll 4
            for (int t = 0; t <= s; ++t) {
              sum[t] = add_product(sum[t], adjoint[to + t - s], *(end - s));
            }
          }
        }
#pragma GCC unroll 4
        for (int t = 0; t < kTogether; ++t) result[a + t] = sum[t];
        a += kTogether;
        continue;
      }
      Number sum{};
      const int64_t last = at_most(other_degree, to - a);
      for (int64_t b = at_least(0, from - a); b <= last; ++b) {
        sum = add_product(sum, adjoint[a + b], other[b]);
      }
      result[a++] = sum;
    }
  }
};

}  // namespace CPU_CAPABILITY
}  // namespace dg
