// SPDX-License-Identifier: Apache-2.0
//
// Several rows side by side, one per lane, for the recursions over the tree: loading, tilting, and
// the part of the log-partition that lies outside the tree.
#pragma once

#include "core/tilt.h"
#include "cpu/simd/algebra.h"
#include "cpu/simd/contour.h"
#include "cpu/simd/lane_transpose.h"

namespace dg {
inline namespace CPU_CAPABILITY {

// The signed tail of an item (contour_passes.h) from x = theta + s.
template <class Lanes>
DG_INLINE typename Lanes::Real signed_tail(typename Lanes::Real x) {
  using Scalar = typename Lanes::Scalar;
  const auto is_above = x > typename Lanes::Real{};
  const auto e = exp_lanes<Lanes>(select(is_above, -x, x));
  const auto w = e / (Scalar(1) + e);
  return select(is_above, -w, w);
}

template <class Lanes>
DG_INLINE Item<Lanes> untilted_item(typename Lanes::Real theta) {
  return unpack_item<Lanes>(signed_tail<Lanes>(theta));
}

// The tree is exact for any tilt; the tilt only keeps its numbers far from underflow. Below 1: in a
// wide gap after one item too few or too many, sum q is off by exactly 1 while P(S = k) underflows.
constexpr double kTreeTilt = 0.3;

// values[l] = log(values[l]) in double.
template <int kCount>
DG_INLINE void log_in_place(double* values) {
  using Doubles =
      std::conditional_t<kCount % Wide<double>::kLanes == 0, Wide<double>, Single<double>>;
  for (int l = 0; l < kCount; l += Doubles::kLanes) {
    store<Doubles>(values + l, log_lanes<Doubles>(load<Doubles>(values + l)));
  }
}

template <class Lanes>
class LaneRows {
 public:
  using LanesType = Lanes;
  using Scalar = typename Lanes::Scalar;
  using Real = typename Lanes::Real;
  using Int = typename Lanes::Int;
  using IntScalar = typename Lanes::IntScalar;
  using Mask = decltype(Real{} > Real{});
  static constexpr int kLanes = Lanes::kLanes;
  static constexpr int kMostExtension = 3;

  explicit LaneRows(int64_t most_items)
      : n_(most_items), theta_(most_items), tails_(most_items + kMostExtension) {}

  // Rows first .. first + count - 1; unused lanes repeat the last row.
  void load_rows(const Rows<Scalar>& rows, int64_t first, int count) {
    n_ = rows.n;
    read_columns<Lanes>(rows.logits, n_, first, count, theta_.get());
    IntScalar k[kLanes];
    for (int l = 0; l < kLanes; ++l) {
      const int64_t row_k = rows.row_count(first + (l < count ? l : count - 1));
      // What is out of range stays so, and fits the lane.
      k[l] = static_cast<IntScalar>(row_k < 0 ? -1 : (row_k > n_ ? n_ + 1 : row_k));
    }
    std::memcpy(&k_, k, sizeof(k_));
    summarize_lanes();
  }

  // Signed tails of every lane at its own tilt: tilt_start and tilt_step of core/tilt.h for all
  // lanes at once, in the lanes' own precision.
  void tilt() {
    const Real target = convert<Real>(k_ - forced_), live = convert<Real>(live_);
    Mask done = ordinary() == 0;
    const Real half = splat<Lanes>(Scalar(0.5));
    // A lane without a tilt gets numbers that are harmless.
    const Real share = select(done, half, target / live);
    const Real target_logit = log_lanes<Lanes>(share / (Scalar(1) - share));
    Real lower = target_logit - largest_, upper = target_logit - smallest_;
    const Real widening = sqrt_lanes(Scalar(1) + variance_ * Scalar(0.39269908169872414));
    Real s = target_logit * widening - mean_;
    s = select(s >= lower, s, lower);
    s = select(done, Real{}, select(s <= upper, s, upper));
    for (int step = 0; step < kMaxTiltSteps; ++step) {
      Real excess, variance;
      pass(s, excess, variance);
      const Real deviation = sqrt_lanes(variance);
      const Real allowed = Scalar(kTreeTilt) * larger(deviation, splat<Lanes>(Scalar(1)));
      done = done | (select(excess < Real{}, -excess, excess) <= allowed);
      if (!any_lane(done == 0)) break;
      upper = select(excess > Real{}, s, upper);
      lower = select(excess > Real{}, lower, s);
      const Real sum = target + excess, rest = live - sum;
      const auto has_slope = (variance > Real{}) & (sum > Real{}) & (rest > Real{});
      const Real odds = select(has_slope, sum / rest, splat<Lanes>(Scalar(1)));
      const Real newton =
          s - (log_lanes<Lanes>(odds) - target_logit) * (sum * rest) / (variance * live);
      const auto inside = has_slope & (newton > lower) & (newton < upper);
      const Real next = select(inside, newton, lower + Scalar(0.5) * (upper - lower));
      // Neighbours: no float is left between them.
      done = done | (next == s);
      s = select(done, s, next);
    }
    tilt_ = s;
  }

  // log Z without log P(S = k), which is sum softplus(theta + s) - k s over live items, plus the
  // logarithm of `factor`.
  void outside_log_partition(Real factor, double* result) const {
    Scalar s[kLanes], lane[kLanes];
    IntScalar beyond[kLanes];
    store<Lanes>(s, tilt_);
    const Int difference = above_ - k_;
    std::memcpy(beyond, &difference, sizeof(beyond));
    for (int l = 0; l < kLanes; ++l) {
      result[l] = static_cast<double>(beyond[l]) * static_cast<double>(s[l]);
    }
    // exp of the softplus of -|x| is 1 / (1 - w), kept without its 1, which would hide small tails.
    // For a few items it is made of their w and 1 - w, with one division.
    constexpr int64_t kTogether = 16;
    LaneTotals<Lanes> beyond_half;
    Real beyond_one{};
    for (int64_t begin = 0; begin < n_; begin += kTogether) {
      const int64_t end = begin + kTogether < n_ ? begin + kTogether : n_;
      Real missing{}, rest = splat<Lanes>(Scalar(1));  // they are 1 together
      for (int64_t i = begin; i < end; ++i) {
        const Tail<Lanes> tail = unpack_tail<Lanes>(tails_[i]);
        const Real part = Scalar(1) - tail.w;
        missing = tail.w + missing * part;
        rest *= part;
        const Real theta = theta_[i];
        const auto counted = tail.is_above & (theta < splat<Lanes>(Scalar(INFINITY)));
        beyond_half.add(select(counted, theta, Real{}));
      }
      const Real e = missing / rest;
      beyond_one += e + e * beyond_one;
      if (end % kFold == 0 || end == n_) {
        store<Lanes>(lane, beyond_one);
        double product[kLanes];
        for (int l = 0; l < kLanes; ++l) product[l] = 1.0 + static_cast<double>(lane[l]);
        if (end == n_) {
          store<Lanes>(lane, factor);
          for (int l = 0; l < kLanes; ++l) product[l] *= static_cast<double>(lane[l]);
        }
        log_in_place<kLanes>(product);
        for (int l = 0; l < kLanes; ++l) result[l] += product[l];
        beyond_one = Real{};
      }
    }
    beyond_half.add_to(result);
  }

  Real theta(int64_t i) const { return theta_[i]; }
  Real tilted(int64_t i) const { return theta_[i] + tilt_; }
  Real tail(int64_t i) const { return tails_[i]; }
  // Sets the tails of items beyond the row, up to `num_items`: at most kMostExtension.
  void extend(int64_t num_items, Real tail) {
    for (int64_t i = n_; i < num_items; ++i) tails_[i] = tail;
  }
  Int k() const { return k_; }
  // A mask: the lanes where something is left to choose.
  auto ordinary() const {
    const Int target = k_ - forced_;
    return (target > Int{}) & (target < live_) & (nan_ == Int{});
  }
  // Every lane is ordinary and its items are all live.
  bool all_live() const { return all_live_; }
  RowKind kind(int lane) const { return all_live_ ? RowKind::kOrdinary : kind_[lane]; }
  bool has_nan(int lane) const { return !all_live_ && has_nan_[lane]; }
  int64_t n() const { return n_; }

 private:
  static Real sqrt_lanes(Real value) {
    Scalar lane[kLanes];
    store<Lanes>(lane, value);
    for (int l = 0; l < kLanes; ++l) lane[l] = std::sqrt(lane[l]);
    return load<Lanes>(lane);
  }

  static Int one_where(Mask mask) {
    if constexpr (kLanes == 1) {
      return mask ? 1 : 0;
    } else {
      return mask & 1;
    }
  }

  // As `summarize` of row.h, for all lanes at once.
  void summarize_lanes() {
    const Real first = theta_[0];
    Real sum{}, square{};
    smallest_ = largest_ = first;
    for (int64_t i = 0; i < n_; ++i) {
      const Real theta = theta_[i];
      smallest_ = smaller(theta, smallest_);
      largest_ = larger(theta, largest_);
      const Real shifted = theta - first;
      sum += shifted;
      square += shifted * shifted;
    }
    // No infinity, no NaN, and nothing so large that it overflows.
    const Real zero = square - square;
    const bool all_finite = !any_lane(zero != zero);
    if (all_finite) {
      live_ = Int{} + static_cast<IntScalar>(n_);
      forced_ = nan_ = Int{};
      set_moments(first, sum, square);
    } else {
      summarize_special();
    }
    all_live_ = all_finite && !any_lane(ordinary() == 0);
    if (!all_live_) name_kinds();
  }

  void summarize_special() {
    const Real infinity = splat<Lanes>(Scalar(INFINITY));
    smallest_ = infinity;
    largest_ = -infinity;
    live_ = forced_ = nan_ = Int{};
    for (int64_t i = 0; i < n_; ++i) {
      const Real theta = theta_[i];
      const auto is_live = (theta < infinity) & (theta > -infinity);
      smallest_ = smaller(select(is_live, theta, infinity), smallest_);
      largest_ = larger(select(is_live, theta, -infinity), largest_);
      live_ += one_where(is_live);
      forced_ += one_where(theta == infinity);
      nan_ += one_where(theta != theta);
    }
    // A lane of numbers gets the same sums as without special lanes beside it, to the bit.
    const Real first = theta_[0];
    const Real origin = select((first < infinity) & (first > -infinity), first,
                               select(live_ > Int{}, smallest_, Real{}));
    Real sum{}, square{};
    for (int64_t i = 0; i < n_; ++i) {
      const Real theta = theta_[i];
      const auto is_live = (theta < infinity) & (theta > -infinity);
      const Real shifted = select(is_live, theta - origin, Real{});
      sum += shifted;
      square += shifted * shifted;
    }
    set_moments(origin, sum, square);
  }

  // From the sums of theta - origin and of its square over the live items.
  void set_moments(Real origin, Real sum, Real square) {
    const Real live = select(live_ > Int{}, convert<Real>(live_), splat<Lanes>(Scalar(1)));
    const Real mean = sum / live;
    const Real variance = square / live - mean * mean;
    // Overflowing squares must not spoil the guess, which the bracket then bounds.
    const auto usable = (variance >= Real{}) & (variance < splat<Lanes>(Scalar(1e30)));
    variance_ = select(usable, variance, Real{});
    mean_ = origin + mean;
    mean_ = select((mean_ >= smallest_) & (mean_ <= largest_), mean_, origin);
  }

  void name_kinds() {
    IntScalar target[kLanes], live[kLanes], nan[kLanes];
    const Int difference = k_ - forced_;
    std::memcpy(target, &difference, sizeof(target));
    std::memcpy(live, &live_, sizeof(live));
    std::memcpy(nan, &nan_, sizeof(nan));
    for (int l = 0; l < kLanes; ++l) {
      has_nan_[l] = nan[l] != 0;
      kind_[l] = has_nan_[l] || target[l] < 0 || target[l] > live[l] ? RowKind::kInvalid
                 : target[l] == 0                                    ? RowKind::kNone
                 : target[l] == live[l]                              ? RowKind::kAll
                                                                     : RowKind::kOrdinary;
    }
  }

  // The tails at tilt s; sum q - k and V.
  void pass(Real s, Real& excess, Real& variance) {
    Real tails{}, spread{};
    Int above{};
    for (int64_t i = 0; i < n_; ++i) {
      const Real x = theta_[i] + s;
      const auto is_above = x > Real{};
      const Real e = exp_lanes<Lanes>(select(is_above, -x, x));
      const Real inverse = Scalar(1) / (Scalar(1) + e);
      const Real w = e * inverse;
      const Real signed_tail = select(is_above, -w, w);
      tails_[i] = signed_tail;
      tails += signed_tail;
      spread += w * inverse;
      above += one_where(is_above);
    }
    above_ = above;
    excess = tails + convert<Real>(above - k_);
    variance = spread;
  }

  int64_t n_;
  Buffer<Real> theta_;  // [n_]
  Buffer<Real> tails_;  // [n_ + kMostExtension]
  Int k_, live_, forced_, nan_, above_;
  Real smallest_, largest_, mean_, variance_, tilt_;
  bool all_live_;
  RowKind kind_[kLanes] = {};  // unless all_live_
  bool has_nan_[kLanes] = {};
};

}  // namespace CPU_CAPABILITY
}  // namespace dg
