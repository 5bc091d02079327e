// SPDX-License-Identifier: Apache-2.0
//
// Elementary functions that the kernels share, for float and double alike.
#pragma once

#include <cmath>

#include "cuda/launch.cuh"

namespace dg {
namespace cuda {

// The sign bit, of -0.0 too.
DG_DEVICE bool is_negative(float x) { return __float_as_int(x) < 0; }
DG_DEVICE bool is_negative(double x) { return __double_as_longlong(x) < 0; }

template <class T>
DG_DEVICE bool is_finite(T x) {
  return x > -T(INFINITY) && x < T(INFINITY);
}

// a b, rounded: not part of a fused multiply-add, for numbers that two backends compare.
DG_DEVICE float rounded_product(float a, float b) { return __fmul_rn(a, b); }
DG_DEVICE double rounded_product(double a, double b) { return __dmul_rn(a, b); }

// a + b, neither of them the unrounded product of a fused multiply-add.
DG_DEVICE float rounded_sum(float a, float b) { return __fadd_rn(a, b); }
DG_DEVICE double rounded_sum(double a, double b) { return __dadd_rn(a, b); }
template <class T>
DG_DEVICE T rounded_sum(T a, T b) {
  return a + b;
}

// a / b within 2 units in the last place, for b in [2^-126, 2^126]: inside the sums over the nodes,
// whose terms are rounded as much anyway.
DG_DEVICE float quotient(float a, float b) { return __fdividef(a, b); }
DG_DEVICE double quotient(double a, double b) { return a / b; }

// sin(pi x) for 0 <= x <= 1/2; no range to reduce, so nothing in local memory.
DG_DEVICE float sine_of_turn(float x) { return sinpif(x); }
DG_DEVICE double sine_of_turn(double x) { return sinpi(x); }

template <class T>
struct SineCosine {
  T sine, cosine;
};

// Of pi numerator / denominator, for integers 0 <= numerator < denominator. The angle is folded in
// integers, so both keep their relative accuracy.
template <class T>
DG_DEVICE SineCosine<T> sine_cosine(int64_t numerator, int64_t denominator) {
  const int64_t rest = denominator - numerator;
  const T whole = static_cast<T>(denominator);
  const T folded = static_cast<T>(numerator < rest ? numerator : rest);
  const int64_t over = numerator < rest ? rest - numerator : numerator - rest;
  const T cosine = sine_of_turn(static_cast<T>(over) / (T(2) * whole));
  return {sine_of_turn(folded / whole), numerator < rest ? cosine : -cosine};
}

// A complex number.
template <class T>
struct Complex {
  T re, im;
};

template <class T>
DG_DEVICE Complex<T> multiply(Complex<T> a, Complex<T> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

// (1 + a)(1 + b) - 1: a product of many factors near 1 keeps its accuracy without the 1.
template <class T>
DG_DEVICE Complex<T> multiply_minus_1(Complex<T> a, Complex<T> b) {
  const Complex<T> product = multiply(a, b);
  return {(a.re + b.re) + product.re, (a.im + b.im) + product.im};
}

// A sum in two parts; the low one holds what the high one rounds off.
template <class T>
struct ExactSum {
  T high, low;

  DG_DEVICE void add(T x) {
    const T sum = high + x;
    const T part = sum - high;
    low += (high - (sum - part)) + (x - part);
    high = sum;
  }
  DG_DEVICE double value() const { return static_cast<double>(high) + static_cast<double>(low); }
};

struct AddExactly {
  template <class T>
  DG_DEVICE ExactSum<T> operator()(const ExactSum<T>& a, const ExactSum<T>& b) const {
    ExactSum<T> sum = a;
    sum.add(b.high);
    sum.low += b.low;
    return sum;
  }
};

}  // namespace cuda
}  // namespace dg
