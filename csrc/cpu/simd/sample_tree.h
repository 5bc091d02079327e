// SPDX-License-Identifier: Apache-2.0
//
// Exact sampling by the tree, for rows of at most kTreeItems items: walk down from the root and
// split each node's count between its children. The law of a split does not depend on the tilt.
#pragma once

#include "core/philox.h"
#include "cpu/simd/random.h"
#include "cpu/simd/tree_marginals.h"

namespace dg {
inline namespace CPU_CAPABILITY {

constexpr int64_t kTreeItems = 64;

// The tree of a group of rows, ready to be walked any number of times.
template <class Lanes>
class TreeSampler {
 public:
  using Scalar = typename Lanes::Scalar;
  using Real = typename Lanes::Real;
  static constexpr int kLanes = Lanes::kLanes;

  explicit TreeSampler(const LaneRows<Lanes>& rows)
      : start_(select(rows.ordinary(), rows.k(), typename Lanes::Int{})),
        plan_(rows.n(), largest_lane(start_)),
        values_(plan_.size()),
        target_(2 * plan_.width() * kLanes) {
    const int64_t least = smallest_lane(start_);
    for (int64_t i = 0; i < rows.n(); ++i) {
      const Item<Lanes> item = unpack_item<Lanes>(rows.tail(i));
      values_[plan_.leaf_offset(i)] = item.p;
      values_[plan_.leaf_offset(i) + 1] = item.q;
    }
    tree_up<LinearAlgebra<Real>>(plan_, values_.get(), least);
  }

  // Draws one subset per lane. stream_rows: the Philox row of each lane.
  void draw(uint64_t seed, const uint64_t* stream_rows, uint32_t round) {
    const PhiloxStream tag = philox_stream(0, 0, Purpose::kTreeSplit, round);
    uint32_t words[4 * kLanes];
    int64_t block = -1;
    typename Lanes::IntScalar start[kLanes];
    std::memcpy(start, &start_, sizeof(start));
    for (int l = 0; l < kLanes; ++l) target_[kLanes + l] = static_cast<int>(start[l]);
    for (int64_t h = 1; h < plan_.width(); ++h) {
      if (plan_.is_empty(h)) continue;
      if (!plan_.is_product(h)) {
        for (int l = 0; l < kLanes; ++l) {
          target_[2 * h * kLanes + l] = target_[h * kLanes + l];
        }
        continue;
      }
      if (h / 4 != block) {
        block = h / 4;
        row_words<kLanes>(seed, stream_rows, tag.tag, static_cast<uint32_t>(block), words);
      }
      split(h, words + (h % 4) * kLanes);
    }
  }

  bool chosen(int64_t item, int lane) const {
    return target_[(plan_.width() + item) * kLanes + lane] != 0;
  }

 private:
  // The left child gets the smallest a whose cumulative weight exceeds v times the node's.
  void split(int64_t h, const uint32_t* words) {
    const Real* left = values_.get() + plan_.offset(2 * h);
    const Real* right = values_.get() + plan_.offset(2 * h + 1);
    const Real* both = values_.get() + plan_.offset(h);
    const int left_degree = static_cast<int>(plan_.degree(2 * h));
    const int right_degree = static_cast<int>(plan_.degree(2 * h + 1));
    const int* target = &target_[h * kLanes];
    Scalar lane[kLanes];
    int most = 0;
    for (int l = 0; l < kLanes; ++l) {
      lane[l] =
          static_cast<Scalar>(uniform_from_bits(words[l])) * get_lane<Lanes>(both[target[l]], l);
      if (target[l] > most) most = target[l];
    }
    const Real threshold = load<Lanes>(lane);
    Real cumulative{}, below{}, last{};
    const int end = most < left_degree ? most : left_degree;
    for (int a = 0; a <= end; ++a) {
      for (int l = 0; l < kLanes; ++l) {
        const int b = target[l] - a;
        lane[l] = b >= 0 && b <= right_degree ? get_lane<Lanes>(right[b], l) : Scalar(0);
      }
      const Real term = left[a] * load<Lanes>(lane);
      cumulative += term;
      below += select(cumulative <= threshold, splat<Lanes>(Scalar(1)), Real{});
      last = select(term > Real{}, splat<Lanes>(static_cast<Scalar>(a)), last);
    }
    // Rounding may leave the whole sum at or below the threshold: take the last possible split.
    store<Lanes>(lane, smaller(below, last));
    for (int l = 0; l < kLanes; ++l) {
      int a = static_cast<int>(lane[l]);
      if (a < target[l] - right_degree) a = target[l] - right_degree;
      if (a > target[l]) a = target[l];
      target_[2 * h * kLanes + l] = a;
      target_[(2 * h + 1) * kLanes + l] = target[l] - a;
    }
  }

  typename Lanes::Int start_;
  TreePlan plan_;
  Buffer<Real> values_;
  Buffer<int> target_;  // [heap node, lane]
};

// Marks the subset of a row that is certain: the forced items, or all but the excluded ones.
template <class T>
void mark_certain(const T* row, int64_t n, RowKind kind, uint8_t* chosen) {
  for (int64_t i = 0; i < n; ++i) {
    chosen[i] = kind == RowKind::kNone ? row[i] == T(INFINITY) : row[i] > -T(INFINITY);
  }
}

template <class T>
void sample_small_rows(const Rows<T>& problem, int64_t begin, int64_t end, int64_t num_samples,
                       uint64_t seed, const SampleSink& sink) {
  const int64_t n = problem.n;
  Buffer<uint8_t> chosen(n);
  for_lane_groups<T>(begin, end, n, [&](int64_t first, int count, auto& rows) {
    using Lanes = typename std::decay_t<decltype(rows)>::LanesType;
    rows.load_rows(problem, first, count);
    rows.tilt();
    TreeSampler<Lanes> sampler(rows);
    uint64_t stream_rows[Lanes::kLanes];
    for (int64_t sample = 0; sample < num_samples; ++sample) {
      for (int l = 0; l < Lanes::kLanes; ++l) {
        const int64_t r = first + (l < count ? l : count - 1);
        stream_rows[l] = static_cast<uint64_t>(sample * problem.rows + r);
      }
      sampler.draw(seed, stream_rows, /*round=*/0);
      for (int l = 0; l < count; ++l) {
        const RowKind kind = rows.kind(l);
        if (kind == RowKind::kOrdinary) {
          for (int64_t i = 0; i < n; ++i) chosen[i] = sampler.chosen(i, l);
        } else if (kind != RowKind::kInvalid) {
          mark_certain<T>(problem.logits + (first + l) * n, n, kind, chosen.get());
        }
        sink.accept(sink.context, first + l, sample,
                    kind == RowKind::kInvalid ? nullptr : chosen.get());
      }
    }
  });
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
