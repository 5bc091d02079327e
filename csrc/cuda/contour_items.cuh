// SPDX-License-Identifier: Apache-2.0
//
// A row in the registers of a team: member `rank` holds items rank, rank + kThreads, ...
#pragma once

#include "cuda/contour.h"
#include "cuda/nodes.cuh"

namespace dg {
namespace cuda {

template <class Shape>
using TeamOf = Team<Shape::kThreads, /*kMarch=*/true>;

// body(j) for the slots that hold an item for some member; n is the same for the whole launch, so
// the members stay together.
template <class Shape, class Body>
DG_DEVICE void for_slots(int n, Body&& body) {
#pragma unroll
  for (int j = 0; j < Shape::kItems; ++j) {
    if (j * Shape::kThreads < n) body(j);
  }
}

template <class T, class Shape>
struct RowItems {
  T of[Shape::kItems];

  // Slots beyond the row get `fill`.
  DG_DEVICE void load(const TeamOf<Shape>& team, const T* row, int n, T fill) {
#pragma unroll
    for (int j = 0; j < Shape::kItems; ++j) {
      const int i = j * Shape::kThreads + team.rank();
      of[j] = i < n ? row[i] : fill;
    }
  }

  DG_DEVICE void store(const TeamOf<Shape>& team, T* row, int n) const {
#pragma unroll
    for (int j = 0; j < Shape::kItems; ++j) {
      const int i = j * Shape::kThreads + team.rank();
      if (i < n) row[i] = of[j];
    }
  }
};

// The row of the team that calls. The teams of a warp march together: one that is left without a
// row takes the last, and writes nothing.
struct TeamRow {
  int64_t number;
  bool exists;
};

template <class Shape>
DG_DEVICE TeamRow row_of_team(const TeamOf<Shape>& team, int64_t rows) {
  const int64_t wanted = static_cast<int64_t>(blockIdx.x) * Shape::kTeams + team.index();
  return {wanted < rows ? wanted : rows - 1, wanted < rows};
}

template <class Shape>
int64_t blocks_for(int64_t rows) {
  return (rows + Shape::kTeams - 1) / Shape::kTeams;
}

// Tails to marginals, by the node weights: node by node, so that what belongs to a node is read
// once for all items of a thread.
template <class T, class Shape>
DG_DEVICE void replace_by_marginals(int n, int kept, const NodeTable<T>& table,
                                    RowItems<T, Shape>& tails) {
  RowItems<T, Shape> sums = {};
  for (int m = 0; m < kept; ++m) {
    const T tau = table.tau[m], re = table.re[m], im_tau = table.im[m] * tau;
    for_slots<Shape>(n, [&](int j) {
      sums.of[j] += correction_term(unpack_item(tails.of[j]).delta, re, im_tau, tau * tau);
    });
  }
  for_slots<Shape>(n, [&](int j) {
    const Item<T> item = unpack_item(tails.of[j]);
    const T mu = item.q + T(2) * item.qp * sums.of[j];
    tails.of[j] = mu < T(0) ? T(0) : mu > T(1) ? T(1) : mu;
  });
}

// Logits to the marginals of a row whose subset is certain; NaN where it is invalid.
template <class T, class Shape>
DG_DEVICE void replace_by_members(int n, RowKind kind, RowItems<T, Shape>& theta) {
  for_slots<Shape>(n, [&](int j) {
    const T member = is_certain_member(theta.of[j], kind) ? T(1) : T(0);
    theta.of[j] = kind == RowKind::kInvalid ? T(NAN) : member;
  });
}

}  // namespace cuda
}  // namespace dg
