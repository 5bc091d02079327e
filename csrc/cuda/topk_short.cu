// SPDX-License-Identifier: Apache-2.0
//
// Perturbed top-k of rows that a team of threads holds in its registers, a team for each draw.
#include "cuda/contour.h"
#include "cuda/perturbed.cuh"
#include "cuda/row.cuh"
#include "cuda/topk.h"

namespace dg {
namespace cuda {
namespace {

template <int kItems, class TeamType>
DG_DEVICE void store_numbers(const TeamType& team, const SampleOutput& output, int64_t draw,
                             uint32_t chosen) {
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int i = item_of_member<TeamType::kThreads>(team.rank(), j);
    if (i < output.n) {
      output.store(draw * output.n + i, (chosen >> j & 1) != 0 ? output.format.chosen : 0);
    }
  }
}

template <int kItems, class TeamType>
DG_DEVICE void store_indices(TeamType& team, const SampleOutput& output, int64_t draw,
                             uint32_t chosen) {
  // How many a member has chosen of each block of four of its items, 16 bits each.
  constexpr int kBlocks = kItems / kBlockItems, kBits = 16;
  static_assert(kBlocks * kBits <= 64 && TeamType::kThreads * kBlockItems < 1 << kBits,
                "counts fit the bits they have");
  uint64_t counts = 0, totals = 0;
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    const auto hits = static_cast<uint64_t>(__popc(chosen >> (kBlockItems * b) & 15u));
    counts |= hits << (kBits * b);
  }
  const uint64_t before = team.sum_before(counts, &totals);
  int64_t* to = output.indices + draw * output.k;
  constexpr uint64_t kMask = (uint64_t{1} << kBits) - 1;
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    int place = static_cast<int>(before >> (kBits * b) & kMask);
#pragma unroll
    for (int c = 0; c < kBlockItems; ++c) {
      const int j = b * kBlockItems + c;
      if ((chosen >> j & 1) != 0) {
        to[place++] = item_of_member<TeamType::kThreads>(team.rank(), j);
      }
    }
    to += totals >> (kBits * b) & kMask;
  }
}

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kBlockThreads, 1)
    short_topk_kernel(Rows<T> problem, TopkRequest<T> request) {
  constexpr int kItems = Shape::kItems;
  Team<Shape::kThreads> team;
  const int64_t draw = static_cast<int64_t>(blockIdx.x) * Shape::kTeams + team.index();
  if (draw >= request.num_samples * problem.rows) return;
  const int64_t r = draw % problem.rows;
  const T* row = problem.logits + r * problem.n;
  const int64_t k = count_of_row(problem, r);
  KeyOf<T> keys[kItems] = {};
  RowTally<int> tally;
  for_own_items<kItems>(team, problem.n, request.temperature == T(0), request.law,
                        noise_stream(request.law, draw), [&](int j, int64_t i, T noise) {
                          const T theta = row[i];
                          const T x = settled_value(
                              theta, theta + rounded_product(request.temperature, noise));
                          tally.add(theta, x);
                          keys[j] = key_of(x);
                        });
  tally.sums = team.reduce(tally.sums, Add());
  if (!tally.has_subset(problem.n, k)) {
    request.output.store_invalid(team, draw);
    return;
  }
  const uint32_t chosen = choose_largest(team, keys, static_cast<int>(k));
  if (request.output.numbers != nullptr) {
    store_numbers<kItems>(team, request.output, draw, chosen);
  } else {
    store_indices<kItems>(team, request.output, draw, chosen);
  }
}

}  // namespace

template <class T>
int launch_short_topk(const Rows<T>& problem, const TopkRequest<T>& request, void* stream) {
  return with_fused_shape<T>(problem.n, [&](auto shape) {
    using Shape = decltype(shape);
    const int64_t draws = request.num_samples * problem.rows;
    return DG_LAUNCH((short_topk_kernel<T, Shape>), (draws + Shape::kTeams - 1) / Shape::kTeams,
                     Shape::kBlockThreads, 0, stream, problem, request);
  });
}

template int launch_short_topk<float>(const Rows<float>&, const TopkRequest<float>&, void*);
template int launch_short_topk<double>(const Rows<double>&, const TopkRequest<double>&, void*);

}  // namespace cuda
}  // namespace dg
