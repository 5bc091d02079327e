// SPDX-License-Identifier: Apache-2.0
//
// Exact sampling of long rows by halving with rejection, O(n) (docs/mathematics.md, "Sampling").
//
// The items at hand fall into two interleaved halves A and B. Independent draws of A with sum x are
// accepted with probability P_B(j - x) / max P_B, which makes them draws of A given the total j. A
// is kept, and B is next with what is left of j.
#pragma once

#include "cpu/simd/sample_rest.h"

namespace dg {
inline namespace CPU_CAPABILITY {

// A half takes more than its share of the variance only up to this factor, or it becomes B: this
// bounds the rejections where all uncertain items have positions of one parity.
constexpr double kVarianceImbalance = 2.0;
constexpr int kMaxRejections = 1 << 16;

// One level: the halves of `m` items at the tilt for a target, and the law of the sum of B.
template <class T>
class Halving {
 public:
  explicit Halving(int64_t most_items)
      : tails_(most_items),
        tails_a_(most_items / 2 + 1),
        tails_b_(most_items / 2 + 1),
        logits_b_(most_items / 2 + 1),
        drawn_(most_items / 2 + 1),
        sums_(segment_count(most_items)) {}

  // known: sums of the items at another tilt, or null.
  void prepare(const T* items, int64_t m, int64_t target, const RowSummary& summary,
               const TiltedRow<T>* known, const Executor& executor, Workspace& work) {
    target_ = target;
    const TiltedRow<T> tilted = find_tilt<T>(items, m, target, summary, kSamplingTilt,
                                             /*polish=*/true, tails_.get(), executor, work, known);
    const double variance = tilted.sums.variance, odd_variance = tilted.sums.odd_variance;
    parity_ = variance - odd_variance > kVarianceImbalance * odd_variance ? 1 : 0;
    size_a_ = parity_ == 0 ? (m + 1) / 2 : m / 2;
    size_b_ = m - size_a_;
    const int64_t longer = size_a_ > size_b_ ? size_a_ : size_b_;
    const TailSums sums = sum_segments(longer, executor, work, [&](int64_t begin, int64_t end) {
      take_every_second(tails_.get() + parity_, begin, end < size_a_ ? end : size_a_,
                        tails_a_.get());
      const int64_t other = 1 - parity_, end_b = end < size_b_ ? end : size_b_;
      take_every_second(tails_.get() + other, begin, end_b, tails_b_.get());
      take_every_second(items + other, begin, end_b, logits_b_.get());
      return sum_tails<T>(tails_b_.get(), begin, end_b);
    });
    summary_b_ = summarize<T>(logits_b_.get(), size_b_, executor, work.summary.get());
    above_b_ = sums.above;
    tilted_b_ = {tilted.s, sums};
    // Where A leads, B is asked for counts as far out as the whole row varies: an alias of its own
    // peak must not be nearer than that.
    nodes_ = make_nodes<T>(node_count<NodeRule<T>>(sums.variance, variance, summary_b_.live));
    node_products<T>(tails_b_.get(), size_b_, nodes_, product_, executor, work);
    largest_ =
        largest_probability_b(above_b_ + static_cast<int64_t>(std::floor(sums.excess_tails)));
  }

  // Draws A; returns what is left for B, or -1 when the rejections did not end.
  int64_t draw(uint64_t seed, uint64_t row, uint32_t level, const Executor& executor) {
    for (uint32_t rejection = 0; rejection < kMaxRejections; ++rejection) {
      const uint32_t round = level << 16 | rejection;
      const int64_t rest =
          target_ - draw_items(philox_stream(seed, row, Purpose::kItemDraw, round), executor);
      const double probability = probability_b(rest, first_phase(nodes_.total, above_b_, rest));
      const PhiloxStream stream = philox_stream(seed, row, Purpose::kAcceptance, round);
      if (philox_uniform(stream, 0) * largest_ < probability) return rest;
    }
    return -1;
  }

  int64_t parity_a() const { return parity_; }
  int64_t size_a() const { return size_a_; }
  int64_t size_b() const { return size_b_; }
  const uint8_t* drawn() const { return drawn_.get(); }
  const T* logits_b() const { return logits_b_.get(); }
  const RowSummary& summary_b() const { return summary_b_; }
  const TiltedRow<T>& tilted_b() const { return tilted_b_; }  // at the tilt of A and B together

 private:
  static void take_every_second(const T* from, int64_t begin, int64_t end, T* to) {
    for (int64_t p = begin; p < end; ++p) to[p] = from[2 * p];
  }

  // The mode of B is one of the four integers around its mean.
  double largest_probability_b(int64_t floor_of_mean) const {
    const Complex back{nodes_.unit.re, -nodes_.unit.im};
    Complex first = first_phase(nodes_.total, above_b_, floor_of_mean - 1);
    double largest = 0.0;
    for (int64_t count = floor_of_mean - 1; count <= floor_of_mean + 2; ++count) {
      const double probability = probability_b(count, first);
      if (probability > largest) largest = probability;
      first = multiply(first, back);
    }
    return largest;
  }

  // P(sum of B = count) by the contour; 0 where B cannot have that many. first: first_phase.
  double probability_b(int64_t count, Complex first) const {
    if (count < summary_b_.forced || count > summary_b_.forced + summary_b_.live) return 0.0;
    double sum = 1.0;
    for_node_terms(product_, nodes_.kept, first, [&](int, Complex term) { sum += 2.0 * term.re; });
    return sum > 0.0 ? sum / static_cast<double>(nodes_.total) : 0.0;
  }

  int64_t draw_items(const PhiloxStream& stream, const Executor& executor) {
    auto body = [&](int64_t segment, int64_t begin, int64_t end) {
      sums_[segment] = draw_segment(stream, begin, end);
    };
    for_segments(size_a_, executor, body);
    int64_t total = 0;
    for (int64_t segment = 0; segment < segment_count(size_a_); ++segment) total += sums_[segment];
    return total;
  }

  // Bernoulli(q): v < q where q <= 1/2, otherwise not (v < p): the fine end of v is at 0.
  int64_t draw_segment(const PhiloxStream& stream, int64_t begin, int64_t end) {
    constexpr int kWords = kStreamWords;
    uint32_t words[kWords];
    uint8_t chosen[kWords];
    int64_t total = 0;
    int64_t p = begin;
    for (; p + kWords <= end; p += kWords) {
      stream_words(stream, p / 4, words);
      total += draw_words(words, tails_a_.get() + p, drawn_.get() + p);
    }
    if (p < end) {
      T tails[kWords] = {};
      std::memcpy(tails, tails_a_.get() + p, static_cast<size_t>(end - p) * sizeof(T));
      stream_words(stream, p / 4, words);
      total += draw_words(words, tails, chosen);
      std::memcpy(drawn_.get() + p, chosen, static_cast<size_t>(end - p));
    }
    return total;
  }

  // A tail of +0 never chooses its item, so that padding adds nothing to the count.
  static int64_t draw_words(const uint32_t* words, const T* tails, uint8_t* chosen) {
    constexpr int kWords = kStreamWords;
    using Bits = typename Wide<T>::IntScalar;
    T uniform[kWords];
    for (int i = 0; i < kWords; ++i) {
      uniform[i] = (static_cast<T>(words[i]) + T(0.5)) * T(0x1p-32);
    }
    Bits hit[kWords];
    Bits total = 0;
    for (int i = 0; i < kWords; ++i) {
      const Bits above = bit_cast<Bits>(tails[i]) < 0 ? 1 : 0;
      const Bits rare = uniform[i] < std::fabs(tails[i]) ? 1 : 0;
      hit[i] = rare ^ above;
      total += hit[i];
    }
    for (int i = 0; i < kWords; ++i) chosen[i] = static_cast<uint8_t>(hit[i]);
    return total;
  }

  Buffer<T> tails_, tails_a_, tails_b_, logits_b_;
  Buffer<uint8_t> drawn_;
  Buffer<int64_t> sums_;  // of each segment of A
  int64_t target_ = 0, parity_ = 0, size_a_ = 0, size_b_ = 0, above_b_ = 0;
  RowSummary summary_b_;
  TiltedRow<T> tilted_b_{};
  Nodes<T> nodes_;
  Complex product_[kMostNodes];
  double largest_ = 0.0;
};

// Halves in use, one for each level; a level is allocated when it is first reached.
template <class T>
class HalvingStack {
 public:
  HalvingStack() : levels_{} {}
  ~HalvingStack() {
    for (Halving<T>* level : levels_) delete level;
  }
  HalvingStack(const HalvingStack&) = delete;
  HalvingStack& operator=(const HalvingStack&) = delete;

  Halving<T>& at(int level, int64_t most_items) {
    if (levels_[level] == nullptr) levels_[level] = new Halving<T>(most_items);
    return *levels_[level];
  }

 private:
  static constexpr int kMostLevels = 64;
  Halving<T>* levels_[kMostLevels];
};

// One sample of one ordinary row of k items; level 0 of `stack` is prepared.
template <class T>
void draw_row(int64_t n, int64_t k, uint64_t seed, uint64_t stream_row, HalvingStack<T>& stack,
              RestBatch<T>& batch, const Executor& executor, Workspace& work) {
  uint8_t* chosen = batch.chosen();
  Stride at;
  for (int level = 0;; ++level) {
    Halving<T>& half = stack.at(level, 0);
    const int64_t rest = half.draw(seed, stream_row, static_cast<uint32_t>(level), executor);
    if (rest < 0) return batch.finish(stream_row, k, /*valid=*/false);
    const int64_t parity = half.parity_a();
    for (int64_t p = 0; p < half.size_a(); ++p) {
      chosen[at.offset + at.step * (2 * p + parity)] = half.drawn()[p];
    }
    at = {at.offset + at.step * (1 - parity), 2 * at.step};
    const T* items = half.logits_b();
    const int64_t m = half.size_b();
    const RowKind kind = row_kind(half.summary_b(), rest);
    if (kind != RowKind::kOrdinary) {
      for (int64_t p = 0; p < m; ++p) {
        chosen[at.offset + at.step * p] =
            kind == RowKind::kNone ? items[p] == T(INFINITY) : items[p] > -T(INFINITY);
      }
      return batch.finish(stream_row, k, /*valid=*/true);
    }
    if (m <= kTreeItems) return batch.add(items, m, rest, level + 1, at, stream_row, k);
    stack.at(level + 1, (n >> (level + 1)) + 1)
        .prepare(items, m, rest, half.summary_b(), &half.tilted_b(), executor, work);
  }
}

template <class T>
void sample_long_rows(const Rows<T>& problem, int64_t begin, int64_t end, int64_t num_samples,
                      uint64_t seed, const SubsetOutput& out, const Executor& executor) {
  const int64_t n = problem.n;
  Workspace work(n);
  HalvingStack<T> stack;
  RestBatch<T> batch(n, seed, out);
  for (int64_t r = begin; r < end; ++r) {
    const T* row = problem.logits + r * n;
    const int64_t k = problem.row_count(r);
    const RowSummary summary = summarize<T>(row, n, executor, work.summary.get());
    const RowKind kind = row_kind(summary, k);
    if (kind == RowKind::kOrdinary) {
      stack.at(0, n).prepare(row, n, k, summary, /*known=*/nullptr, executor, work);
    }
    for (int64_t sample = 0; sample < num_samples; ++sample) {
      const int64_t p = sample * problem.rows + r;
      if (kind == RowKind::kOrdinary) {
        draw_row<T>(n, k, seed, static_cast<uint64_t>(p), stack, batch, executor, work);
      } else {
        write_certain<T>(out, p, problem, r, kind);
      }
    }
    // Threads share rows whose draws wait out in whole vectors (kSampledTogether): so the same
    // draws wait together, whoever draws them.
    if ((r + 1) % RestBatch<T>::kLanes == 0) batch.flush();
  }
  batch.flush();
}

template <class T>
void sample(const Rows<T>& problem, int64_t begin, int64_t end, int64_t num_samples, uint64_t seed,
            const SubsetOutput& out, const Executor& executor) {
  if (problem.n <= kTreeItems) {
    sample_small_rows<T>(problem, begin, end, num_samples, seed, out);
  } else {
    sample_long_rows<T>(problem, begin, end, num_samples, seed, out, executor);
  }
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
