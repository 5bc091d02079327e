// SPDX-License-Identifier: Apache-2.0
//
// The third cumulant of a k-subset contracted with two vectors: the derivative of the vector-
// Jacobian product, by the law of total cumulance over the nodes of the contour
// (docs/mathematics.md, "The third cumulant"). In double, and rows of every length by parts, a
// short one by one part: it serves second derivatives, where accuracy matters and speed little.
#include "cuda/split.cuh"

namespace dg {
namespace cuda {
namespace {

using Number = Complex<double>;

constexpr int kMostKept = NodeRule<double>::kMaxNodes;
constexpr int kStateNumbers = kContourStateWidth<double>;
constexpr int kMeans = 3;  // V, sum q p a, sum q p b
constexpr int kNodeSums =
    6;  // sum u d, sum v d, sum u v e', each re and im; u, v: a and b, centred
constexpr int kSums = 1 + kNodeSums * kMostKept;  // before them, for t = 0: sum u v q p
constexpr int kNodesAtOnce = 2;

struct CumulantScratch {
  double* state;
  double* means;
  double* sums;
};

// Per item and node: d, e' = e (1 - e) and e'' = e' (1 - 2 e) with e = q + d.
struct NodeDerivatives {
  Number d, first, second;
};

DG_DEVICE NodeDerivatives node_derivatives(const Item<double>& item, double tau) {
  const double factor = 2.0 * item.qp / (item.delta * item.delta + tau * tau);
  NodeDerivatives at;
  at.d = {factor * item.delta, factor * tau};
  const Number e = {item.q + at.d.re, at.d.im};
  const Number rest = {item.p - at.d.re, -at.d.im};
  at.first = multiply(e, rest);
  at.second = multiply<double>(at.first, {rest.re - e.re, rest.im - e.im});
  return at;
}

__global__ void __launch_bounds__(kSplitThreads)
    cumulant_means_kernel(Rows<double> rows, Split split, const double* a, const double* b,
                          CumulantScratch scratch) {
  SplitTeam team;
  const Part part(split, rows.n);
  const double s = scratch.state[part.row * kStateNumbers];
  if (!team.any(is_finite(s))) return;
  Sums<double, kMeans> sums = {};
  for (int64_t i = part.begin + team.rank(); i < part.end; i += kSplitThreads) {
    const int64_t at = part.row * rows.n + i;
    const double qp = unpack_item(signed_tail(rows.logits[at] + s)).qp;
    if (!(qp > 0.0)) continue;
    sums.of[0] += qp;
    sums.of[1] += qp * a[at];
    sums.of[2] += qp * b[at];
  }
  sums = team.reduce(sums, Add());
  if (team.rank() != 0) return;
#pragma unroll
  for (int j = 0; j < kMeans; ++j) scratch.means[part.block * kMeans + j] = sums.of[j];
}

// A constant added to a or b changes nothing, since the count is certain: both are centred.
struct Centres {
  double a, b;
  bool varies;
};

DG_DEVICE Centres centres_of_row(SplitTeam& team, Split split, int64_t row, const double* means) {
  const Sums<double, kMeans> sums =
      sum_of_parts<kMeans>(team, means + row * split.parts * kMeans, split.parts, kMeans);
  const bool varies = sums.of[0] > kNoVariance;
  return {varies ? sums.of[1] / sums.of[0] : 0.0, varies ? sums.of[2] / sums.of[0] : 0.0, varies};
}

__global__ void __launch_bounds__(kSplitThreads)
    cumulant_sums_kernel(Rows<double> rows, Split split, const double* a, const double* b,
                         CumulantScratch scratch) {
  __shared__ NodeTable<double> table;
  SplitTeam team;
  const Part part(split, rows.n);
  const double* const state = scratch.state + part.row * kStateNumbers;
  const double s = state[0];
  if (!team.any(is_finite(s))) return;
  const int kept = read_state(team, /*ordinary=*/true, state, table);
  const Centres centres = centres_of_row(team, split, part.row, scratch.means);
  double* const record = scratch.sums + part.block * kSums;
  // The origin's sum is made along with the first nodes.
  for (int first = 0; first == 0 || team.any(first < kept); first += kNodesAtOnce) {
    Sums<double, 1 + kNodeSums * kNodesAtOnce> sums = {};
    for (int64_t i = part.begin + team.rank(); i < part.end; i += kSplitThreads) {
      const int64_t at = part.row * rows.n + i;
      const Item<double> item = unpack_item(signed_tail(rows.logits[at] + s));
      if (!(item.qp > 0.0)) continue;
      const double u = a[at] - centres.a, v = b[at] - centres.b;
      sums.of[0] += item.qp * u * v;
#pragma unroll
      for (int j = 0; j < kNodesAtOnce; ++j) {
        const NodeDerivatives node = node_derivatives(item, table.tau[first + j]);
        double* const of = sums.of + 1 + kNodeSums * j;
        of[0] += u * node.d.re;
        of[1] += u * node.d.im;
        of[2] += v * node.d.re;
        of[3] += v * node.d.im;
        of[4] += u * v * node.first.re;
        of[5] += u * v * node.first.im;
      }
    }
    sums = team.reduce(sums, Add());
    if (team.rank() != 0) continue;
    if (first == 0) record[0] = sums.of[0];
#pragma unroll
    for (int j = 0; j < kNodeSums * kNodesAtOnce; ++j) {
      if (first * kNodeSums + j < kSums - 1) record[1 + first * kNodeSums + j] = sums.of[1 + j];
    }
  }
}

// What the last pass reads of a row: by node, less the means over all nodes.
struct CumulantNodes {
  Number a[kMostKept], b[kMostKept];
  Number joint[kMostKept];  // W (ab + a b)
};

// The same for t = 0, where d = 0 and e' = q p, and what belongs to the whole row.
struct CumulantOrigin {
  double weight, mean_a, mean_b;
  double joint;  // of all nodes, the real part
};

DG_DEVICE CumulantOrigin combine_nodes(SplitTeam& team, Split split, int64_t row, int kept,
                                       const NodeTable<double>& table, const double* partial,
                                       CumulantNodes& nodes) {
  __shared__ double sums[kSums];
  for (int j = team.rank(); j <= kNodeSums * kept; j += kSplitThreads) {
    double sum = 0.0;
    for (int64_t part = 0; part < split.parts; ++part) {
      sum += partial[(row * split.parts + part) * kSums + j];
    }
    sums[j] = sum;
  }
  team.sync();
  CumulantOrigin origin = {1.0, 0.0, 0.0, 0.0};
  for (int m = 0; m < kept; ++m) origin.weight -= table.re[m];
  double mean_ab = origin.weight * sums[0];
  for (int m = 0; m < kept; ++m) {
    const double* const of = sums + 1 + kNodeSums * m;
    origin.mean_a += table.re[m] * of[0] - table.im[m] * of[1];
    origin.mean_b += table.re[m] * of[2] - table.im[m] * of[3];
    mean_ab += table.re[m] * of[4] - table.im[m] * of[5];
  }
  for (int m = team.rank(); m < kept; m += kSplitThreads) {
    const double* const of = sums + 1 + kNodeSums * m;
    nodes.a[m] = {of[0] - origin.mean_a, of[1]};
    nodes.b[m] = {of[2] - origin.mean_b, of[3]};
    const Number both = multiply(nodes.a[m], nodes.b[m]);
    nodes.joint[m] =
        multiply<double>({table.re[m], table.im[m]}, {of[4] - mean_ab + both.re, of[5] + both.im});
  }
  team.sync();
  origin.joint = origin.weight * (sums[0] - mean_ab + origin.mean_a * origin.mean_b);
  for (int m = 0; m < kept; ++m) origin.joint += nodes.joint[m].re;
  return origin;
}

DG_DEVICE double item_cumulant(const Item<double>& item, double u, double v, int kept,
                               const NodeTable<double>& table, const CumulantNodes& nodes,
                               const CumulantOrigin& origin) {
  const double linear = item.qp * (-origin.mean_b * u - origin.mean_a * v);
  double result = origin.weight * (item.qp * (item.p - item.q) * u * v + linear);
  double r = 0.0;
  for (int m = 0; m < kept; ++m) {
    const NodeDerivatives node = node_derivatives(item, table.tau[m]);
    const Number weight = {table.re[m], table.im[m]};
    const Number slope = {nodes.b[m].re * u + nodes.a[m].re * v,
                          nodes.b[m].im * u + nodes.a[m].im * v};
    Number term = multiply(node.first, slope);
    term.re += node.second.re * u * v;
    term.im += node.second.im * u * v;
    result += multiply(weight, term).re + multiply(nodes.joint[m], node.d).re;
    r += multiply(weight, node.d).re;
  }
  return result - r * origin.joint;
}

__global__ void __launch_bounds__(kSplitThreads, 2)
    third_cumulant_kernel(Rows<double> rows, Split split, const double* a, const double* b,
                          CumulantScratch scratch, double* out) {
  __shared__ NodeTable<double> table;
  __shared__ CumulantNodes nodes;
  SplitTeam team;
  const Part part(split, rows.n);
  const double* const state = scratch.state + part.row * kStateNumbers;
  const double s = state[0];
  Centres centres = {0.0, 0.0, false};
  CumulantOrigin origin = {};
  int kept = 0;
  if (team.any(is_finite(s))) {
    kept = read_state(team, /*ordinary=*/true, state, table);
    centres = centres_of_row(team, split, part.row, scratch.means);
    origin = combine_nodes(team, split, part.row, kept, table, scratch.sums, nodes);
  }
  for (int64_t i = part.begin + team.rank(); i < part.end; i += kSplitThreads) {
    const int64_t at = part.row * rows.n + i;
    double result = s != s ? static_cast<double>(NAN) : 0.0;
    if (centres.varies) {
      const Item<double> item = unpack_item(signed_tail(rows.logits[at] + s));
      if (item.qp > 0.0) {
        result =
            item_cumulant(item, a[at] - centres.a, b[at] - centres.b, kept, table, nodes, origin);
      }
    }
    out[at] = result;
  }
}

}  // namespace

size_t third_cumulant_scratch_bytes(int64_t rows, int64_t n) {
  if (rows == 0) return 0;
  const Split split = split_of_row(rows, n);
  const int64_t sums = split.parts * (kMeans + kSums);
  const size_t own = static_cast<size_t>(rows * (kStateNumbers + sums)) * sizeof(double);
  return own + contour_forward_scratch_bytes<double>(rows, n);
}

int launch_third_cumulant(const Rows<double>& problem, const double* a, const double* b,
                          double* out, void* scratch, void* stream) {
  if (problem.rows == 0) return 0;
  const Split split = split_of_row(problem.rows, problem.n);
  const int64_t blocks = problem.rows * split.parts;
  CumulantScratch own;
  own.state = static_cast<double*>(scratch);
  own.means = own.state + problem.rows * kStateNumbers;
  own.sums = own.means + blocks * kMeans;
  double* const left = own.sums + blocks * kSums;
  int error = launch_contour_forward<double>(problem, nullptr, nullptr, own.state, left, stream);
  if (error != 0) return error;
  error =
      DG_LAUNCH(cumulant_means_kernel, blocks, kSplitThreads, 0, stream, problem, split, a, b, own);
  if (error != 0) return error;
  error =
      DG_LAUNCH(cumulant_sums_kernel, blocks, kSplitThreads, 0, stream, problem, split, a, b, own);
  if (error != 0) return error;
  return DG_LAUNCH(third_cumulant_kernel, blocks, kSplitThreads, 0, stream, problem, split, a, b,
                   own, out);
}

}  // namespace cuda
}  // namespace dg
