// SPDX-License-Identifier: Apache-2.0
//
// Several rows side by side, one per lane, for the recursions over the tree: loading, tilting, and
// the part of the log-partition that lies outside the tree.
#pragma once

#include "core/tilt.h"
#include "cpu/simd/algebra.h"
#include "cpu/simd/contour.h"

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

template <class Lanes>
class LaneRows {
 public:
  using LanesType = Lanes;
  using Scalar = typename Lanes::Scalar;
  using Real = typename Lanes::Real;
  static constexpr int kLanes = Lanes::kLanes;

  explicit LaneRows(int64_t n) : n_(n), theta_(n * kLanes), tails_(n), partial_(segment_count(n)) {}

  // Rows first .. first + count - 1; unused lanes repeat the last row.
  void load_rows(const Rows<Scalar>& rows, int64_t first, int count) {
    for (int l = 0; l < kLanes; ++l) {
      const int64_t r = first + (l < count ? l : count - 1);
      const Scalar* row = rows.logits + r * n_;
      for (int64_t i = 0; i < n_; ++i) theta_[i * kLanes + l] = row[i];
      summary_[l] = summarize<Scalar>(row, n_, serial(), partial_.get());
      k_[l] = rows.row_count(r);
      kind_[l] = row_kind(summary_[l], k_[l]);
    }
  }

  // Signed tails of every lane at its own tilt.
  void tilt() {
    Tilt state[kLanes];
    Scalar s[kLanes];
    bool done[kLanes];
    for (int l = 0; l < kLanes; ++l) {
      done[l] = kind_[l] != RowKind::kOrdinary;
      if (!done[l]) state[l] = tilt_start(summary_[l], k_[l] - summary_[l].forced);
      s[l] = done[l] ? Scalar(0) : static_cast<Scalar>(state[l].value);
    }
    for (int step = 0; step < kMaxTiltSteps; ++step) {
      pass(load<Lanes>(s));
      bool all = true;
      for (int l = 0; l < kLanes; ++l) {
        if (done[l]) continue;
        const double excess = excess_[l] + (above_[l] - static_cast<double>(k_[l]));
        done[l] = tilt_is_good(excess, variance_[l], kTreeTilt);
        if (done[l]) continue;
        tilt_step(state[l], excess, variance_[l]);
        const Scalar next = static_cast<Scalar>(state[l].value);
        done[l] = next == s[l];
        s[l] = next;
        all = all && done[l];
      }
      if (all) break;
    }
    for (int l = 0; l < kLanes; ++l) tilt_[l] = s[l];
  }

  // log Z without log P(S = k): sum softplus(theta + s) - k s over live items.
  void outside_log_partition(double* result) const {
    for (int l = 0; l < kLanes; ++l) {
      result[l] = (above_[l] - static_cast<double>(k_[l])) * static_cast<double>(tilt_[l]);
    }
    Real product{};
    for (int64_t i = 0; i < n_; ++i) {
      const Tail<Lanes> tail = unpack_tail<Lanes>(tails_[i]);
      const Real e = tail.w / (Scalar(1) - tail.w);
      product += e + e * product;
      Scalar above[kLanes];
      store<Lanes>(above, select(tail.is_above, splat<Lanes>(Scalar(1)), Real{}));
      for (int l = 0; l < kLanes; ++l) {
        const Scalar theta = theta_[i * kLanes + l];
        const bool counted = above[l] != Scalar(0) && theta < Scalar(INFINITY);
        result[l] += counted ? static_cast<double>(theta) : 0.0;
      }
      if ((i + 1) % kFold == 0 || i + 1 == n_) {
        Scalar lane[kLanes];
        store<Lanes>(lane, product);
        for (int l = 0; l < kLanes; ++l) result[l] += std::log1p(static_cast<double>(lane[l]));
        product = Real{};
      }
    }
  }

  Real theta(int64_t i) const { return load<Lanes>(&theta_[i * kLanes]); }
  Real tilted(int64_t i) const { return theta(i) + load<Lanes>(tilt_); }
  Real tail(int64_t i) const { return tails_[i]; }
  Scalar logit(int64_t i, int lane) const { return theta_[i * kLanes + lane]; }
  int64_t k(int lane) const { return k_[lane]; }
  RowKind kind(int lane) const { return kind_[lane]; }
  bool has_nan(int lane) const { return summary_[lane].has_nan; }
  int64_t n() const { return n_; }

  static const Executor& serial() {
    static constexpr Executor executor{
        [](int64_t count, void (*task)(void*, int64_t), void* context) {
          for (int64_t i = 0; i < count; ++i) task(context, i);
        }};
    return executor;
  }

 private:
  void pass(Real s) {
    Real excess{}, variance{}, above{};
    for (int64_t i = 0; i < n_; ++i) {
      tails_[i] = signed_tail<Lanes>(theta(i) + s);
      const Tail<Lanes> tail = unpack_tail<Lanes>(tails_[i]);
      excess += tails_[i];
      variance += tail.w * (Scalar(1) - tail.w);
      above += select(tail.is_above, splat<Lanes>(Scalar(1)), Real{});
    }
    Scalar lane[kLanes];
    store<Lanes>(lane, excess);
    for (int l = 0; l < kLanes; ++l) excess_[l] = lane[l];
    store<Lanes>(lane, variance);
    for (int l = 0; l < kLanes; ++l) variance_[l] = lane[l];
    store<Lanes>(lane, above);
    for (int l = 0; l < kLanes; ++l) above_[l] = lane[l];
  }

  int64_t n_;
  Buffer<Scalar> theta_;  // [n, lanes]
  Buffer<Real> tails_;    // [n]
  Buffer<RowSummary> partial_;
  RowSummary summary_[kLanes];
  int64_t k_[kLanes];
  RowKind kind_[kLanes];
  Scalar tilt_[kLanes];
  double excess_[kLanes], variance_[kLanes], above_[kLanes];
};

}  // namespace CPU_CAPABILITY
}  // namespace dg
