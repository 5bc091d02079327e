// SPDX-License-Identifier: Apache-2.0
//
// Perturbed top-k of rows longer than a block's registers, a block for each draw.
#include "cuda/long_selection.cuh"
#include "cuda/perturbed.cuh"
#include "cuda/row.cuh"
#include "cuda/topk.h"

namespace dg {
namespace cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kLongThreads, 1)
    long_topk_kernel(Rows<T> problem, TopkRequest<T> request) {
  using Key = KeyOf<T>;
  __shared__ DigitStore store;
  __shared__ int64_t warp_totals[kLongThreads / kWarpThreads];
  Team<kLongThreads> team;
  const int64_t draw = blockIdx.x;
  const int64_t r = draw % problem.rows;
  const T* row = problem.logits + r * problem.n;
  const int64_t k = count_of_row(problem, r);
  const T temperature = request.temperature;
  const bool is_silent = temperature == T(0);
  const PhiloxStream stream = noise_stream(request.law, draw);
  const auto value = [&](T theta, T noise) {
    return settled_value(theta, theta + rounded_product(temperature, noise));
  };
  RowTally<int64_t> tally;
  for_items_of_long(team, problem.n, is_silent, request.law, stream,
                    [&](int64_t i, T noise) { tally.add(row[i], value(row[i], noise)); });
  tally.sums = team.reduce(tally.sums, Add());
  if (!tally.has_subset(problem.n, k)) {
    request.output.store_invalid(team, draw);
    return;
  }
  const auto visit = [&](auto&& body) {
    for_items_of_long(team, problem.n, is_silent, request.law, stream,
                      [&](int64_t i, T noise) { body(i, key_of(value(row[i], noise))); });
  };
  const LongSubset<Key> subset = choose_largest_of_long<Key>(team, store, k, visit);
  if (request.output.numbers != nullptr) {
    visit([&](int64_t i, Key key) {
      request.output.store(draw * problem.n + i,
                           subset.holds(key, i) ? request.output.format.chosen : 0);
    });
    return;
  }
  request.output.store_items(team, draw, warp_totals, [&](int64_t i) {
    const T noise = is_silent ? T(0) : noise_of_item(request.law, stream, i);
    return subset.holds(key_of(value(row[i], noise)), i);
  });
}

}  // namespace

template <class T>
int launch_long_topk(const Rows<T>& problem, const TopkRequest<T>& request, void* stream) {
  return DG_LAUNCH(long_topk_kernel<T>, request.num_samples * problem.rows, kLongThreads, 0, stream,
                   problem, request);
}

template int launch_long_topk<float>(const Rows<float>&, const TopkRequest<float>&, void*);
template int launch_long_topk<double>(const Rows<double>&, const TopkRequest<double>&, void*);

}  // namespace cuda
}  // namespace dg
