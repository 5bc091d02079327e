// SPDX-License-Identifier: Apache-2.0
//
// One level of the sampler by halving with rejection (docs/mathematics.md, "Exact sampling").
//
// The items at hand fall into two interleaved halves A and B. Independent draws of A with sum x are
// accepted with probability P_B(j - x) / max P_B, which makes them draws of A given the total j. A
// is kept, and B is next with what is left of j.
#pragma once

#include "core/node_rule.h"
#include "core/philox.h"
#include "cuda/items.cuh"

namespace dg {
namespace cuda {

// A half takes more than its share of the variance only up to this factor, or it becomes B: this
// bounds the rejections where all uncertain items have positions of one parity.
constexpr double kVarianceImbalance = 2.0;
constexpr uint32_t kMaxRejections = 1u << 16;
// Nodes that a pass over the items takes at a time, in registers; 5 or 10 are kept where V is
// large.
template <class T>
DG_INLINE constexpr int nodes_together() {
  return sizeof(T) == sizeof(float) ? 3 : 2;
}
constexpr int kNodeRoom = (kMostNodes + 5) / 6 * 6;  // whole passes of either

// What a level draws from. Plain data, for it lies in shared memory, and in the device's memory
// where the samples of a row share their first level.
struct HalvingLevel {
  Complex<double> product[kNodeRoom];  // of the tail factors of B at the nodes 1 .. kept
  double tilt;
  double peak;                               // the largest probability of B
  double smallest, largest, mean, variance;  // of B, as RowSummary
  int64_t live, forced;
  int64_t above;  // items of B with q > 1/2
  int64_t total;  // M
  int64_t target;
  int kept;
  int parity;  // of A

  DG_DEVICE RowSummary summary() const {
    RowSummary row;
    row.live = live;
    row.forced = forced;
    row.smallest = smallest;
    row.largest = largest;
    row.mean = mean;
    row.variance = variance;
    return row;
  }
};

template <int kThreads>
DG_DEVICE void copy_level(const Team<kThreads>& team, const HalvingLevel& from, HalvingLevel& to) {
  constexpr int kWords = sizeof(HalvingLevel) / sizeof(uint64_t);
  static_assert(sizeof(HalvingLevel) % sizeof(uint64_t) == 0, "copied in words");
  for (int i = team.rank(); i < kWords; i += kThreads) {
    reinterpret_cast<uint64_t*>(&to)[i] = reinterpret_cast<const uint64_t*>(&from)[i];
  }
}

// P(sum of B = count) by the contour; 0 where B cannot have that many. By each warp for itself.
DG_DEVICE double probability_of_half(const HalvingLevel& level, int64_t count) {
  Team<static_cast<int>(kWarpThreads)> warp;
  double sum = 0.0;
  int64_t turns = (level.above - count) % level.total;
  if (turns < 0) turns += level.total;
  for (int m = warp.rank(); m < level.kept; m += static_cast<int>(kWarpThreads)) {
    // turns t_m is twice the angle of which the sine and the cosine are taken.
    const auto half = sine_cosine<double>(turns * (m + 1) % level.total, level.total);
    const double cosine = 1.0 - 2.0 * half.sine * half.sine, sine = 2.0 * half.sine * half.cosine;
    sum += 2.0 * (level.product[m].re * cosine - level.product[m].im * sine);
  }
  sum = 1.0 + warp.reduce(sum, Add());
  const bool possible = count >= level.forced && count <= level.forced + level.live;
  return possible && sum > 0.0 ? sum / static_cast<double>(level.total) : 0.0;
}

// How many of the nodes 1, 2, ... are kept, by the rule of core/node_rule.h; the members share them
// out.
template <class T, int kThreads>
DG_DEVICE int count_nodes(Team<kThreads>& team, double variance, double spread, int64_t total) {
  const int most = spread > variance ? kMostNodes : NodeRule<T>::kMaxNodes;
  int left_out = most + 1;
  for (int m = team.rank() + 1; m <= most; m += kThreads) {
    const bool exists = 2 * m < total;
    const double sine = exists ? sine_cosine<double>(m, total).sine : 0.0;
    if (exists && 2.0 * variance * sine * sine <= NodeRule<T>::kExponent) continue;
    left_out = m < left_out ? m : left_out;
  }
  return team.reduce(left_out, [](int a, int b) { return a < b ? a : b; }) - 1;
}

template <int kTogether>
struct NodeProduct {
  Complex<double> of[kTogether];
};
struct MultiplyNodes {
  template <int kTogether>
  DG_DEVICE NodeProduct<kTogether> operator()(const NodeProduct<kTogether>& a,
                                              const NodeProduct<kTogether>& b) const {
    NodeProduct<kTogether> both;
#pragma unroll
    for (int j = 0; j < kTogether; ++j) both.of[j] = multiply(a.of[j], b.of[j]);
    return both;
  }
};

// Products of the tail factors of `items` at the nodes first + 1, ... (those that are kept).
template <int kTogether, class T, int kThreads>
DG_DEVICE NodeProduct<kTogether> multiply_tails(Team<kThreads>& team, const Items<T>& items, T s,
                                                int first, int kept, int64_t total) {
  T cosine_minus_1[kTogether], sine[kTogether];
  NodeProduct<kTogether> whole;
  Complex<T> part[kTogether];
#pragma unroll
  for (int j = 0; j < kTogether; ++j) {
    const bool exists = first + j < kept;
    const auto half = sine_cosine<double>(exists ? first + j + 1 : 0, total);
    cosine_minus_1[j] = static_cast<T>(-2.0 * half.sine * half.sine);
    sine[j] = static_cast<T>(2.0 * half.sine * half.cosine);
    whole.of[j] = {1.0, 0.0};
    part[j] = {T(0), T(0)};
  }
  for_items(
      team, items.count,
      [&](int64_t i) {
        const T tail = signed_tail(items[i] + s);
        const T w = is_negative(tail) ? -tail : tail;
#pragma unroll
        for (int j = 0; j < kTogether; ++j) {
          part[j] = multiply_minus_1(part[j], {w * cosine_minus_1[j], tail * sine[j]});
        }
      },
      [&] {
#pragma unroll
        for (int j = 0; j < kTogether; ++j) {
          whole.of[j] = multiply(whole.of[j], {1.0 + static_cast<double>(part[j].re),
                                               static_cast<double>(part[j].im)});
          part[j] = {T(0), T(0)};
        }
      });
  return team.reduce(whole, MultiplyNodes());
}

// Fills `level` for `items`, an ordinary row of which `target` are chosen.
template <class T, int kThreads>
DG_DEVICE void prepare_level(Team<kThreads>& team, const Items<T>& items, int64_t target,
                             const RowSummary& row, HalvingLevel& level) {
  ParitySums sums;
  const T s = sampling_tilt<T>(row, target, [&](T at) {
    sums = sums_by_parity(team, items, at);
    return sums;
  });
  const int parity = sums.even.variance > kVarianceImbalance * sums.odd.variance ? 1 : 0;
  const HalfSums of_b = parity == 1 ? sums.even : sums.odd;
  const Items<T> b = items.every_second(1 - parity);
  const RowSummary summary = summarize_items(team, b);
  // Where A leads, B is asked for counts as far out as the whole row varies: an alias of its own
  // peak must not be nearer than that.
  const double spread = sums.even.variance + sums.odd.variance;
  const double wanted = std::ceil(NodeRule<T>::kSlope * std::sqrt(spread) + NodeRule<T>::kOffset);
  const int64_t exact = (summary.live + 1) | 1;
  int64_t total = static_cast<int64_t>(wanted) | 1;
  if (total > exact) total = exact;
  const int kept = count_nodes<T>(team, of_b.variance, spread, total);
  constexpr int kTogether = nodes_together<T>();
  for (int first = 0; first < kept; first += kTogether) {
    const auto products = multiply_tails<kTogether>(team, b, s, first, kept, total);
    if (team.rank() == 0) {
#pragma unroll
      for (int j = 0; j < kTogether; ++j) level.product[first + j] = products.of[j];
    }
  }
  const int64_t above = static_cast<int64_t>(of_b.above);
  if (team.rank() == 0) {
    level.tilt = static_cast<double>(s);
    level.smallest = summary.smallest;
    level.largest = summary.largest;
    level.mean = summary.mean;
    level.variance = summary.variance;
    level.live = summary.live;
    level.forced = summary.forced;
    level.above = above;
    level.total = total;
    level.target = target;
    level.kept = kept;
    level.parity = parity;
  }
  team.sync();
  // The mode of B is one of the four integers around its mean.
  const int64_t mean = above + static_cast<int64_t>(std::floor(of_b.excess));
  double peak = 0.0;
  for (int64_t count = mean - 1; count <= mean + 2; ++count) {
    const double probability = probability_of_half(level, count);
    peak = probability > peak ? probability : peak;
  }
  if (team.rank() == 0) level.peak = peak;
  team.sync();
}

// Independent draws of A's items, as bits from `words` on; returns their sum. Bernoulli(q): v < q
// where q <= 1/2, otherwise not (v < p): the fine end of v is at 0.
template <class T, int kThreads>
DG_DEVICE int64_t draw_half(Team<kThreads>& team, const Items<T>& a, T s,
                            const PhiloxStream& stream, uint32_t* words) {
  constexpr int kWarps = kThreads / static_cast<int>(kWarpThreads);
  constexpr int64_t kOfWarp = 4 * kWarpThreads;  // a block of four words each lane
  const int warp = team.rank() / static_cast<int>(kWarpThreads);
  const int lane = team.rank() % static_cast<int>(kWarpThreads);
  int64_t sum = 0;
  for (int64_t begin = warp * kOfWarp; begin < a.count; begin += kWarps * kOfWarp) {
    const int64_t first = begin + 4 * lane;
    const PhiloxBlock random = philox_block(stream, static_cast<uint32_t>(first / 4));
    uint32_t bits = 0;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      if (first + w >= a.count) continue;
      const T tail = signed_tail(a[first + w] + s);
      const bool above = is_negative(tail);
      const T uniform = (static_cast<T>(random.word[w]) + T(0.5)) * T(0x1p-32);
      if ((uniform < (above ? -tail : tail)) != above) bits |= 1u << w;
    }
    sum += __popc(bits);
    bits <<= 4 * (lane % 8);  // eight lanes fill a word
    for (int flip = 1; flip < 8; flip *= 2) bits |= __shfl_xor_sync(0xFFFFFFFFu, bits, flip);
    if (lane % 8 == 0 && first < a.count) words[first / 32] = bits;
  }
  return team.reduce(sum, Add());
}

// Draws A until a draw is accepted; returns what is left for B, or -1 when that did not end.
template <class T, int kThreads>
DG_DEVICE int64_t draw_level(Team<kThreads>& team, const HalvingLevel& level, const Items<T>& items,
                             uint64_t seed, uint64_t row, uint32_t number, uint32_t* words) {
  const Items<T> a = items.every_second(level.parity);
  const T s = static_cast<T>(level.tilt);
  for (uint32_t rejection = 0; rejection < kMaxRejections; ++rejection) {
    const uint32_t round = number << 16 | rejection;
    const int64_t drawn =
        draw_half(team, a, s, philox_stream(seed, row, Purpose::kItemDraw, round), words);
    const int64_t rest = level.target - drawn;
    const double uniform = philox_uniform(philox_stream(seed, row, Purpose::kAcceptance, round), 0);
    if (uniform * level.peak < probability_of_half(level, rest)) return rest;
  }
  return -1;
}

}  // namespace cuda
}  // namespace dg
