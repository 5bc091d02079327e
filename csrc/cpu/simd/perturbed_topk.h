// SPDX-License-Identifier: Apache-2.0
//
// The k largest of logits plus noise, and the difference of two such selections. A row is perturbed
// tile by tile as its noise is made; only its perturbed values are kept, for the selection.
#pragma once

#include "cpu/simd/noise.h"
#include "cpu/simd/row.h"
#include "cpu/simd/selection.h"

namespace dg {
inline namespace CPU_CAPABILITY {

// The noise of rows of n items, tile by tile; all 0 if `silent`.
template <class T>
class NoiseTiles {
 public:
  NoiseTiles(const NoiseLaw<T>& law, bool silent, int64_t n, const Executor& executor)
      : law_(law), silent_(silent), n_(n), blocks_(blocks_of(n)), executor_(executor) {
    if (silent_) fill_zeros(noise_);
  }

  // Short rows come this many to a tile.
  int64_t rows_together() const { return larger(kNoiseTile / (4 * blocks_), int64_t{1}); }

  // start(index), then tile(index, begin, end, noise) for all items of the row, then finish(index),
  // for the rows row + index * step. Only the tiles of one row may run side by side.
  template <class Start, class Tile, class Finish>
  void visit(int64_t row, int64_t step, int64_t count, Start&& start, Tile&& tile,
             Finish&& finish) {
    if (4 * blocks_ <= kNoiseTile) {
      for (int64_t first = 0; first < count; first += rows_together()) {
        const int64_t rows = smaller(rows_together(), count - first);
        make(row + first * step, step, 0, rows * blocks_, noise_);
        for (int64_t r = 0; r < rows; ++r) {
          start(first + r);
          tile(first + r, int64_t{0}, n_, noise_ + r * 4 * blocks_);
          finish(first + r);
        }
      }
      return;
    }
    for (int64_t index = 0; index < count; ++index) {
      start(index);
      auto body = [&](int64_t, int64_t begin, int64_t end) {
        alignas(kVectorBytes) T noise[kNoiseRoom];
        if (silent_) fill_zeros(noise);
        for (int64_t at = begin; at < end; at += kNoiseTile) {
          const int64_t stop = smaller(at + kNoiseTile, end);
          make(row + index * step, step, at / 4, blocks_of(stop - at), noise);
          tile(index, at, stop, noise);
        }
      };
      for_segments(n_, executor_, body);
      finish(index);
    }
  }

 private:
  static void fill_zeros(T* noise) { std::memset(noise, 0, kNoiseRoom * sizeof(T)); }

  void make(int64_t row, int64_t step, int64_t block, int64_t count, T* noise) const {
    if (silent_) return;
    make_noise<T>(law_, static_cast<uint64_t>(row), static_cast<uint64_t>(step), n_, block, count,
                  noise);
  }

  NoiseLaw<T> law_;
  bool silent_;
  int64_t n_, blocks_;
  const Executor& executor_;
  alignas(kVectorBytes) T noise_[kNoiseRoom];
};

// What the values of a row, or of a part of it, are like.
template <class T>
struct RowExtent {
  T least = T(INFINITY), most = -T(INFINITY);  // of the live items
  int64_t forced = 0, excluded = 0;            // +inf and -inf logits, the padding among the latter
  bool is_finite = true;                       // the values of the live items

  void add(const RowExtent& other) {
    least = smaller(least, other.least);
    most = larger(most, other.most);
    forced += other.forced;
    excluded += other.excluded;
    is_finite = is_finite && other.is_finite;
  }
};

// The perturbed values of one row, and the selection among them.
template <class T>
class PerturbedRow {
 public:
  using Lanes = Wide<T>;
  using Real = typename Lanes::Real;
  using Int = typename Lanes::Int;

  explicit PerturbedRow(int64_t n)
      : n_(n),
        size_(padded_size<T>(n)),
        values_(size_),
        scratch_(search_scratch_size<T>(n)),
        extents_(segment_count(n)) {
    forget();
  }

  const T* values() const { return values_.get(); }
  int64_t size() const { return size_; }

  // Items [begin, end): value(i, count, theta, noise) at i, i + 1, ..., or the logit if infinite.
  template <class Value>
  void perturb(const T* theta, int64_t begin, int64_t end, const T* noise, Value&& value) {
    const Real infinity = splat<Lanes>(T(INFINITY));
    Real least = infinity, most = -infinity;
    Int forced{}, excluded{}, spoiled{};
    for (int64_t i = begin; i < end; i += Lanes::kLanes) {
      const int count = static_cast<int>(smaller(end - i, int64_t{Lanes::kLanes}));
      const Real logit = load_items<Lanes>(theta, i, count, -T(INFINITY));
      const Int is_forced = logit == infinity, is_excluded = logit == -infinity;
      const Int is_settled = is_forced | is_excluded;
      const Real moved = value(i, count, logit, load<Lanes>(noise + (i - begin)));
      const Real x = select(is_settled, logit, moved);
      spoiled |= ~is_settled & ~((x < infinity) & (x > -infinity));
      least = smaller(select(is_settled, infinity, x), least);
      most = larger(select(is_settled, -infinity, x), most);
      forced -= is_forced;
      excluded -= is_excluded;
      store<Lanes>(&values_[i], x);
    }
    RowExtent<T> extent;
    extent.least = smallest_lane(least);
    extent.most = largest_lane(most);
    extent.forced = add_lanes(forced);
    extent.excluded = add_lanes(excluded);
    extent.is_finite = lane_bits(spoiled) == 0;
    extents_[begin / kSegment].add(extent);
  }

  // A threshold that exactly k values reach; NaN for an invalid row. Values that equal it but come
  // too late are lost. Then the row is ready for other values.
  T select_largest(int64_t k) {
    RowExtent<T> all;
    for (int64_t segment = 0; segment < segment_count(n_); ++segment) all.add(extents_[segment]);
    forget();
    const int64_t live = size_ - all.forced - all.excluded;
    const int64_t wanted = k - all.forced;
    const bool is_valid = all.is_finite && k >= 0 && k <= n_ && wanted >= 0 && wanted <= live;
    if (!is_valid) return T(NAN);
    if (wanted == 0) return T(INFINITY);
    if (wanted == live) return all.least;
    const Threshold<T> last =
        n_ <= kShortRow
            ? rank_few<T>(values_.get(), n_, k)
            : ThresholdSearch<T>(values_.get(), size_, n_ < kLongRow ? nullptr : scratch_.get())
                  .run(all.least, all.most, live, all.forced, wanted);
    const int64_t surplus = last.count - (n_ <= kShortRow ? k : wanted);
    drop_last_equals(values_.get(), size_, last.value, surplus);
    return last.value;
  }

 private:
  void forget() {
    for (int64_t segment = 0; segment < segment_count(n_); ++segment) extents_[segment] = {};
  }

  int64_t n_, size_;
  Buffer<T> values_, scratch_;
  Buffer<RowExtent<T>> extents_;  // by segment
};

template <class T>
void perturbation_noise(const NoiseLaw<T>& law, int64_t begin, int64_t end, int64_t n, T* out,
                        const Executor& executor) {
  NoiseTiles<T>(law, /*silent=*/false, n, executor)
      .visit(
          begin, /*step=*/1, end - begin, [](int64_t) {},
          [&](int64_t index, int64_t from, int64_t to, const T* noise) {
            std::memcpy(out + (begin + index) * n + from, noise,
                        static_cast<size_t>(to - from) * sizeof(T));
          },
          [](int64_t) {});
}

template <class Word, class T>
void write_hot(const PerturbedRow<T>& row, int64_t n, T threshold, const SubsetOutput& out,
               int64_t p) {
  Word* to = static_cast<Word*>(out.data) + p * n;
  const T* x = row.values();
  const Word one = static_cast<Word>(out.one);
  if (threshold != threshold) {
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<Word>(out.invalid);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = x[i] >= threshold ? one : Word(0);
  }
}

template <class T>
void write_indices(const PerturbedRow<T>& row, T threshold, int64_t k, int64_t* to) {
  using Lanes = Wide<T>;
  if (threshold != threshold) {
    for (int64_t j = 0; j < k; ++j) to[j] = -1;
    return;
  }
  for (int64_t i = 0; i < row.size(); i += Lanes::kLanes) {
    uint32_t bits = lane_bits(load<Lanes>(row.values() + i) >= threshold);
    for (; bits != 0; bits &= bits - 1) *to++ = i + __builtin_ctz(bits);
  }
}

template <class T>
void perturbed_topk(const Rows<T>& problem, const NoiseLaw<T>& law, T temperature, int64_t begin,
                    int64_t end, const SubsetOutput& out, const Executor& executor) {
  using Real = typename Wide<T>::Real;
  const int64_t n = problem.n;
  PerturbedRow<T> row(n);
  NoiseTiles<T> tiles(law, /*silent=*/temperature == T(0), n, executor);
  const T* theta = nullptr;
  tiles.visit(
      begin, /*step=*/1, end - begin,
      [&](int64_t index) { theta = problem.logits + (begin + index) % problem.rows * n; },
      [&](int64_t, int64_t from, int64_t to, const T* noise) {
        row.perturb(theta, from, to, noise, [=](int64_t, int, Real logit, Real eps) {
          return logit + rounded(temperature * eps);
        });
      },
      [&](int64_t index) {
        const int64_t p = begin + index;
        const int64_t k = problem.row_count(p % problem.rows);
        const T threshold = row.select_largest(k);
        if (out.form == SubsetOutput::Form::kIndices) {
          write_indices(row, threshold, k, static_cast<int64_t*>(out.data) + p * k);
        } else if (out.width == 2) {
          write_hot<uint16_t>(row, n, threshold, out, p);
        } else if (out.width == 4) {
          write_hot<uint32_t>(row, n, threshold, out, p);
        } else {
          write_hot<uint64_t>(row, n, threshold, out, p);
        }
      });
}

// Adds left minus right, as members (1) or not (0), to sums; returns how many entries differ.
template <class T>
DG_INLINE int64_t add_difference(const PerturbedRow<T>& left, T left_threshold,
                                 const PerturbedRow<T>& right, T right_threshold,
                                 typename Wide<T>::IntScalar* sums) {
  using Lanes = Wide<T>;
  using Int = typename Lanes::Int;
  Int differing{};
  for (int64_t i = 0; i < left.size(); i += Lanes::kLanes) {
    const Int in_left = load<Lanes>(left.values() + i) >= left_threshold;
    const Int in_right = load<Lanes>(right.values() + i) >= right_threshold;
    Int sum;
    std::memcpy(&sum, sums + i, sizeof(sum));
    sum += in_right - in_left;
    std::memcpy(sums + i, &sum, sizeof(sum));
    differing -= in_left ^ in_right;
  }
  return add_lanes(differing);
}

template <class T>
void perturbed_difference(const Rows<T>& problem, const NoiseLaw<T>& law,
                          const PerturbedPair<T>& pair, int64_t begin, int64_t end, int64_t first,
                          int64_t last, T* sums, int64_t* nonzeros, const Executor& executor) {
  using Lanes = Wide<T>;
  using Real = typename Lanes::Real;
  using Count = typename Lanes::IntScalar;
  const int64_t n = problem.n;
  const bool silent = pair.left_temperature == T(0) && pair.right_temperature == T(0);
  NoiseTiles<T> tiles(law, silent, n, executor);
  PerturbedRow<T> left(n), right(n);
  // A tile is filled with rows of one sample, or with samples of one row, whichever are more.
  const bool by_rows = end - begin >= last - first;
  const int64_t group = by_rows ? smaller(tiles.rows_together(), end - begin) : 1;
  Buffer<T> buffer(n);
  Buffer<Count> counts(group * left.size());
  Buffer<bool> is_valid(group);

  const auto serve = [&](int64_t start_row, int64_t start_sample, int64_t count) {
    const auto row_of = [=](int64_t index) { return by_rows ? start_row + index : start_row; };
    const auto sample_of = [=](int64_t index) {
      return by_rows ? start_sample : start_sample + index;
    };
    const T* theta = nullptr;
    const T* gradient = nullptr;
    T step = T(0);
    tiles.visit(
        start_sample * problem.rows + start_row, by_rows ? 1 : problem.rows, count,
        [&](int64_t index) {
          const int64_t r = row_of(index);
          theta = problem.logits + r * n;
          step = pair.step[r];
          gradient = pair.gradient(pair.context, sample_of(index), r, buffer.get());
        },
        [&](int64_t, int64_t from, int64_t to, const T* noise) {
          const auto move = [=](int64_t i, int items) {
            return rounded(step * load_items<Lanes>(gradient, i, items, T(0)));
          };
          const auto left_fixed = [&](Real logit, Real eps) {
            return rounded(pair.left_alpha * logit) + rounded(pair.left_temperature * eps);
          };
          if (pair.symmetric) {
            left.perturb(theta, from, to, noise, [&](int64_t i, int items, Real logit, Real eps) {
              return left_fixed(logit, eps) + move(i, items);
            });
          } else {
            left.perturb(theta, from, to, noise, [&](int64_t, int, Real logit, Real eps) {
              return left_fixed(logit, eps);
            });
          }
          right.perturb(theta, from, to, noise, [&](int64_t i, int items, Real logit, Real eps) {
            return (rounded(pair.right_alpha * logit) - move(i, items)) +
                   rounded(pair.right_temperature * eps);
          });
        },
        [&](int64_t index) {
          const int64_t r = row_of(index), slot = r - start_row;
          const T left_threshold = left.select_largest(problem.row_count(r));
          const T right_threshold = right.select_largest(problem.row_count(r));
          if (left_threshold != left_threshold || right_threshold != right_threshold) {
            is_valid[slot] = false;
          } else {
            nonzeros[r] += add_difference(left, left_threshold, right, right_threshold,
                                          counts.get() + slot * left.size());
          }
        });
  };

  for (int64_t r = begin; r < end; r += group) {
    const int64_t rows = smaller(group, end - r);
    for (int64_t i = 0; i < rows * left.size(); ++i) counts[i] = 0;
    for (int64_t slot = 0; slot < rows; ++slot) {
      nonzeros[r + slot] = 0;
      is_valid[slot] = true;
    }
    if (by_rows) {
      for (int64_t sample = first; sample < last; ++sample) serve(r, sample, rows);
    } else {
      serve(r, first, last - first);
    }
    for (int64_t slot = 0; slot < rows; ++slot) {
      const Count* count = counts.get() + slot * left.size();
      T* to = sums + (r + slot) * n;
      for (int64_t i = 0; i < n; ++i) to[i] = is_valid[slot] ? static_cast<T>(count[i]) : T(NAN);
      if (!is_valid[slot]) nonzeros[r + slot] = 0;
    }
  }
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
