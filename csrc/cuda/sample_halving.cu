// SPDX-License-Identifier: Apache-2.0
//
// Exact samples of rows of more than 64 items, a block each: halving with rejection, and the tree
// for what is left.
//
// Nothing is copied: the items of a level lie in the row itself, step 2^level apart, and are read
// again, from the cache. The draws of a level are bits in scratch memory, so that a subset is
// written only once, when it is whole.
#include "cuda/sample_halving.cuh"

#include "cuda/sample.cuh"
#include "cuda/sample_tree.cuh"

namespace dg {
namespace cuda {
namespace {

constexpr int kMostLevels = 64;

// The first level of a row, which all its samples share.
struct FirstLevel {
  HalvingLevel level;  // of an ordinary row
  RowKind kind;
};

// The 1 in the launch bounds: where it is not given, ptxas spills to fit one block more.
template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads, 1)
    halving_open_kernel(Rows<T> problem, FirstLevel* first) {
  __shared__ HalvingLevel level;
  Team<kThreads> team;
  const int64_t r = blockIdx.x, k = count_of_row(problem, r);
  const Items<T> items = {problem.logits + r * problem.n, 1, problem.n};
  const RowSummary summary = summarize_items(team, items);
  const RowKind kind = row_kind(summary, k);
  if (team.rank() == 0) first[r].kind = kind;
  if (kind != RowKind::kOrdinary) return;
  prepare_level(team, items, k, summary, level);
  copy_level(team, level, first[r].level);
}

// Which items the levels of a draw decided, in bits: level by level, then the last ones.
struct Decided {
  const uint32_t* bits;
  const int64_t* begin;  // the first word of each level
  uint64_t parities;     // of A, a bit for each level
  int levels;

  // Item i is position i >> l of level l as long as no level has decided it; then its half is
  // numbered by what is left of its bits.
  DG_DEVICE int level_of(int64_t i) const {
    const uint64_t decided = ~(static_cast<uint64_t>(i) ^ parities) | uint64_t{1} << levels;
    return __popcll((decided & (~decided + 1)) - 1);
  }
  DG_DEVICE bool operator()(int64_t i, int level) const {
    const int64_t position = level < levels ? i >> (level + 1) : i >> levels;
    return (bits[begin[level] + position / 32] >> (position % 32) & 1) != 0;
  }
};

// What is left, at most kTreeItems items, by the first warp; its subset as two words.
template <class T>
DG_DEVICE void draw_rest(const Items<T>& items, int64_t target, const PhiloxStream& stream,
                         TreeStore<T, kTreeItems>& store, T* row, uint32_t* words) {
  Team<static_cast<int>(kWarpThreads)> warp;
  const int count = static_cast<int>(items.count);
  for (int i = warp.rank(); i < count; i += static_cast<int>(kWarpThreads)) row[i] = items[i];
  warp.sync();
  const BasicRowSummary<T> summary = summarize_row(warp, row, items.count);
  TreeSampler<T, static_cast<int>(kWarpThreads)> sampler(warp, store, row, count, summary,
                                                         static_cast<int>(target));
  const uint64_t chosen = sampler.draw(stream);
  if (warp.rank() == 0) {
    words[0] = static_cast<uint32_t>(chosen);
    words[1] = static_cast<uint32_t>(chosen >> 32);
  }
}

template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads, 1)
    halving_sample_kernel(Rows<T> problem, SampleRequest request, const FirstLevel* first,
                          uint32_t* scratch_bits, int64_t words) {
  __shared__ HalvingLevel level;
  __shared__ int64_t begin[kMostLevels];
  __shared__ TreeStore<T, kTreeItems> store;
  __shared__ T last_items[kTreeItems];
  __shared__ int64_t warp_totals[kThreads / kWarpThreads];
  Team<kThreads> team;
  const int64_t draw = blockIdx.x, r = draw % problem.rows;
  const uint64_t seed = static_cast<uint64_t>(*request.seed);
  const uint64_t stream_row = static_cast<uint64_t>(draw);
  const T* row = problem.logits + r * problem.n;
  uint32_t* bits = scratch_bits + draw * words;
  RowKind kind = first[r].kind;
  // Only ordinary rows have a first level.
  if (kind == RowKind::kOrdinary) copy_level(team, first[r].level, level);
  team.sync();

  Items<T> items = {row, 1, problem.n};
  int64_t target = 0, position = 0;
  uint64_t parities = 0;
  int levels = 0;
  while (kind == RowKind::kOrdinary && items.count > kTreeItems) {
    if (team.rank() == 0) begin[levels] = position;
    target = draw_level(team, level, items, seed, stream_row, static_cast<uint32_t>(levels),
                        bits + position);
    if (target < 0) {
      kind = RowKind::kInvalid;
      break;
    }
    const int parity = level.parity;
    const RowSummary summary = level.summary();
    position += (items.every_second(parity).count + 31) / 32;
    items = items.every_second(1 - parity);
    parities |= static_cast<uint64_t>(parity) << levels;
    ++levels;
    kind = row_kind(summary, target);
    if (kind == RowKind::kOrdinary && items.count > kTreeItems) {
      team.sync();  // all have read the level that is overwritten
      prepare_level(team, items, target, summary, level);
    }
  }
  if (kind == RowKind::kInvalid) {
    request.output.store_invalid(team, draw);
    return;
  }
  const bool by_tree = kind == RowKind::kOrdinary;
  if (team.rank() == 0) begin[levels] = position;
  if (by_tree && team.rank() < static_cast<int>(kWarpThreads)) {
    const uint32_t round = static_cast<uint32_t>(levels) << 16;
    draw_rest(items, target, philox_stream(seed, stream_row, Purpose::kTreeSplit, round), store,
              last_items, bits + position);
  }
  team.sync();
  const Decided decided = {bits, begin, parities, levels};
  request.output.store_items(team, draw, warp_totals, [&](int64_t i) {
    const int decided_by = decided.level_of(i);
    if (decided_by == levels && !by_tree) return is_certain_member(row[i], kind);
    return decided(i, decided_by);
  });
}

// Words of a draw's bits: each level may leave one partly filled.
int64_t words_of_draw(int64_t n) {
  int64_t words = n / 32 + 2;
  for (int64_t items = n; items >= kTreeItems / 2; items /= 2) ++words;
  return words;
}

template <class T, int kThreads>
int launch_blocks(const Rows<T>& problem, const SampleRequest& request, void* scratch,
                  void* stream) {
  auto* first = static_cast<FirstLevel*>(scratch);
  auto* bits = reinterpret_cast<uint32_t*>(first + problem.rows);
  const int error = DG_LAUNCH((halving_open_kernel<T, kThreads>), problem.rows, kThreads, 0, stream,
                              problem, first);
  if (error != 0) return error;
  return DG_LAUNCH((halving_sample_kernel<T, kThreads>), request.num_samples * problem.rows,
                   kThreads, 0, stream, problem, request, first, bits, words_of_draw(problem.n));
}

}  // namespace

template <class T>
size_t long_samples_scratch_bytes(const Rows<T>& problem, int64_t num_samples) {
  const int64_t bits = num_samples * problem.rows * words_of_draw(problem.n);
  return static_cast<size_t>(problem.rows) * sizeof(FirstLevel) +
         static_cast<size_t>(bits) * sizeof(uint32_t);
}

// Few threads where rows are short: every level is half as long as the one before.
template <class T>
int launch_long_samples(const Rows<T>& problem, const SampleRequest& request, void* scratch,
                        void* stream) {
  if (problem.n <= 1024) return launch_blocks<T, 32>(problem, request, scratch, stream);
  if (problem.n <= 16384) return launch_blocks<T, 128>(problem, request, scratch, stream);
  return launch_blocks<T, 512>(problem, request, scratch, stream);
}

#define DG_INSTANTIATE(T)                                                 \
  template size_t long_samples_scratch_bytes<T>(const Rows<T>&, int64_t); \
  template int launch_long_samples<T>(const Rows<T>&, const SampleRequest&, void*, void*);
DG_INSTANTIATE(float)
DG_INSTANTIATE(double)

}  // namespace cuda
}  // namespace dg
