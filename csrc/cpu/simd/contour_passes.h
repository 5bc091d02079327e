// SPDX-License-Identifier: Apache-2.0
//
// The passes over a row's items that the contour is made of (docs/mathematics.md).
//
// With x = theta + s a pass keeps one number per item, the *signed tail*
//
//     t_i = w_i with w = min(q, p), and the sign bit set where x > 0 (that is q > 1/2),
//
// from which q, p, q p and delta = q - p all follow without cancellation. An item with q > 1/2 is
// taken as e^{it} (1 + p (e^{-it} - 1)), so a pass multiplies factors that are 1 where the item is
// certain, and the phases e^{it} of the `above` such items are counted in integers.
#pragma once

#include "core/node_rule.h"
#include "cpu/simd/math.h"
#include "cpu/simd/row.h"

namespace dg {
inline namespace CPU_CAPABILITY {

// Sums over items at a tilt. sum q = above + excess_tails.
struct TailSums {
  double excess_tails = 0.0;  // sum of q (q <= 1/2) minus sum of p (q > 1/2)
  double variance = 0.0;      // sum q p
  double odd_variance = 0.0;  // of the items at odd positions
  int64_t above = 0;          // items with q > 1/2, the forced ones among them

  void add(const TailSums& other) {
    excess_tails += other.excess_tails;
    variance += other.variance;
    odd_variance += other.odd_variance;
    above += other.above;
  }
};

template <class Lanes>
struct Tail {
  typename Lanes::Real w;        // min(q, p)
  typename Lanes::Int is_above;  // mask: q > 1/2
};

template <class Lanes>
DG_INLINE typename Lanes::Int sign_mask(typename Lanes::Real value) {
  return bit_cast<typename Lanes::Int>(value) < 0;
}

template <class Lanes>
DG_INLINE Tail<Lanes> unpack_tail(typename Lanes::Real signed_tail) {
  const auto above = sign_mask<Lanes>(signed_tail);
  return {select(above, -signed_tail, signed_tail), above};
}

// Everything the formulas need of an item.
template <class Lanes>
struct Item {
  typename Lanes::Real q, p, qp, delta;
};

template <class Lanes>
DG_INLINE Item<Lanes> unpack_item(typename Lanes::Real signed_tail) {
  using Scalar = typename Lanes::Scalar;
  const Tail<Lanes> tail = unpack_tail<Lanes>(signed_tail);
  const auto rest = Scalar(1) - tail.w;
  const auto spread = rest - tail.w;  // |q - p|
  return {select(tail.is_above, rest, tail.w), select(tail.is_above, tail.w, rest), tail.w * rest,
          select(tail.is_above, spread, -spread)};
}

// The sums as the passes below gather them, lane by lane between two folds.
template <class Lanes>
class TailSummer {
 public:
  using Real = typename Lanes::Real;
  using Int = typename Lanes::Int;

  void add(Real signed_tail, Int is_above, Real qp) {
    excess_ += signed_tail;
    variance_ += qp;
    above_ -= is_above;
  }

  void fold() {
    // Segments and vectors begin at even positions.
    const Int is_odd = (count_up<Int>() & 1) == 1;
    sums_.excess_tails += sum_lanes<Lanes>(excess_);
    sums_.variance += sum_lanes<Lanes>(variance_);
    sums_.odd_variance += sum_lanes<Lanes>(select(is_odd, variance_, Real{}));
    sums_.above += static_cast<int64_t>(sum_lanes<Lanes>(convert<Real>(above_)));
    excess_ = variance_ = Real{};
    above_ = Int{};
  }

  const TailSums& sums() const { return sums_; }

 private:
  Real excess_{}, variance_{};
  Int above_{};
  TailSums sums_;
};

// tails[i] = the signed tail of item i at tilt s; returns the sums.
template <class T>
TailSums tilt_segment(const T* row, int64_t begin, int64_t end, T s, T* tails) {
  using Lanes = Wide<T>;
  using Real = typename Lanes::Real;
  using Int = typename Lanes::Int;
  TailSummer<Lanes> sums;
  for_vectors<Lanes>(
      begin, end,
      [&](int64_t i, int count) {
        const Real x = load_items<Lanes>(row, i, count, -T(INFINITY)) + s;
        const Int is_above = x > T(0);
        const Real e = exp_nonpositive<Lanes>(select(is_above, -x, x));
        const Real inverse = T(1) / (T(1) + e);
        const Real w = e * inverse;
        const Real signed_tail = select(is_above, -w, w);
        sums.add(signed_tail, is_above, w * inverse);
        store_items<Lanes>(tails, i, count, signed_tail);
      },
      [&] { sums.fold(); });
  return sums.sums();
}

// The same from the tails at a tilt nearby, without an exponential for each item: e^x is e^shift
// times what it was.
template <class T>
TailSums shift_segment(T* tails, int64_t begin, int64_t end, double shift) {
  using Lanes = Wide<T>;
  using Real = typename Lanes::Real;
  using Int = typename Lanes::Int;
  const Real growth = splat<Lanes>(static_cast<T>(std::exp(shift)));
  const Real decay = splat<Lanes>(static_cast<T>(std::exp(-shift)));
  TailSummer<Lanes> sums;
  for_vectors<Lanes>(
      begin, end,
      [&](int64_t i, int count) {
        const Tail<Lanes> tail = unpack_tail<Lanes>(load_items<Lanes>(tails, i, count, T(0)));
        const Real scaled = tail.w * select(tail.is_above, decay, growth);
        const Real moved = scaled / ((T(1) - tail.w) + scaled);
        // What passes 1/2 is a tail on the other side.
        const Int passes = moved > T(0.5);
        const Int is_above = tail.is_above ^ passes;
        const Real w = select(passes, T(1) - moved, moved);
        const Real signed_tail = select(is_above, -w, w);
        sums.add(signed_tail, is_above, w * (T(1) - w));
        store_items<Lanes>(tails, i, count, signed_tail);
      },
      [&] { sums.fold(); });
  return sums.sums();
}

// The same from the tails as they are.
template <class T>
TailSums sum_tails(const T* tails, int64_t begin, int64_t end) {
  using Lanes = Wide<T>;
  using Real = typename Lanes::Real;
  TailSummer<Lanes> sums;
  for_vectors<Lanes>(
      begin, end,
      [&](int64_t i, int count) {
        const Real signed_tail = load_items<Lanes>(tails, i, count, T(0));
        const Tail<Lanes> tail = unpack_tail<Lanes>(signed_tail);
        sums.add(signed_tail, tail.is_above, tail.w * (T(1) - tail.w));
      },
      [&] { sums.fold(); });
  return sums.sums();
}

// The two parts of sum softplus(theta + s) over live items that do not cancel:
// sum of theta over those above, and sum of log(1 + e) over all, with e = e^{-|x|} = w / (1 - w).
struct SoftplusSums {
  double theta_above = 0.0;
  double log_rest = 0.0;
};

template <class T>
SoftplusSums softplus_segment(const T* row, const T* tails, int64_t begin, int64_t end) {
  using Lanes = Wide<T>;
  using Real = typename Lanes::Real;
  SoftplusSums sums;
  LaneTotals<Lanes> theta_above;
  Real product{};    // prod (1 + e) - 1: exact for tails far below rounding, and never near -1
  double all = 0.0;  // the same over all lanes
  // A lane is below 2^kFold: up to here one more is still a double.
  constexpr double kMost = 0x1p900;
  for_vectors<Lanes>(
      begin, end,
      [&](int64_t i, int count) {
        const Real theta = load_items<Lanes>(row, i, count, -T(INFINITY));
        const Tail<Lanes> tail = unpack_tail<Lanes>(load_items<Lanes>(tails, i, count, T(0)));
        const auto counted = tail.is_above & (theta < T(INFINITY));
        theta_above.add(select(counted, theta, Real{}));
        const Real e = tail.w / (T(1) - tail.w);
        product += e + e * product;
      },
      [&] {
        T lane[Lanes::kLanes];
        store<Lanes>(lane, product);
        for (int l = 0; l < Lanes::kLanes; ++l) {
          const double next = static_cast<double>(lane[l]);
          all += next + next * all;
          if (all > kMost) {
            sums.log_rest += std::log1p(all);
            all = 0.0;
          }
        }
        product = Real{};
      });
  sums.log_rest += std::log1p(all);
  sums.theta_above = theta_above.total();
  return sums;
}

struct Complex {
  double re, im;
};

DG_INLINE Complex multiply(Complex a, Complex b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

// (re + i im) (a + i b) into re and im.
DG_INLINE void multiply_complex(DoubleVec& re, DoubleVec& im, DoubleVec a, DoubleVec b) {
  const DoubleVec next = re * a - im * b;
  im = re * b + im * a;
  re = next;
}

// The product of all lanes, in each lane.
template <int distance = 1>
DG_INLINE void multiply_across(DoubleVec& re, DoubleVec& im) {
  constexpr int kLanes = Wide<double>::kLanes;
  if constexpr (distance < kLanes) {
    const auto lanes = std::make_integer_sequence<int, kLanes>{};
    multiply_complex(re, im, rotate_lanes<distance>(re, lanes), rotate_lanes<distance>(im, lanes));
    multiply_across<2 * distance>(re, im);
  }
}

// The product of 1 + re + i im over all lanes. In double: of so many floats it would lose a digit.
template <class Lanes>
DG_INLINE Complex multiply_lanes(typename Lanes::Real re, typename Lanes::Real im) {
  DoubleVec real = splat<Wide<double>>(1.0), imaginary{};
  for (int part = 0; part < kDoubleParts<Lanes>; ++part) {
    multiply_complex(real, imaginary, 1.0 + double_part<Lanes>(re, part),
                     double_part<Lanes>(im, part));
  }
  multiply_across(real, imaginary);
  return {real[0], imaginary[0]};
}

// prod_i (1 + w_i (cos t - 1) -+ i w_i sin t) for each node: the part of phi(t) that is left when
// the integer phases are taken out. Running products are kept as product - 1.
template <class T, int kTogether>
void multiply_nodes(const T* tails, int64_t begin, int64_t end, const T* cosine_minus_1,
                    const T* sine, Complex* product) {
  using Lanes = Wide<T>;
  using Real = typename Lanes::Real;
  Real re[kTogether] = {}, im[kTogether] = {};
  for_vectors<Lanes>(
      begin, end,
      [&](int64_t i, int count) {
        const Real signed_tail = load_items<Lanes>(tails, i, count, T(0));
        const Real w = unpack_tail<Lanes>(signed_tail).w;
#pragma GCC unroll 4
        for (int m = 0; m < kTogether; ++m) {
          const Real factor_re = w * cosine_minus_1[m];
          const Real factor_im = signed_tail * sine[m];
          const Real next = (re[m] + factor_re) + (re[m] * factor_re - im[m] * factor_im);
          im[m] = (im[m] + factor_im) + (re[m] * factor_im + im[m] * factor_re);
          re[m] = next;
        }
      },
      [&] {
        for (int m = 0; m < kTogether; ++m) {
          product[m] = multiply(product[m], multiply_lanes<Lanes>(re[m], im[m]));
          re[m] = im[m] = Real{};
        }
      });
}

// Angles of the kept nodes and what the passes need of them.
template <class T>
struct Nodes {
  int64_t total;
  int kept;
  Complex unit;  // e^{i t_1}
  T cosine_minus_1[kMostNodes];
  T sine[kMostNodes];
  T cotangent[kMostNodes];  // tau_m = cot(t_m / 2)
};

template <class T>
DG_INLINE Nodes<T> make_nodes(NodeCount count) {
  Nodes<T> nodes;
  nodes.total = count.total;
  nodes.kept = count.kept;
  // Of half the angles; powers of the first, whose errors grow only with their number.
  const double first = 0.5 * node_angle(1, count.total);
  const Complex step{std::cos(first), std::sin(first)};
  nodes.unit = multiply(step, step);
  Complex half = step;
  for (int m = 0; m < count.kept; ++m) {
    nodes.cosine_minus_1[m] = static_cast<T>(-2.0 * half.im * half.im);
    nodes.sine[m] = static_cast<T>(2.0 * half.im * half.re);
    nodes.cotangent[m] = static_cast<T>(half.re / half.im);
    half = multiply(half, step);
  }
  return nodes;
}

template <class T>
void node_products_segment(const T* tails, int64_t begin, int64_t end, const Nodes<T>& nodes,
                           Complex* product) {
  for (int m = 0; m < nodes.kept; ++m) product[m] = {1.0, 0.0};
  int m = 0;
  for (; m + 4 <= nodes.kept; m += 4) {
    multiply_nodes<T, 4>(tails, begin, end, nodes.cosine_minus_1 + m, nodes.sine + m, product + m);
  }
  if (m + 2 <= nodes.kept) {
    multiply_nodes<T, 2>(tails, begin, end, nodes.cosine_minus_1 + m, nodes.sine + m, product + m);
    m += 2;
  }
  if (m < nodes.kept) {
    multiply_nodes<T, 1>(tails, begin, end, nodes.cosine_minus_1 + m, nodes.sine + m, product + m);
  }
}

// r = 2 q p sum_m (Re W_m delta - Im W_m tau_m) / (delta^2 + tau_m^2); two nodes share a division.
template <class Lanes, class Scalar = typename Lanes::Scalar>
DG_INLINE typename Lanes::Real correction(const Item<Lanes>& item, const Nodes<Scalar>& nodes,
                                          const Scalar* weight_re, const Scalar* weight_im_tau,
                                          const Scalar* tau_square) {
  using Real = typename Lanes::Real;
  const Real square = item.delta * item.delta;
  Real sum{};
  int m = 0;
  for (; m + 2 <= nodes.kept; m += 2) {
    const Real a = square + tau_square[m];
    const Real b = square + tau_square[m + 1];
    const Real numerator_a = weight_re[m] * item.delta - weight_im_tau[m];
    const Real numerator_b = weight_re[m + 1] * item.delta - weight_im_tau[m + 1];
    sum += (numerator_a * b + numerator_b * a) / (a * b);
  }
  if (m < nodes.kept) {
    sum += (weight_re[m] * item.delta - weight_im_tau[m]) / (square + tau_square[m]);
  }
  return Scalar(2) * item.qp * sum;
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
