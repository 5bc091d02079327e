// SPDX-License-Identifier: Apache-2.0
//
// A balanced tree over the items of a row. Node h holds the law of the number of chosen items below
// it, up to a largest count: the truncated product of its children's polynomials.
//
// Nodes are numbered as in a heap: root 1, children 2h and 2h + 1, leaf of item i at width + i. The
// width is a power of two; a child without items is the constant 1, and its parent shares the other
// child's storage.
#pragma once

#include "cpu/simd/buffer.h"

namespace dg {
inline namespace CPU_CAPABILITY {

class TreePlan {
 public:
  TreePlan(int64_t items, int64_t max_count)
      : items_(items),
        width_(width_for(items)),
        below_(2 * width_),
        offset_(2 * width_),
        degree_(2 * width_) {
    for (int64_t h = 2 * width_ - 1; h >= 1; --h) {
      const bool is_leaf = h >= width_;
      below_[h] = is_leaf ? (h - width_ < items_ ? 1 : 0) : below_[2 * h] + below_[2 * h + 1];
    }
    set_max_count(max_count);
  }

  void set_max_count(int64_t max_count) {
    if (max_count == max_count_) return;
    max_count_ = max_count;
    size_ = 0;
    for (int64_t h = 2 * width_ - 1; h >= 1; --h) {
      const bool is_leaf = h >= width_;
      degree_[h] = below_[h] < max_count ? below_[h] : max_count;
      if (below_[h] == 0) {
        offset_[h] = kEmpty;
      } else if (!is_leaf && is_empty(2 * h + 1)) {
        offset_[h] = offset_[2 * h];
      } else {
        offset_[h] = size_;
        // A leaf has two coefficients also where no item may be counted (max_count = 0).
        size_ += (is_leaf ? 1 : degree_[h]) + 1;
      }
    }
  }

  bool is_empty(int64_t h) const { return offset_[h] == kEmpty; }
  int64_t width() const { return width_; }
  int64_t size() const { return size_; }
  int64_t offset(int64_t h) const { return offset_[h]; }
  int64_t degree(int64_t h) const { return degree_[h]; }
  int64_t leaf_offset(int64_t item) const { return offset_[width_ + item]; }
  // An inner node with items below both children: the only ones with work to do.
  bool is_product(int64_t h) const { return h < width_ && !is_empty(2 * h + 1); }

 private:
  static constexpr int64_t kEmpty = -1;
  static int64_t width_for(int64_t items) {
    int64_t width = 1;
    while (width < items) width *= 2;
    return width;
  }

  int64_t items_;
  int64_t width_;
  int64_t max_count_ = -1;
  int64_t size_ = 0;
  Buffer<int64_t> below_;  // items below each node
  Buffer<int64_t> offset_;
  Buffer<int64_t> degree_;
};

// A plan and the memory that a walk over its tree needs, kept from one group of rows to the next.
template <class NumberType, class RealType = NumberType>
class TreeWorkspace {
 public:
  explicit TreeWorkspace(int64_t items) : plan_(items, 0), values_(0), adjoints_(0), columns_(0) {}

  void plan_for(int64_t items, int64_t max_count) {
    plan_.set_max_count(max_count);
    values_.reserve(plan_.size());
    adjoints_.reserve(plan_.size());
    columns_.reserve(items);
  }

  const TreePlan& plan() const { return plan_; }
  NumberType* values() { return values_.get(); }
  NumberType* adjoints() { return adjoints_.get(); }
  RealType* columns() { return columns_.get(); }  // [items]

 private:
  TreePlan plan_;
  Buffer<NumberType> values_, adjoints_;
  Buffer<RealType> columns_;
};

// Values bottom-up. `root_from`: the lowest coefficient wanted of the root.
template <class Algebra>
void tree_up(const TreePlan& plan, typename Algebra::Number* values, int64_t root_from) {
  for (int64_t h = plan.width() - 1; h >= 1; --h) {
    if (!plan.is_product(h)) continue;
    const int64_t from = h == 1 ? root_from : 0;
    Algebra::multiply(values + plan.offset(2 * h), plan.degree(2 * h),
                      values + plan.offset(2 * h + 1), plan.degree(2 * h + 1),
                      values + plan.offset(h), from, plan.degree(h));
  }
}

// Adjoints top-down: the caller has filled the root's, from `root_from` on.
template <class Algebra>
void tree_down(const TreePlan& plan, const typename Algebra::Number* values,
               typename Algebra::Number* adjoints, int64_t root_from) {
  for (int64_t h = 1; h < plan.width(); ++h) {
    if (!plan.is_product(h)) continue;
    const int64_t left = plan.offset(2 * h), right = plan.offset(2 * h + 1);
    const int64_t from = h == 1 ? root_from : 0;
    Algebra::pull_back(values + left, plan.degree(2 * h), values + right, plan.degree(2 * h + 1),
                       values + plan.offset(h), adjoints + plan.offset(h), from, plan.degree(h),
                       adjoints + left, adjoints + right);
  }
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
