// SPDX-License-Identifier: Apache-2.0
//
// The k largest of a row without sorting it: a threshold t such that exactly k values are >= t.
//
// A bracket of the k-th largest value is narrowed by counting values, at thresholds where the
// logarithm of the count is interpolated (tails are near exponential), until few candidates are
// left. Comparisons are those of floats, so -0 equals +0; there are no NaN.
#pragma once

#include <cmath>

#include "cpu/simd/buffer.h"
#include "cpu/simd/vec.h"

namespace dg {
inline namespace CPU_CAPABILITY {

// So many candidates, and the items of so short a row, are ranked by comparing each with each.
constexpr int kFew = 16;
constexpr int64_t kShortRow = 32;

// Rows from this length on are searched through a sample of their values, and candidates are
// gathered as soon as they are an eighth.
constexpr int64_t kLongRow = 8192;
constexpr int64_t kSampleSize = 2048;
constexpr int64_t kGatherShare = 8;

template <class T>
DG_INLINE int64_t padded_size(int64_t n) {
  constexpr int64_t kLanes = Wide<T>::kLanes;
  return (n + kLanes - 1) / kLanes * kLanes;
}

// Integers in the order of the floats, the same for -0 and +0.
template <class T>
DG_INLINE typename Wide<T>::IntScalar order_key(T value) {
  using Int = typename Wide<T>::IntScalar;
  const Int bits = bit_cast<Int>(value + T(0));
  return bits < 0 ? bits ^ ~(Int(1) << (8 * sizeof(Int) - 1)) : bits;
}
template <class T>
DG_INLINE T value_of_key(typename Wide<T>::IntScalar key) {
  using Int = typename Wide<T>::IntScalar;
  return bit_cast<T>(key < 0 ? key ^ ~(Int(1) << (8 * sizeof(Int) - 1)) : key);
}

template <class T>
struct Threshold {
  T value;
  int64_t count;  // values >= value: k, or more where the last of them are equal
};

// The k-th largest value lies in [low, high).
template <class T>
struct Bracket {
  typename Wide<T>::IntScalar low, high;  // keys
  int64_t low_count, high_count;          // values >= low: at least k; >= high: fewer than k
};

// How many values are >= a, and how many >= b.
template <class T>
DG_INLINE void count_at_least(const T* x, int64_t size, T a, T b, int64_t* count_a,
                              int64_t* count_b) {
  using Lanes = Wide<T>;
  typename Lanes::Int at_a{}, at_b{};
  for (int64_t i = 0; i < size; i += Lanes::kLanes) {
    const auto value = load<Lanes>(x + i);
    at_a -= value >= a;
    at_b -= value >= b;
  }
  *count_a = add_lanes(at_a);
  *count_b = add_lanes(at_b);
}

// Copies the values in [low, high) to `to`, which may be x, in their order, and pads the last
// vector with -inf. Returns how many.
template <class T>
int64_t gather_between(const T* x, int64_t size, T low, T high, T* to) {
  using Lanes = Wide<T>;
  int64_t found = 0;
  for (int64_t i = 0; i < size; i += Lanes::kLanes) {
    const auto value = load<Lanes>(x + i);
    uint32_t bits = lane_bits((value >= low) & (value < high));
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    typename Lanes::Real packed;
    if constexpr (sizeof(T) == 4) {
      packed = _mm512_maskz_compress_ps(static_cast<__mmask16>(bits), value);
    } else {
      packed = _mm512_maskz_compress_pd(static_cast<__mmask8>(bits), value);
    }
    store<Lanes>(to + found, packed);
    found += __builtin_popcount(bits);
#else
    while (bits != 0) {
      to[found++] = x[i + __builtin_ctz(bits)];
      bits &= bits - 1;
    }
#endif
  }
  for (int64_t i = found; i < padded_size<T>(found); ++i) to[i] = -T(INFINITY);
  return found;
}

// The j-th largest of a few values, padded with -inf; j >= 1, and the j-th is > -inf.
template <class T>
Threshold<T> rank_few(const T* x, int64_t size, int64_t j) {
  using Lanes = Wide<T>;
  using Int = typename Lanes::Int;
  for (int64_t first = 0; first < size; first += Lanes::kLanes) {
    const auto value = load<Lanes>(x + first);
    Int greater{}, at_least{};
    for (int64_t i = 0; i < size; ++i) {
      greater -= x[i] > value;
      at_least -= x[i] >= value;
    }
    using IntScalar = typename Lanes::IntScalar;
    const IntScalar rank = static_cast<IntScalar>(j);
    const uint32_t bits = lane_bits((greater < rank) & (at_least >= rank));
    if (bits != 0) {
      const int lane = __builtin_ctz(bits);
      return {x[first + lane], static_cast<int64_t>(at_least[lane])};
    }
  }
  __builtin_unreachable();
}

// log2 of a positive number to 0.09, by the bits of its float.
DG_INLINE double rough_log2(double x) {
  return static_cast<double>(bit_cast<int32_t>(static_cast<float>(x))) * 0x1p-23;
}

template <class T>
class ThresholdSearch {
 public:
  using Key = typename Wide<T>::IntScalar;

  // `live` values between least and most are searched; k in [1, live]. Larger values, `above` of
  // them, and smaller ones may lie among x and do not count. scratch: room for the candidates of a
  // long row and for its sample, null for shorter rows.
  ThresholdSearch(const T* x, int64_t size, T* scratch) : x_(x), size_(size), scratch_(scratch) {}

  Threshold<T> run(T least, T most, int64_t live, int64_t above, int64_t k) {
    live_ = live;
    offset_ = -above;
    k_ = k;
    at_ = {order_key(least), order_key(most) + 1, live, 0};
    if (scratch_ != nullptr) start_from_sample(least, most);
    bool halved = true;
    while (true) {
      const int64_t inside = at_.low_count - at_.high_count;
      if (at_.low_count == k_ || at_.low + 1 == at_.high) {
        return {value_of_key<T>(at_.low), at_.low_count};
      }
      if (inside <= kFew) return finish();
      if (scratch_ != nullptr && inside <= size_ / kGatherShare) gather();
      if (halved) {
        interpolate();
      } else {
        bisect();
      }
      halved = 2 * (at_.low_count - at_.high_count) <= inside;
    }
  }

 private:
  T low() const { return value_of_key<T>(at_.low); }
  T high() const { return value_of_key<T>(at_.high); }

  Threshold<T> finish() {
    alignas(kVectorBytes) T few[kFew + Wide<T>::kLanes];
    const int64_t found = gather_between(x_, size_, low(), high(), few);
    const Threshold<T> last = rank_few(few, found, k_ - at_.high_count);
    return {last.value, at_.high_count + last.count};
  }

  // Two values between which the k-th largest very probably is: those of the ranks three standard
  // deviations to each side in a sample. It takes whole vectors, evenly spaced.
  void start_from_sample(T least, T most) {
    using Lanes = Wide<T>;
    const int64_t vectors = size_ / Lanes::kLanes;
    for (int64_t v = 0; v < kSampleSize / Lanes::kLanes; ++v) {
      const int64_t from = v * vectors / (kSampleSize / Lanes::kLanes) * Lanes::kLanes;
      const auto value = load<Lanes>(x_ + from);
      store<Lanes>(scratch_ + v * Lanes::kLanes,
                   larger(smaller(value, splat<Lanes>(most)), splat<Lanes>(least)));
    }
    const double share = static_cast<double>(k_ - offset_) / static_cast<double>(size_);
    const double rank = share * kSampleSize;
    const double margin = 3.0 + 3.0 * std::sqrt(rank * (1.0 - share));
    const auto key_at = [&](double r) {
      const auto j = static_cast<int64_t>(r);
      if (j < 1) return at_.high - 1;
      if (j > kSampleSize) return at_.low;
      ThresholdSearch sample(scratch_, kSampleSize, nullptr);
      return order_key(sample.run(least, most, kSampleSize, 0, j).value);
    };
    narrow_at(key_at(rank + margin), key_at(rank - margin));
  }

  void gather() {
    size_ = padded_size<T>(gather_between(x_, size_, low(), high(), scratch_));
    x_ = scratch_;
    offset_ = at_.high_count;
  }

  void narrow(Key key, int64_t count) {
    if (count >= k_) {
      if (key > at_.low) at_.low = key, at_.low_count = count;
    } else {
      if (key < at_.high) at_.high = key, at_.high_count = count;
    }
  }

  void narrow_at(Key a, Key b) {
    int64_t count_a, count_b;
    count_at_least(x_, size_, value_of_key<T>(a), value_of_key<T>(b), &count_a, &count_b);
    narrow(a, count_a + offset_);
    narrow(b, count_b + offset_);
  }

  // Where the interpolated count is `count`, strictly inside the bracket.
  Key key_for(double count) const {
    const bool upper = 2 * k_ <= live_;
    const auto scale = [&](double c) {
      return upper ? rough_log2(c + 0.5) : -rough_log2(static_cast<double>(live_) - c + 0.5);
    };
    const double at_low = scale(static_cast<double>(at_.low_count));
    const double at_high = scale(static_cast<double>(at_.high_count));
    const double share = (at_low - scale(count)) / (at_low - at_high);
    const double from = low(), to = high();
    const double value = from + share * (to - from);
    // Also where the difference overflowed.
    if (!(value > from && value < to)) return middle();
    const Key key = order_key(static_cast<T>(value));
    return key <= at_.low ? at_.low + 1 : key >= at_.high ? at_.high - 1 : key;
  }

  Key middle() const {
    // The floor of the mean, without overflow.
    const Key mean = (at_.low & at_.high) + ((at_.low ^ at_.high) >> 1);
    return mean == at_.low ? mean + 1 : mean;
  }

  // One threshold to each side of the wanted count.
  void interpolate() {
    const double k = static_cast<double>(k_);
    const double below = k - static_cast<double>(at_.high_count);
    const double above = static_cast<double>(at_.low_count) - k;
    const double margin = kFew / 4;
    narrow_at(key_for(k + smaller(above / 2, margin + above / 16)),
              key_for(k - smaller(below / 2, margin + below / 16)));
  }

  // The ends move to values of the row, so that equal values end the search.
  void bisect() {
    using Lanes = Wide<T>;
    const Key key = middle();
    const T t = value_of_key<T>(key);
    auto least = splat<Lanes>(T(INFINITY)), most = splat<Lanes>(-T(INFINITY));
    typename Lanes::Int count{};
    for (int64_t i = 0; i < size_; i += Lanes::kLanes) {
      const auto value = load<Lanes>(x_ + i);
      const auto reaches = value >= t;
      count -= reaches;
      least = smaller(least, select(reaches, value, splat<Lanes>(T(INFINITY))));
      most = larger(most, select(reaches, splat<Lanes>(-T(INFINITY)), value));
    }
    const int64_t reached = add_lanes(count) + offset_;
    if (reached >= k_) {
      narrow(order_key(smallest_lane(least)), reached);
    } else {
      narrow(order_key(largest_lane(most)) + 1, reached);
    }
  }

  const T* x_;
  int64_t size_;
  T* scratch_;
  int64_t live_ = 0, offset_ = 0, k_ = 0;
  Bracket<T> at_{};
};

// Room for the scratch of a search.
template <class T>
DG_INLINE int64_t search_scratch_size(int64_t n) {
  if (n < kLongRow) return 0;
  const int64_t gathered = n / kGatherShare;
  return (gathered > kSampleSize ? gathered : kSampleSize) + 2 * Wide<T>::kLanes;
}

// Sets the last `surplus` of the values that equal t to -inf.
template <class T>
void drop_last_equals(T* x, int64_t size, T t, int64_t surplus) {
  using Lanes = Wide<T>;
  for (int64_t i = size; surplus > 0;) {
    i -= Lanes::kLanes;
    uint32_t bits = lane_bits(load<Lanes>(x + i) == t);
    for (; bits != 0 && surplus > 0; --surplus) {
      const int last = 31 - __builtin_clz(bits);
      x[i + last] = -T(INFINITY);
      bits ^= 1u << last;
    }
  }
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
