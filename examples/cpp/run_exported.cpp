// SPDX-License-Identifier: Apache-2.0
//
// Runs a network that export_marginals.py has exported, in C++ without Python, and holds its
// marginals to those of a direct call.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <cstdint>
#include <iostream>
#include <vector>

#include "ops.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: run_exported network.pt2\n";
    return 2;
  }
  constexpr int64_t kFeatures = 8, kChosen = 3;
  torch::inductor::AOTIModelPackageLoader network(argv[1]);
  const torch::InferenceMode inference;
  for (const int64_t rows : {2, 40}) {
    std::vector<torch::Tensor> outputs = network.run({torch::randn({rows, kFeatures})});
    const torch::Tensor &scores = outputs[0], &marginals = outputs[1];
    const torch::Tensor direct = dg_ops::marginals(scores, kChosen).marginals;
    if (!torch::allclose(marginals, direct, 0.0, 1e-6)) {
      std::cerr << "the exported network and a direct call differ\n";
      return 1;
    }
    std::cout << rows << " rows, marginals of the first: " << marginals[0] << '\n';
  }
  return 0;
}
