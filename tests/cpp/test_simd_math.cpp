// SPDX-License-Identifier: Apache-2.0
//
// exp, log and log1p of csrc/cpu/simd/math.h and the Gumbel noise made of them, against long
// double, in ulp. Built once per SIMD level; on a machine without the level it exits with 77, which
// ctest counts as skipped.
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>

#include "cpu/simd/math.h"

namespace {

constexpr int kSkipped = 77;
constexpr int kVectors = 200000;
constexpr double kMostUlp = 2.0;

bool level_is_here() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

template <class T>
double ulp_error(T actual, long double expected) {
  int exponent = 0;
  std::frexp(expected, &exponent);
  const long double ulp = std::ldexp(1.0L, exponent - std::numeric_limits<T>::digits);
  return static_cast<double>(std::abs(static_cast<long double>(actual) - expected) / ulp);
}

// The worst error over random arguments; not a number counts as infinitely wrong.
template <class T, class Draw, class Function, class Exact>
double worst_error(Draw draw, Function function, Exact exact) {
  using Lanes = dg::Wide<T>;
  std::mt19937_64 generator(1);
  std::uniform_real_distribution<double> uniform;
  double worst = 0.0;
  for (int v = 0; v < kVectors; ++v) {
    T argument[Lanes::kLanes], value[Lanes::kLanes];
    for (T& x : argument) x = static_cast<T>(draw(uniform(generator)));
    dg::store<Lanes>(value, function(dg::load<Lanes>(argument)));
    for (int l = 0; l < Lanes::kLanes; ++l) {
      const double error = ulp_error<T>(value[l], exact(static_cast<long double>(argument[l])));
      if (!(error <= worst)) worst = std::isnan(error) ? INFINITY : error;
    }
  }
  return worst;
}

bool within(const char* what, double error) {
  std::printf("%-28s %.3f ulp\n", what, error);
  return error <= kMostUlp;
}

template <class T>
bool test_type(const char* name, double lowest) {
  using Lanes = dg::Wide<T>;
  using Real = typename Lanes::Real;
  const auto exp_of = [](Real x) { return dg::exp_nonpositive<Lanes>(x); };
  const auto log_of = [](Real x) { return dg::log_positive<Lanes>(x); };
  const auto log_normal_of = [](Real x) { return dg::log_normal<Lanes>(x); };
  const auto log1m_of = [](Real v) { return dg::log1m<Lanes>(v); };
  const auto exact_exp = [](long double x) { return std::exp(x); };
  const auto exact_log = [](long double x) { return std::log(x); };
  const auto exact_log1m = [](long double v) { return std::log1p(-v); };
  std::printf("%s\n", name);
  bool good = true;
  good &= within("exp on [lowest, 0]",
                 worst_error<T>([=](double u) { return lowest * u; }, exp_of, exact_exp));
  good &= within("exp near 0",
                 worst_error<T>([](double u) { return -std::exp(-30.0 * u); }, exp_of, exact_exp));
  good &= within(
      "log on [e^-80, e^80]",
      worst_error<T>([](double u) { return std::exp(160.0 * u - 80.0); }, log_of, exact_log));
  good &= within("log on (1, 2)",
                 worst_error<T>([](double u) { return 1.0 + 1e-6 + u; }, log_of, exact_log));
  good &= within("log_normal on [e^-80, e^80]",
                 worst_error<T>([](double u) { return std::exp(160.0 * u - 80.0); }, log_normal_of,
                                exact_log));
  // The noise takes logarithms of survival probabilities from 2^-33 to 1 - 2^-24.
  const auto low_tail = [](double u) { return std::exp2(-33.0 * u) / 2; };
  const auto high_tail = [](double u) { return 1.0 - std::exp2(-23.0 * u - 1.0); };
  good &= within("log1m on [2^-34, 1/2]", worst_error<T>(low_tail, log1m_of, exact_log1m));
  good &= within("log1m on [1/2, 1 - 2^-24]", worst_error<T>(high_tail, log1m_of, exact_log1m));

  T lanes[Lanes::kLanes];
  const auto first = [&](Real value) {
    dg::store<Lanes>(lanes, value);
    return lanes[0];
  };
  const T infinity = std::numeric_limits<T>::infinity();
  good &= first(exp_of(dg::splat<Lanes>(-infinity))) == T(0);
  good &= first(exp_of(dg::splat<Lanes>(T(0)))) == T(1);
  good &= first(log_of(dg::splat<Lanes>(T(1)))) == T(0);
  good &= first(log_of(dg::splat<Lanes>(T(0)))) == -infinity;
  return good;
}

}  // namespace

int main() {
  if (!level_is_here()) return kSkipped;
  const bool good_float = test_type<float>("float", -87.3);
  const bool good_double = test_type<double>("double", -708.0);
  return good_float && good_double ? 0 : 1;
}
