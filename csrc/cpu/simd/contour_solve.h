// SPDX-License-Identifier: Apache-2.0
//
// From a row to its tilt and its normalised node weights: what forward, backward and sampler share.
#pragma once

#include "cpu/simd/buffer.h"
#include "cpu/simd/contour_passes.h"

namespace dg {
inline namespace CPU_CAPABILITY {

// Partial sums by segment, allocated once for all rows of a call.
struct Workspace {
  explicit Workspace(int64_t n)
      : summary(segment_count(n)),
        tails(segment_count(n)),
        softplus(segment_count(n)),
        products(segment_count(n) * kMostNodes) {}
  Buffer<RowSummary> summary;
  Buffer<TailSums> tails;
  Buffer<SoftplusSums> softplus;
  Buffer<Complex> products;
};

// The sums that pass(begin, end) returns for each segment, added in order.
template <class Pass>
TailSums sum_segments(int64_t n, const Executor& executor, Workspace& work, Pass&& pass) {
  auto body = [&](int64_t segment, int64_t begin, int64_t end) {
    work.tails[segment] = pass(begin, end);
  };
  for_segments(n, executor, body);
  TailSums sums;
  for (int64_t segment = 0; segment < segment_count(n); ++segment) sums.add(work.tails[segment]);
  return sums;
}

template <class T>
TailSums tilt_row(const T* row, int64_t n, T s, T* tails, const Executor& executor,
                  Workspace& work) {
  return sum_segments(n, executor, work, [&](int64_t begin, int64_t end) {
    return tilt_segment<T>(row, begin, end, s, tails);
  });
}

// tilt_row from the tails at a tilt that is less by `shift`.
template <class T>
TailSums shift_row(int64_t n, double shift, T* tails, const Executor& executor, Workspace& work) {
  return sum_segments(n, executor, work, [&](int64_t begin, int64_t end) {
    return shift_segment<T>(tails, begin, end, shift);
  });
}

template <class T>
struct TiltedRow {
  T s;
  TailSums sums;
};

// Further away e^shift would spoil the smallest tails' rounding, and overflow at last.
constexpr double kMostShift = 0.25;

// Leaves the signed tails at the tilt found. `polish`: one more Newton step after the tolerance is
// met, which squares what is left of the error. `known`: sums of the row at another tilt, whose
// Newton step is then the first guess.
template <class T>
TiltedRow<T> find_tilt(const T* row, int64_t n, int64_t k, const RowSummary& summary,
                       double tolerance, bool polish, T* tails, const Executor& executor,
                       Workspace& work, const TiltedRow<T>* known = nullptr) {
  Tilt tilt = tilt_start(summary, k - summary.forced);
  if (known != nullptr) {
    const double s = static_cast<double>(known->s);
    if (s >= tilt.lower && s <= tilt.upper) {
      tilt.value = s;
      const double excess = static_cast<double>(known->sums.above - k) + known->sums.excess_tails;
      tilt_step(tilt, excess, known->sums.variance);
    }
  }
  TiltedRow<T> found{};
  bool exact = false;  // the tails are of a pass of exponentials
  for (int step = 0; step < kMaxTiltSteps; ++step) {
    const T s = static_cast<T>(tilt.value);
    const double shift = static_cast<double>(s) - static_cast<double>(found.s);
    if (step > 0 && shift == 0.0) break;
    found.s = s;
    tilt.value = static_cast<double>(s);
    // Not twice in a row, so that no rounding adds up.
    const bool shifts = exact && std::fabs(shift) < kMostShift;
    found.sums = shifts ? shift_row<T>(n, shift, tails, executor, work)
                        : tilt_row<T>(row, n, s, tails, executor, work);
    exact = !shifts;
    const double excess = static_cast<double>(found.sums.above - k) + found.sums.excess_tails;
    const bool good = tilt_is_good(excess, found.sums.variance, tolerance);
    // What is within the square already has nothing to gain: there the step is rounding error, and
    // one that points out of the bracket would end in its middle, far away.
    const bool polished = tilt_is_good(excess, found.sums.variance, tolerance * tolerance);
    if (good && (!polish || polished)) break;
    if (good) polish = false;
    tilt_step(tilt, excess, found.sums.variance);
  }
  return found;
}

template <class T>
void node_products(const T* tails, int64_t n, const Nodes<T>& nodes, Complex* product,
                   const Executor& executor, Workspace& work) {
  auto body = [&](int64_t segment, int64_t begin, int64_t end) {
    node_products_segment<T>(tails, begin, end, nodes, work.products.get() + segment * kMostNodes);
  };
  for_segments(n, executor, body);
  for (int m = 0; m < nodes.kept; ++m) product[m] = {1.0, 0.0};
  for (int64_t segment = 0; segment < segment_count(n); ++segment) {
    for (int m = 0; m < nodes.kept; ++m) {
      product[m] = multiply(product[m], work.products[segment * kMostNodes + m]);
    }
  }
}

// The integer phase e^{i (above - count) t} of the first node.
DG_INLINE Complex first_phase(int64_t total, int64_t above, int64_t count) {
  const double angle = reduced_angle(above - count, total);
  return {std::cos(angle), std::sin(angle)};
}

// visit(m, phi(t_m) e^{-i count t_m}) for each node, from the products of tail factors and the
// integer phase of the first. The others' are its powers, whose errors grow only with their number.
template <class Visit>
DG_INLINE void for_node_terms(const Complex* product, int kept, Complex first, Visit&& visit) {
  Complex phase = first;
  for (int m = 0; m < kept; ++m) {
    visit(m, multiply(product[m], phase));
    phase = multiply(phase, first);
  }
}

// W_m / Re sum W for m = 1 .. kept; the weight of t = 0 is what is left to 1.
struct NodeWeights {
  double re[kMostNodes];
  double im[kMostNodes];
  double log_probability;  // log P(S = k)
};

DG_INLINE NodeWeights normalise_nodes(const Complex* product, int kept, int64_t total,
                                      int64_t above, int64_t k) {
  NodeWeights weights;
  double sum = 1.0;
  for_node_terms(product, kept, first_phase(total, above, k), [&](int m, Complex term) {
    weights.re[m] = 2.0 * term.re;
    weights.im[m] = 2.0 * term.im;
    sum += weights.re[m];
  });
  for (int m = 0; m < kept; ++m) {
    weights.re[m] /= sum;
    weights.im[m] /= sum;
  }
  weights.log_probability = std::log(sum / static_cast<double>(total));
  return weights;
}

// An ordinary row, solved; the tails are left in the caller's buffer.
template <class T>
struct SolvedRow {
  TiltedRow<T> tilted;
  Nodes<T> nodes;
  NodeWeights weights;
};

template <class T>
SolvedRow<T> solve_row(const T* row, int64_t n, int64_t k, const RowSummary& summary, T* tails,
                       const Executor& executor, Workspace& work) {
  SolvedRow<T> solved;
  solved.tilted =
      find_tilt<T>(row, n, k, summary, kContourTilt, /*polish=*/false, tails, executor, work);
  const TailSums& sums = solved.tilted.sums;
  solved.nodes = make_nodes<T>(node_count<NodeRule<T>>(sums.variance, sums.variance, summary.live));
  Complex product[kMostNodes];
  node_products<T>(tails, n, solved.nodes, product, executor, work);
  solved.weights = normalise_nodes(product, solved.nodes.kept, solved.nodes.total, sums.above, k);
  return solved;
}

}  // namespace CPU_CAPABILITY
}  // namespace dg
