// SPDX-License-Identifier: Apache-2.0
//
// Long rows, shared out over several blocks: node weights, log-partition and marginals.
#include "cuda/split.cuh"

namespace dg {
namespace cuda {

// A part's record: product at each node (re, im), and a sum of logits and logarithms.
template <class T>
constexpr int kProductRecord = 2 * kNodesRoom<T> + 1;

// The products of the factors at the nodes, less 1, and the part of log Z that is summed over the
// items, by part.
template <class T>
__global__ void __launch_bounds__(kSplitThreads)
    split_products_kernel(Rows<T> rows, Split split, const SplitTilt* tilts, double* partial) {
  constexpr int kTogether = NodeGroup<T>::kTogether;
  __shared__ NodeTable<T> table;
  SplitTeam team;
  const Part part(split, rows.n);
  const SplitTilt& found = tilts[part.row];
  const T* const row = rows.logits + part.row * rows.n;
  double* const record = partial + part.block * kProductRecord<T>;
  const bool ordinary = found.kind == RowKind::kOrdinary;
  const T s = static_cast<T>(found.tilt.value);

  double logs = 0.0;
  T product = T(0);  // prod (1 + e^{-|x|}) - 1
  for_items(
      part.begin, part.end,
      [&](int64_t i) {
        const T theta = row[i];
        const T tail = signed_tail(theta + s);
        if (is_finite(theta) && (is_negative(tail) || !ordinary)) logs += theta;
        const T w = is_negative(tail) ? -tail : tail;
        const T e = w / (T(1) - w);
        product += e + e * product;
      },
      [&] {
        if (ordinary) logs += std::log1p(product);
        product = T(0);
      });
  logs = team.reduce(logs, Add());
  if (team.rank() == 0) record[2 * kNodesRoom<T>] = logs;
  if (!team.any(ordinary)) return;

  const T variance = static_cast<T>(found.variance);
  fill_angles(team, variance, node_total(variance, found.live), table);
  team.sync();
  const int kept = kept_nodes(table);
  for (int first = 0; team.any(first < kept); first += kTogether) {
    const GroupAngles<T> angles(table, first);
    NodeProducts<double, kTogether> all = {};
    NodeProducts<T, kTogether> some = {};
    for_items(
        part.begin, part.end,
        [&](int64_t i) { angles.multiply_item(signed_tail(row[i] + s), some); },
        [&] {
#pragma unroll
          for (int j = 0; j < kTogether; ++j) {
            const Complex<double> factor = {some.of[j].re, some.of[j].im};
            all.of[j] = multiply_minus_1(all.of[j], factor);
            some.of[j] = {T(0), T(0)};
          }
        });
    all = team.reduce(all, CombineProducts());
    if (team.rank() == 0) {
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        record[2 * (first + j)] = all.of[j].re;
        record[2 * (first + j) + 1] = all.of[j].im;
      }
    }
  }
}

// A row's node weights from the products of its parts, in table.re and table.im; returns Re sum W
// before they were normalised.
template <class T>
DG_DEVICE double weights_of_parts(SplitTeam& team, Split split, const double* partial,
                                  int64_t turns, int64_t total, int kept, NodeTable<T>& table) {
  constexpr int kTogether = NodeGroup<double>::kTogether;
  __shared__ double weights[2 * kNodesRoom<T>];
  for (int first = 0; team.any(first < kept); first += kTogether) {
    NodeProducts<double, kTogether> products = {};
    for (int64_t part = team.rank(); part < split.parts; part += kSplitThreads) {
      const double* const record = partial + part * kProductRecord<T>;
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        if (first + j >= kept) continue;
        const Complex<double> factor = {record[2 * (first + j)], record[2 * (first + j) + 1]};
        products.of[j] = multiply_minus_1(products.of[j], factor);
      }
    }
    products = team.reduce(products, CombineProducts());
    if (team.rank() == 0) {
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        if (first + j >= kept) continue;
        weights[2 * (first + j)] = 1.0 + products.of[j].re;
        weights[2 * (first + j) + 1] = products.of[j].im;
      }
    }
  }
  team.sync();
  for (int m = team.rank(); m < kept; m += kSplitThreads) {
    const Complex<double> weight =
        node_weight<double>({weights[2 * m], weights[2 * m + 1]}, turns, m, total);
    weights[2 * m] = weight.re;
    weights[2 * m + 1] = weight.im;
  }
  team.sync();
  double whole = 1.0;
  for (int m = 0; m < kept; ++m) whole += weights[2 * m];
  for (int m = team.rank(); m < kept; m += kSplitThreads) {
    table.re[m] = static_cast<T>(weights[2 * m] / whole);
    table.im[m] = static_cast<T>(weights[2 * m + 1] / whole);
  }
  team.sync();
  return whole;
}

// Node weights, state and log-partition (by a row's first part), and the marginals of each part.
template <class T>
__global__ void __launch_bounds__(kSplitThreads)
    split_marginals_kernel(Rows<T> rows, Split split, int64_t blocks_per_row,
                           const SplitTilt* tilts, const double* partial, T* marginals,
                           T* log_partition, T* states) {
  __shared__ NodeTable<T> table;
  SplitTeam team;
  const int64_t row = blockIdx.x / blocks_per_row, number = blockIdx.x % blocks_per_row;
  const SplitTilt& found = tilts[row];
  const bool ordinary = found.kind == RowKind::kOrdinary;
  const T s = static_cast<T>(found.tilt.value);
  const T variance = static_cast<T>(found.variance);
  const double* const parts = partial + row * split.parts * kProductRecord<T>;
  int64_t total = 1;
  int kept = 0;
  double whole = 1.0;
  if (team.any(ordinary)) {
    total = node_total(variance, found.live);
    fill_angles(team, variance, total, table);
    team.sync();
    kept = kept_nodes(table);
    whole = weights_of_parts(team, split, parts, found.turns, total, kept, table);
  }
  if (number == 0) {
    write_state(team, found.kind, s, total, kept, table, states + row * kContourStateWidth<T>);
    if (log_partition != nullptr) {
      const Sums<double, 1> logs =
          sum_of_parts<1>(team, parts + 2 * kNodesRoom<T>, split.parts, kProductRecord<T>);
      const double shift = static_cast<double>(found.turns) * static_cast<double>(s);
      const double inside = logs.of[0] + shift + std::log(whole / static_cast<double>(total));
      const double certain = found.kind == RowKind::kAll    ? logs.of[0]
                             : found.kind == RowKind::kNone ? 0.0
                                                            : static_cast<double>(NAN);
      if (team.rank() == 0) log_partition[row] = static_cast<T>(ordinary ? inside : certain);
    }
  }
  if (marginals == nullptr) return;
  const int64_t begin = number * split.span;
  const int64_t end = begin + split.span < rows.n ? begin + split.span : rows.n;
  for (int64_t at = begin; at < end; at += kSplitTileItems) {
    const int left = static_cast<int>(end - at < kSplitTileItems ? end - at : kSplitTileItems);
    const int64_t offset = row * rows.n + at;
    RowItems<T, SplitTile> items;
    items.load(team, rows.logits + offset, left, -T(INFINITY));
    if (ordinary) {
      for_slots<SplitTile>(left, [&](int j) { items.of[j] = signed_tail(items.of[j] + s); });
      replace_by_marginals<T, SplitTile>(left, kept, table, items);
    } else {
      replace_by_members<T, SplitTile>(left, found.kind, items);
    }
    items.store(team, marginals + offset, left);
  }
}

template <class T>
size_t split_forward_scratch_bytes(int64_t rows, Split split) {
  const size_t records = static_cast<size_t>(rows * split.parts) * kProductRecord<T>;
  return tilt_scratch_bytes(rows, split) + records * sizeof(double);
}

template <class T>
int split_forward(const Rows<T>& problem, Split split, T* marginals, T* log_partition, T* state,
                  void* scratch, void* stream) {
  const TiltScratch search = tilt_scratch(scratch, problem.rows);
  const int64_t blocks = problem.rows * split.parts;
  double* const partial = search.partial + 2 * blocks * kPartSums;
  int error = split_find_tilts(problem, split, search, stream);
  if (error != 0) return error;
  error = DG_LAUNCH(split_products_kernel<T>, blocks, kSplitThreads, 0, stream, problem, split,
                    search.tilts, partial);
  if (error != 0) return error;
  const int64_t blocks_per_row = marginals == nullptr ? 1 : split.parts;
  return DG_LAUNCH(split_marginals_kernel<T>, problem.rows * blocks_per_row, kSplitThreads, 0,
                   stream, problem, split, blocks_per_row, search.tilts, partial, marginals,
                   log_partition, state);
}

template size_t split_forward_scratch_bytes<float>(int64_t, Split);
template size_t split_forward_scratch_bytes<double>(int64_t, Split);
template int split_forward<float>(const Rows<float>&, Split, float*, float*, float*, void*, void*);
template int split_forward<double>(const Rows<double>&, Split, double*, double*, double*, void*,
                                   void*);

}  // namespace cuda
}  // namespace dg
