// SPDX-License-Identifier: Apache-2.0
//
// Long rows, shared out over several blocks: the search of their tilts, without a word from the
// host.
#include "cuda/split.cuh"

namespace dg {
namespace cuda {

template <class T>
__global__ void __launch_bounds__(kSplitThreads)
    split_summary_kernel(Rows<T> rows, Split split, double* partial) {
  SplitTeam team;
  const Part part(split, rows.n);
  const T* const row = rows.logits + part.row * rows.n;
  const double origin = static_cast<double>(origin_of_row(row));
  SummarySums<double> sums;
  for (int64_t i = part.begin + team.rank(); i < part.end; i += kSplitThreads) {
    sums.add(static_cast<double>(row[i]), origin);
  }
  sums = team.reduce(sums, CombineSummaries());
  if (team.rank() != 0) return;
  double* const record = partial + part.block * kPartSums;
  record[0] = sums.live;
  record[1] = sums.forced;
  record[2] = sums.nan;
  record[3] = sums.smallest;
  record[4] = sums.largest;
  record[5] = sums.sum;
  record[6] = sums.square;
}

DG_DEVICE double round_to(double value, float) { return static_cast<float>(value); }
DG_DEVICE double round_to(double value, double) { return value; }

// The kind of a row, and the first guess of its tilt.
template <class T>
DG_DEVICE SplitTilt start_tilt(SplitTeam& team, const Rows<T>& rows, int64_t row, int64_t parts,
                               const double* partial) {
  const double origin = static_cast<double>(origin_of_row(rows.logits + row * rows.n));
  struct Look {
    double sum, square, live, forced, nan, smallest, largest;
  } look = {0, 0, 0, 0, 0, INFINITY, -INFINITY};
  const auto combine = [](const Look& a, const Look& b) {
    return Look{rounded_sum(a.sum, b.sum),
                rounded_sum(a.square, b.square),
                a.live + b.live,
                a.forced + b.forced,
                a.nan + b.nan,
                fmin(a.smallest, b.smallest),
                fmax(a.largest, b.largest)};
  };
  for (int64_t part = team.rank(); part < parts; part += kSplitThreads) {
    const double* const record = partial + part * kPartSums;
    look = combine(
        look, Look{record[5], record[6], record[0], record[1], record[2], record[3], record[4]});
  }
  look = team.reduce(look, combine);
  SplitTilt start = {};
  RowSummary summary;
  summary.live = static_cast<int64_t>(look.live);
  summary.forced = static_cast<int64_t>(look.forced);
  summary.has_nan = look.nan > 0;
  summary.smallest = look.smallest;
  summary.largest = look.largest;
  set_moments(look.sum, look.square, origin, &summary);
  start.k = count_of_row(rows, row);
  start.live = summary.live;
  start.kind = row_kind(summary, start.k);
  start.is_found = start.kind != RowKind::kOrdinary;
  if (start.is_found) return start;
  start.tilt = tilt_start(summary, start.k - summary.forced);
  start.tilt.value = round_to(start.tilt.value, T());
  return start;
}

// One step of the search, from the sums at its tilt: excess, V, items with q > 1/2.
template <class T>
DG_DEVICE void step_tilt(const Sums<double, 3>& sums, SplitTilt& search) {
  search.turns = static_cast<int64_t>(sums.of[2]) - search.k;
  search.variance = sums.of[1];
  const double excess = sums.of[0] + static_cast<double>(search.turns);
  search.is_found = tilt_is_good(excess, search.variance, kContourTilt);
  if (search.is_found) return;
  const double tried = search.tilt.value;
  tilt_step(search.tilt, excess, search.variance);
  search.tilt.value = round_to(search.tilt.value, T());
  search.is_found = search.tilt.value == tried;
}

template <class T>
DG_DEVICE Sums<double, 3> sums_of_span(SplitTeam& team, const T* row, int64_t begin, int64_t end,
                                       T s) {
  Sums<double, 3> all = {};
  TailSums<T> some;
  for_items(
      begin, end, [&](int64_t i) { some.add(signed_tail(row[i] + s)); },
      [&] {
        all.of[0] += some.excess;
        all.of[1] += some.variance;
        all.of[2] += some.above;
        some = TailSums<T>();
      });
  return team.reduce(all, Add());
}

// Pass `pass` of the search: the step that the sums of the pass before allow, and the sums at the
// next tilt.
template <class T>
__global__ void __launch_bounds__(kSplitThreads)
    split_sums_kernel(Rows<T> rows, Split split, int pass, const SplitTilt* tilts_in,
                      const double* partial_in, SplitTilt* tilts_out, double* partial_out) {
  SplitTeam team;
  const Part part(split, rows.n);
  const double* const parts = partial_in + part.row * split.parts * kPartSums;
  SplitTilt search;
  if (pass == 0) {
    search = start_tilt(team, rows, part.row, split.parts, parts);
  } else {
    search = tilts_in[part.row];
    if (team.any(!search.is_found)) {
      step_tilt<T>(sum_of_parts<3>(team, parts, split.parts, kPartSums), search);
    }
  }
  if (part.number == 0 && team.rank() == 0) tilts_out[part.row] = search;
  if (!team.any(!search.is_found)) return;
  const Sums<double, 3> sums = sums_of_span(team, rows.logits + part.row * rows.n, part.begin,
                                            part.end, static_cast<T>(search.tilt.value));
  if (team.rank() != 0) return;
#pragma unroll
  for (int j = 0; j < 3; ++j) partial_out[part.block * kPartSums + j] = sums.of[j];
}

// The last step, and the rest of the search where it goes on: one block per row.
template <class T>
__global__ void __launch_bounds__(kSplitThreads, 2)
    split_finish_kernel(Rows<T> rows, Split split, const SplitTilt* tilts_in, const double* partial,
                        SplitTilt* tilts_out) {
  SplitTeam team;
  const int64_t row = blockIdx.x;
  SplitTilt search = tilts_in[row];
  if (team.any(!search.is_found)) {
    step_tilt<T>(
        sum_of_parts<3>(team, partial + row * split.parts * kPartSums, split.parts, kPartSums),
        search);
  }
  for (int step = 0; team.any(!search.is_found) && step < kMaxTiltSteps; ++step) {
    step_tilt<T>(sums_of_span(team, rows.logits + row * rows.n, 0, rows.n,
                              static_cast<T>(search.tilt.value)),
                 search);
  }
  if (team.rank() == 0) tilts_out[row] = search;
}

template <class T>
int split_find_tilts(const Rows<T>& problem, Split split, TiltScratch scratch, void* stream) {
  const int64_t blocks = problem.rows * split.parts;
  SplitTilt* const tilts[2] = {scratch.tilts, scratch.tilts + problem.rows};
  double* const partial[2] = {scratch.partial, scratch.partial + blocks * kPartSums};
  int error = DG_LAUNCH(split_summary_kernel<T>, blocks, kSplitThreads, 0, stream, problem, split,
                        partial[1]);
  static_assert(kSharedSteps % 2 == 0, "the last pass writes where the next launch reads");
  for (int pass = 0; pass < kSharedSteps && error == 0; ++pass) {
    const int from = (pass + 1) % 2, to = pass % 2;
    error = DG_LAUNCH(split_sums_kernel<T>, blocks, kSplitThreads, 0, stream, problem, split, pass,
                      tilts[from], partial[from], tilts[to], partial[to]);
  }
  if (error != 0) return error;
  return DG_LAUNCH(split_finish_kernel<T>, problem.rows, kSplitThreads, 0, stream, problem, split,
                   tilts[1], partial[1], tilts[0]);
}

template int split_find_tilts<float>(const Rows<float>&, Split, TiltScratch, void*);
template int split_find_tilts<double>(const Rows<double>&, Split, TiltScratch, void*);

}  // namespace cuda
}  // namespace dg
