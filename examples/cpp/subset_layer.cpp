// SPDX-License-Identifier: Apache-2.0
//
// Learns which k of n items matter, in C++ without Python: a regression of which the target uses
// only three of twelve inputs. Each step draws exact 3-subsets of the inputs, fits the target with
// what they let through, and moves the logits along the SIMPLE gradient.
#include <torch/torch.h>

#include <cstdint>
#include <iostream>
#include <vector>

#include "ops.h"

int main() {
  constexpr int64_t kItems = 12, kChosen = 3, kSamples = 16, kSteps = 300;
  torch::manual_seed(0);
  const torch::Tensor relevant = torch::tensor({1, 4, 9}, torch::kInt64);
  const torch::Tensor inputs = torch::randn({512, kItems});
  const torch::Tensor target = inputs.index_select(1, relevant).sum(1);

  torch::Tensor logits = torch::zeros({kItems}, torch::requires_grad());
  torch::optim::Adam optimizer(std::vector<torch::Tensor>{logits}, torch::optim::AdamOptions(0.05));
  for (int64_t step = 0; step < kSteps; ++step) {
    // A fresh seed per step; the same seed would draw the same subsets.
    const torch::Tensor seed = torch::randint(INT64_MAX, {1}, torch::kInt64);
    const torch::Tensor chosen = dg_ops::simple(logits, kChosen, kSamples, seed);  // [samples, n]
    const torch::Tensor prediction = inputs.matmul(chosen.t());                    // [512, samples]
    const torch::Tensor loss = (prediction - target.unsqueeze(1)).square().mean();
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    if (step % 50 == 0) std::cout << "step " << step << "  loss " << loss.item<float>() << '\n';
  }

  const torch::Tensor marginals = dg_ops::marginals(logits.detach(), kChosen).marginals;
  const torch::Tensor found = std::get<0>(std::get<1>(marginals.topk(kChosen)).sort());
  std::cout << "probability of each item: " << marginals << '\n';
  std::cout << "chosen: " << found << '\n';
  return found.equal(relevant) ? 0 : 1;
}
