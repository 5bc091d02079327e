// SPDX-License-Identifier: Apache-2.0
//
// A balanced tree over the items of a row. Node h holds the law of the number of chosen items below
// it, up to a largest count: the truncated product of its children's polynomials.
//
// Nodes are numbered as in a heap: root 1, children 2h and 2h + 1, leaf l at width + l. The width
// is a power of two; a child without items is the constant 1, and its parent shares the other
// child's storage. A leaf is one item, or a block of them (linear_block.h).
#pragma once

#include "cpu/simd/buffer.h"

namespace dg {
inline namespace CPU_CAPABILITY {

class TreePlan {
 public:
  // Of the last block a part may be missing: its items count as ones that are never chosen.
  TreePlan(int64_t items, int64_t max_count, int64_t items_per_leaf = 1)
      : leaves_((items + items_per_leaf - 1) / items_per_leaf),
        width_(width_for(leaves_)),
        below_(2 * width_),
        offset_(2 * width_),
        degree_(2 * width_) {
    for (int64_t h = 2 * width_ - 1; h >= 1; --h) {
      if (h < width_) {
        below_[h] = below_[2 * h] + below_[2 * h + 1];
      } else {
        below_[h] = h - width_ < leaves_ ? items_per_leaf : 0;
      }
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
        size_ += (is_leaf && degree_[h] == 0 ? 1 : degree_[h]) + 1;
      }
    }
  }

  bool is_empty(int64_t h) const { return offset_[h] == kEmpty; }
  int64_t leaves() const { return leaves_; }
  int64_t width() const { return width_; }
  int64_t size() const { return size_; }
  int64_t offset(int64_t h) const { return offset_[h]; }
  int64_t degree(int64_t h) const { return degree_[h]; }
  int64_t leaf_offset(int64_t leaf) const { return offset_[width_ + leaf]; }
  int64_t leaf_degree(int64_t leaf) const { return degree_[width_ + leaf]; }
  // An inner node with items below both children: the only ones with work to do.
  bool is_product(int64_t h) const { return h < width_ && !is_empty(2 * h + 1); }

 private:
  static constexpr int64_t kEmpty = -1;
  static int64_t width_for(int64_t items) {
    int64_t width = 1;
    while (width < items) width *= 2;
    return width;
  }

  int64_t leaves_;
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
  explicit TreeWorkspace(int64_t items, int64_t items_per_leaf = 1)
      : plan_(items, 0, items_per_leaf),
        values_(0),
        adjoints_(0),
        columns_(plan_.leaves() * items_per_leaf) {}

  void plan_for(int64_t max_count) {
    plan_.set_max_count(max_count);
    values_.reserve(plan_.size());
    adjoints_.reserve(plan_.size());
  }

  const TreePlan& plan() const { return plan_; }
  NumberType* values() { return values_.get(); }
  NumberType* adjoints() { return adjoints_.get(); }
  RealType* columns() { return columns_.get(); }  // [leaves, items of a leaf]

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
