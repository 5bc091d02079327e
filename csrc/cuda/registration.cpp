// SPDX-License-Identifier: Apache-2.0
//
// Gives the CUDA kernels to PyTorch's dispatcher. A C++ program without Python gets them as the ops
// of CUDA tensors (DISCRETE_GRAD_CUDA_SERVES). In the Python package they are ops of a namespace of
// their own, from which discrete_grad/ops/gpu.py chooses, since Triton serves there too.
#include <torch/library.h>

#include <string>

#include "cuda/ops.h"

namespace dg {
namespace cuda {
namespace {

void implement(torch::Library& m) {
  m.impl("subset_marginals", TORCH_FN(subset_marginals));
  m.impl("subset_marginals_vjp", TORCH_FN(subset_marginals_vjp));
  m.impl("subset_third_cumulant", TORCH_FN(subset_third_cumulant));
  m.impl("count_log_prob", TORCH_FN(count_log_prob));
  m.impl("count_log_prob_vjp", TORCH_FN(count_log_prob_vjp));
  m.impl("count_log_prob_vjp_backward", TORCH_FN(count_log_prob_vjp_backward));
  m.impl("subset_sample", TORCH_FN(subset_sample));
  m.impl("subset_sample_indices", TORCH_FN(subset_sample_indices));
  m.impl("perturbation_noise", TORCH_FN(perturbation_noise));
  m.impl("perturbed_topk", TORCH_FN(perturbed_topk));
  m.impl("perturbed_topk_indices", TORCH_FN(perturbed_topk_indices));
  m.impl("perturbed_topk_difference", TORCH_FN(perturbed_topk_difference));
}

}  // namespace

#if defined(DISCRETE_GRAD_CUDA_SERVES)

TORCH_LIBRARY_IMPL(discrete_grad, CUDA, m) { implement(m); }

#else

namespace {

// Ops whose forward pass is another op.
bool is_composite(const std::string& schema) {
  const std::string name = schema.substr(0, schema.find('('));
  return name == "simple" || name == "imle_topk" || name == "aimle_topk";
}

void define(torch::Library& m) {
#define DG_OP(schema) \
  if (!is_composite(schema)) m.def(schema);
#include "schemas.def"
#undef DG_OP
}

}  // namespace

#if defined(DG_CUDA_EMULATION)
// Of another name, since the kernels of a GPU may be in the same process.
TORCH_LIBRARY(discrete_grad_cuda_emulation, m) { define(m); }
TORCH_LIBRARY_IMPL(discrete_grad_cuda_emulation, CPU, m) { implement(m); }
#else
TORCH_LIBRARY(discrete_grad_cuda, m) { define(m); }
TORCH_LIBRARY_IMPL(discrete_grad_cuda, CUDA, m) { implement(m); }
#endif

#endif

}  // namespace cuda
}  // namespace dg
