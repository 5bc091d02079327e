// SPDX-License-Identifier: Apache-2.0
//
// The mean difference between two perturbed selections of the same noise (the gradient of I-MLE).
// Samples are shared out over teams, which add to one sum of integers for each item.
#include "cuda/contour.h"
#include "cuda/long_selection.cuh"
#include "cuda/row.cuh"
#include "cuda/topk_sides.cuh"

namespace dg {
namespace cuda {
namespace {

constexpr int kPlainThreads = 256;
// Teams of a launch, where there are samples enough: the last ones find the device busy.
constexpr int64_t kBusyTeams = 4096;

// A team for `each` samples of a row.
template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kBlockThreads, 1)
    short_difference_kernel(Rows<T> problem, NoiseLaw<T> law, PerturbedPair<T> pair,
                            int64_t num_samples, int64_t each, DifferenceSums out) {
  constexpr int kItems = Shape::kItems;
  Team<Shape::kThreads> team;
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * Shape::kTeams + team.index();
  const int64_t r = unit % problem.rows;
  int64_t sample = unit / problem.rows * each;
  if (sample >= num_samples) return;
  const int64_t end = sample + each < num_samples ? sample + each : num_samples;
  const int64_t k = count_of_row(problem, r);
  int sums[kItems] = {};
  int64_t differing = 0;
  for (; sample < end; ++sample) {
    const Sides<T> sides = sides_of(problem, pair, sample, r);
    KeyOf<T> left_keys[kItems] = {}, right_keys[kItems] = {};
    RowTally<int> left_tally, right_tally;
    for_own_items<kItems>(team, problem.n, sides.is_silent(), law,
                          noise_stream(law, sample * problem.rows + r),
                          [&](int j, int64_t i, T noise) {
                            const SideValues<T> x = sides.at(i, noise);
                            left_tally.add(sides.theta[i], x.left);
                            right_tally.add(sides.theta[i], x.right);
                            left_keys[j] = key_of(x.left);
                            right_keys[j] = key_of(x.right);
                          });
    left_tally.sums.of[0] += right_tally.sums.of[0];
    left_tally.sums = team.reduce(left_tally.sums, Add());
    if (!left_tally.has_subset(problem.n, k)) {
      if (team.rank() == 0) atomicAdd(out.invalid + r, 1);
      return;
    }
    const uint32_t left = choose_largest(team, left_keys, static_cast<int>(k));
    const uint32_t right = choose_largest(team, right_keys, static_cast<int>(k));
    differing += __popc(left ^ right);
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      sums[j] += static_cast<int>(left >> j & 1) - static_cast<int>(right >> j & 1);
    }
  }
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int i = item_of_member<Shape::kThreads>(team.rank(), j);
    if (sums[j] != 0) atomicAdd(out.sums + r * problem.n + i, sums[j]);
  }
  if (differing != 0) {
    atomicAdd(out.nonzeros + r, static_cast<unsigned long long>(differing));
  }
}

// A block for one sample of a row.
template <class T>
__global__ void __launch_bounds__(kLongThreads, 1)
    long_difference_kernel(Rows<T> problem, NoiseLaw<T> law, PerturbedPair<T> pair,
                           DifferenceSums out) {
  using Key = KeyOf<T>;
  __shared__ DigitStore store;
  Team<kLongThreads> team;
  const int64_t draw = blockIdx.x;
  const int64_t r = draw % problem.rows;
  const int64_t k = count_of_row(problem, r);
  const PhiloxStream stream = noise_stream(law, draw);
  const Sides<T> sides = sides_of(problem, pair, draw / problem.rows, r);
  const auto visit = [&](auto&& body) {
    for_items_of_long(team, problem.n, sides.is_silent(), law, stream,
                      [&](int64_t i, T noise) { body(i, sides.at(i, noise)); });
  };
  RowTally<int64_t> tally, of_right;
  visit([&](int64_t i, const SideValues<T>& x) {
    tally.add(sides.theta[i], x.left);
    of_right.add(sides.theta[i], x.right);
  });
  tally.sums.of[0] += of_right.sums.of[0];
  tally.sums = team.reduce(tally.sums, Add());
  if (!tally.has_subset(problem.n, k)) {
    if (team.rank() == 0) atomicAdd(out.invalid + r, 1);
    return;
  }
  const LongSubset<Key> left = choose_largest_of_long<Key>(team, store, k, [&](auto&& body) {
    visit([&](int64_t i, const SideValues<T>& x) { body(i, key_of(x.left)); });
  });
  const LongSubset<Key> right = choose_largest_of_long<Key>(team, store, k, [&](auto&& body) {
    visit([&](int64_t i, const SideValues<T>& x) { body(i, key_of(x.right)); });
  });
  int64_t differing = 0;
  visit([&](int64_t i, const SideValues<T>& x) {
    const int change = static_cast<int>(left.holds(key_of(x.left), i)) -
                       static_cast<int>(right.holds(key_of(x.right), i));
    if (change == 0) return;
    atomicAdd(out.sums + r * problem.n + i, change);
    ++differing;
  });
  if (differing != 0) {
    atomicAdd(out.nonzeros + r, static_cast<unsigned long long>(differing));
  }
}

__global__ void __launch_bounds__(kPlainThreads)
    clear_kernel(DifferenceSums out, int64_t rows, int64_t n) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kPlainThreads + threadIdx.x;
  if (at < rows * n) out.sums[at] = 0;
  if (at < rows) {
    out.nonzeros[at] = 0;
    out.invalid[at] = 0;
  }
}

template <class T>
__global__ void __launch_bounds__(kPlainThreads)
    mean_kernel(DifferenceSums sums, int64_t rows, int64_t n, T divisor, T* difference,
                int64_t* nonzeros) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kPlainThreads + threadIdx.x;
  if (at < rows * n) {
    const bool is_valid = sums.invalid[at / n] == 0;
    difference[at] = is_valid ? static_cast<T>(sums.sums[at]) / divisor : T(NAN);
  }
  if (at < rows) {
    nonzeros[at] = sums.invalid[at] == 0 ? static_cast<int64_t>(sums.nonzeros[at]) : 0;
  }
}

DifferenceSums sums_in(void* scratch, int64_t rows) {
  auto* const nonzeros = static_cast<unsigned long long*>(scratch);
  auto* const invalid = reinterpret_cast<int32_t*>(nonzeros + rows);
  return {invalid + rows, nonzeros, invalid};
}

template <class T>
int launch_short(const Rows<T>& problem, const NoiseLaw<T>& law, const PerturbedPair<T>& pair,
                 int64_t num_samples, DifferenceSums out, void* stream) {
  int64_t parts = kBusyTeams / problem.rows;
  if (parts > num_samples) parts = num_samples;
  if (parts < 1) parts = 1;
  const int64_t each = (num_samples + parts - 1) / parts;
  parts = (num_samples + each - 1) / each;
  return with_fused_shape<T>(problem.n, [&](auto shape) {
    using Shape = decltype(shape);
    const int64_t teams = parts * problem.rows;
    return DG_LAUNCH((short_difference_kernel<T, Shape>),
                     (teams + Shape::kTeams - 1) / Shape::kTeams, Shape::kBlockThreads, 0, stream,
                     problem, law, pair, num_samples, each, out);
  });
}

}  // namespace

size_t perturbed_difference_scratch_bytes(int64_t rows, int64_t n) {
  const size_t of_row = sizeof(unsigned long long) + sizeof(int32_t) * static_cast<size_t>(n + 1);
  return static_cast<size_t>(rows) * of_row;
}

template <class T>
int launch_perturbed_difference(const Rows<T>& problem, const NoiseLaw<T>& law,
                                const PerturbedPair<T>& pair, int64_t num_samples, T* difference,
                                int64_t* nonzeros, void* scratch, void* stream) {
  const int64_t rows = problem.rows, n = problem.n;
  const int64_t blocks = (rows * n + kPlainThreads - 1) / kPlainThreads;
  const DifferenceSums out = sums_in(scratch, rows);
  int error = DG_LAUNCH(clear_kernel, blocks, kPlainThreads, 0, stream, out, rows, n);
  if (error != 0) return error;
  error = n <= longest_fused_row<T>() ? launch_short(problem, law, pair, num_samples, out, stream)
                                      : DG_LAUNCH(long_difference_kernel<T>, num_samples * rows,
                                                  kLongThreads, 0, stream, problem, law, pair, out);
  if (error != 0) return error;
  const T divisor = static_cast<T>(pair.symmetric ? 2 * num_samples : num_samples);
  return DG_LAUNCH(mean_kernel<T>, blocks, kPlainThreads, 0, stream, out, rows, n, divisor,
                   difference, nonzeros);
}

#define DG_INSTANTIATE(T)                                                                     \
  template int launch_perturbed_difference<T>(const Rows<T>&, const NoiseLaw<T>&,             \
                                              const PerturbedPair<T>&, int64_t, T*, int64_t*, \
                                              void*, void*);
DG_INSTANTIATE(float)
DG_INSTANTIATE(double)
#undef DG_INSTANTIATE

}  // namespace cuda
}  // namespace dg
