// SPDX-License-Identifier: Apache-2.0
//
// Compiled once per SIMD level; each copy exports its tables under the level's name.
#include <type_traits>

#include "cpu/simd/contour_vjp.h"
#include "cpu/simd/counts.h"
#include "cpu/simd/linear_marginals.h"
#include "cpu/simd/perturbed_topk.h"
#include "cpu/simd/sample_halving.h"
#include "cpu/simd/third_cumulant.h"
#include "cpu/simd/tree_marginals.h"

#define DG_CONCAT_(a, b) a##b
#define DG_CONCAT(a, b) DG_CONCAT_(a, b)

namespace dg {

template <class T>
static void tree_forward(const Rows<T>& problem, TreeAlgebra algebra, int64_t begin, int64_t end,
                         T* marginals, T* log_partition) {
  const auto forward = algebra == TreeAlgebra::kLinear ? linear_forward<T> : recursion_forward<T>;
  forward(problem, begin, end, marginals, log_partition);
}

template <class T>
static constexpr Kernels<T> table() {
  return {contour_forward<T>,    contour_vjp<T>,        third_cumulant<T>,
          tree_forward<T>,       linear_vjp<T>,         sample<T>,
          count_log_prob<T>,     count_log_prob_vjp<T>, count_log_prob_vjp_backward<T>,
          perturbation_noise<T>, perturbed_topk<T>,     perturbed_difference<T>};
}

extern const Kernels<float> DG_CONCAT(kFloatKernels_, CPU_CAPABILITY);
extern const Kernels<double> DG_CONCAT(kDoubleKernels_, CPU_CAPABILITY);
extern const int64_t DG_CONCAT(kVectorBytes_, CPU_CAPABILITY);

const Kernels<float> DG_CONCAT(kFloatKernels_, CPU_CAPABILITY) = table<float>();
const Kernels<double> DG_CONCAT(kDoubleKernels_, CPU_CAPABILITY) = table<double>();
const int64_t DG_CONCAT(kVectorBytes_, CPU_CAPABILITY) = kVectorBytes;

}  // namespace dg
