// SPDX-License-Identifier: Apache-2.0
//
// The end of halving: few enough items are left for the tree, whose lanes serve several draws at
// once. Draws wait, with what is already chosen of their rows, until a vector is full.
#pragma once

#include "cpu/simd/sample_tree.h"

namespace dg {
inline namespace CPU_CAPABILITY {

// Where the items at hand lie in the row: offset + stride * position.
struct Stride {
  int64_t offset = 0, step = 1;
};

// A sampler by the tree, for a number of items that seldom changes.
template <class Lanes>
class RestTree {
 public:
  RestTree() : rows(kTreeItems) {}
  ~RestTree() { delete sampler_; }
  RestTree(const RestTree&) = delete;
  RestTree& operator=(const RestTree&) = delete;

  TreeSampler<Lanes>& sampler(int64_t items) {
    if (sampler_ == nullptr || sampler_->items() != items) {
      delete sampler_;
      sampler_ = nullptr;  // should the allocation throw
      sampler_ = new TreeSampler<Lanes>(items);
    }
    return *sampler_;
  }

  LaneRows<Lanes> rows;

 private:
  TreeSampler<Lanes>* sampler_ = nullptr;
};

template <class T>
class RestBatch {
 public:
  static constexpr int kLanes = Wide<T>::kLanes;

  RestBatch(int64_t n, uint64_t seed, const SubsetOutput& out)
      : n_(n),
        seed_(seed),
        out_(out),
        room_(n <= kSampledTogether ? kLanes : 1),
        chosen_(room_ * n),
        items_(room_ * kTreeItems) {}

  // One byte for each item of the row that is being drawn.
  uint8_t* chosen() { return chosen_.get() + waiting_ * n_; }

  // The row is drawn; it has k items. `valid`: or it could not be.
  void finish(uint64_t row, int64_t k, bool valid) {
    write_subset(out_, static_cast<int64_t>(row), n_, k, valid ? chosen() : nullptr);
  }

  // `target` of `m` items, the last of the row, are to be drawn at a level. All that wait are
  // alike.
  void add(const T* items, int64_t m, int64_t target, int level, Stride at, uint64_t row,
           int64_t k) {
    if (waiting_ > 0 && (m != m_ || level != level_)) {
      const uint8_t* current = chosen();
      flush();
      std::memmove(chosen(), current, static_cast<size_t>(n_));
    }
    m_ = m;
    level_ = level;
    std::memcpy(items_.get() + waiting_ * m, items, static_cast<size_t>(m) * sizeof(T));
    target_[waiting_] = target;
    at_[waiting_] = at;
    row_[waiting_] = row;
    k_[waiting_] = k;
    if (++waiting_ == room_) flush();
  }

  void flush() {
    if (waiting_ == 1) {
      draw(single_);
    } else if (waiting_ > 1) {
      draw(wide_);
    }
    waiting_ = 0;
  }

 private:
  template <class Lanes>
  void draw(RestTree<Lanes>& tree) {
    const Rows<T> problem{items_.get(), target_, 0, waiting_, m_};
    TreeSampler<Lanes>& sampler = tree.sampler(m_);
    tree.rows.load_rows(problem, 0, waiting_);
    tree.rows.tilt();
    sampler.prepare(tree.rows);
    for (int l = waiting_; l < Lanes::kLanes; ++l) row_[l] = row_[waiting_ - 1];
    sampler.draw(seed_, row_, static_cast<uint32_t>(level_) << 16);
    for (int64_t p = 0; p < m_; ++p) {
      typename Lanes::IntScalar lane[Lanes::kLanes];
      const typename Lanes::Int drawn = sampler.chosen(p);
      std::memcpy(lane, &drawn, sizeof(lane));
      for (int l = 0; l < waiting_; ++l) {
        chosen_[l * n_ + at_[l].offset + at_[l].step * p] = static_cast<uint8_t>(lane[l]);
      }
    }
    for (int l = 0; l < waiting_; ++l) {
      write_subset(out_, static_cast<int64_t>(row_[l]), n_, k_[l], chosen_.get() + l * n_);
    }
  }

  int64_t n_;
  uint64_t seed_;
  const SubsetOutput& out_;
  int room_, waiting_ = 0;
  Buffer<uint8_t> chosen_;  // [room, n]
  Buffer<T> items_;         // [room, m]
  int64_t m_ = 0;
  int level_ = 0;
  int64_t target_[kLanes], k_[kLanes];
  uint64_t row_[kLanes];
  Stride at_[kLanes];
  RestTree<Single<T>> single_;
  RestTree<Wide<T>> wide_;
};

}  // namespace CPU_CAPABILITY
}  // namespace dg
