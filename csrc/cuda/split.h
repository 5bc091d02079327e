// SPDX-License-Identifier: Apache-2.0
//
// How a long row is shared out over blocks, and what the launches of the split path leave to each
// other in scratch memory.
//
// A launch sums by part, one block each. The blocks of the next launch put the parts together, all
// of them in the same order and hence to the same bits: no atomics, no launch in between, and no
// result that varies from run to run.
#pragma once

#include "core/tilt.h"
#include "cuda/contour.h"

namespace dg {
namespace cuda {

struct Split {
  int64_t parts;  // blocks per row
  int64_t span;   // items of a part
};

constexpr int kSplitThreads = 256;

// Enough blocks for a large GPU, and enough items for each of its threads. The rule knows of rows
// and n alone, so results do not depend on the device.
inline Split split_of_row(int64_t rows, int64_t n) {
  constexpr int64_t kBlocks = 2048, kMostParts = 512, kLeastSpan = 4096;
  int64_t parts = kBlocks / rows < 1 ? 1 : kBlocks / rows;
  const int64_t useful = (n + kLeastSpan - 1) / kLeastSpan;
  if (parts > useful) parts = useful;
  if (parts > kMostParts) parts = kMostParts;
  const int64_t span = (n + parts - 1) / parts;
  return {(n + span - 1) / span, span};
}

// The search of a row's tilt between two launches.
struct SplitTilt {
  Tilt tilt;  // value: rounded to the type of the items; to be tried, or found
  double variance;
  int64_t turns;  // items with q > 1/2, less k
  int64_t live;
  int64_t k;
  RowKind kind;
  bool is_found;
};

// Numbers that a part of a row sums, all double.
constexpr int kPartSums = 8;

// The steps of the tilt that all parts of a row take together; rows of normal logits need two or
// three. The few that need more are finished by one block each.
constexpr int kSharedSteps = 6;

struct TiltScratch {
  SplitTilt* tilts;  // [2, rows]: read and written in turn
  double* partial;   // [2, rows, parts, kPartSums]
};

inline size_t tilt_scratch_bytes(int64_t rows, Split split) {
  const size_t sums = static_cast<size_t>(rows * split.parts) * kPartSums * sizeof(double);
  return 2 * (static_cast<size_t>(rows) * sizeof(SplitTilt) + sums);
}

inline TiltScratch tilt_scratch(void* scratch, int64_t rows) {
  SplitTilt* const tilts = static_cast<SplitTilt*>(scratch);
  return {tilts, reinterpret_cast<double*>(tilts + 2 * rows)};
}

// Finds the tilts of all rows and leaves them in scratch.tilts[0 .. rows - 1].
template <class T>
int split_find_tilts(const Rows<T>& problem, Split split, TiltScratch scratch, void* stream);

}  // namespace cuda
}  // namespace dg
