// SPDX-License-Identifier: Apache-2.0
//
// Exact samples of rows of at most 64 items: a team of lanes makes the tree of a row once and walks
// down it for some of its samples.
#include "cuda/sample_tree.cuh"

#include "cuda/sample.cuh"

namespace dg {
namespace cuda {
namespace {

constexpr int kBlockThreads = 128;
// Teams of one launch at least, where there are samples enough: a tree serves several samples only
// beyond that.
constexpr int64_t kBusyTeams = 16384;

// `each`: samples that a team draws of its row. The 1 in the launch bounds: where it is not given,
// ptxas spills to fit one block more.
template <class T, int kThreads, int kItems>
__global__ void __launch_bounds__(kBlockThreads, 1)
    sample_short_kernel(Rows<T> problem, SampleRequest request, int64_t each) {
  __shared__ TreeStore<T, kItems> stores[kBlockThreads / kThreads];
  Team<kThreads> team;
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * (kBlockThreads / kThreads) + team.index();
  const int64_t r = unit % problem.rows;
  int64_t sample = unit / problem.rows * each;
  if (sample >= request.num_samples) return;
  const int64_t end = sample + each < request.num_samples ? sample + each : request.num_samples;
  const T* row = problem.logits + r * problem.n;
  const int n = static_cast<int>(problem.n);
  const int64_t k = count_of_row(problem, r);
  const BasicRowSummary<T> summary = summarize_row(team, row, problem.n);
  const RowKind kind = row_kind(summary, k);
  if (kind == RowKind::kInvalid) {
    for (; sample < end; ++sample) {
      request.output.store_invalid(team, sample * problem.rows + r);
    }
    return;
  }
  if (kind != RowKind::kOrdinary) {
    uint64_t chosen = 0;  // each member looks at all items: they are few
    for (int i = 0; i < n; ++i) {
      chosen |= static_cast<uint64_t>(is_certain_member(row[i], kind) ? 1 : 0) << i;
    }
    for (; sample < end; ++sample) {
      request.output.store_bits(team, sample * problem.rows + r, chosen);
    }
    return;
  }
  TreeSampler<T, kThreads> sampler(team, stores[team.index()], row, n, summary,
                                   static_cast<int>(k));
  const uint64_t seed = static_cast<uint64_t>(*request.seed);
  for (; sample < end; ++sample) {
    const int64_t draw = sample * problem.rows + r;
    const PhiloxStream stream =
        philox_stream(seed, static_cast<uint64_t>(draw), Purpose::kTreeSplit, 0);
    request.output.store_bits(team, draw, sampler.draw(stream));
  }
}

template <class T, int kThreads, int kItems>
int launch_teams(const Rows<T>& problem, const SampleRequest& request, void* stream) {
  constexpr int64_t kTeams = kBlockThreads / kThreads;
  int64_t parts = kBusyTeams / problem.rows;
  if (parts > request.num_samples) parts = request.num_samples;
  if (parts < 1) parts = 1;
  const int64_t each = (request.num_samples + parts - 1) / parts;
  parts = (request.num_samples + each - 1) / each;
  return DG_LAUNCH((sample_short_kernel<T, kThreads, kItems>),
                   (parts * problem.rows + kTeams - 1) / kTeams, kBlockThreads, 0, stream, problem,
                   request, each);
}

}  // namespace

template <class T>
int launch_short_samples(const Rows<T>& problem, const SampleRequest& request, void* stream) {
  if (problem.n <= 8) return launch_teams<T, 4, 8>(problem, request, stream);
  if (problem.n <= 16) return launch_teams<T, 8, 16>(problem, request, stream);
  return launch_teams<T, 32, 64>(problem, request, stream);
}

template int launch_short_samples<float>(const Rows<float>&, const SampleRequest&, void*);
template int launch_short_samples<double>(const Rows<double>&, const SampleRequest&, void*);

}  // namespace cuda
}  // namespace dg
