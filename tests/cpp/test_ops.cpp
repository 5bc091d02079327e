// SPDX-License-Identifier: Apache-2.0
//
// The ops of the plain libtorch library, without Python, held to enumeration over all subsets, and
// to PyTorch's own topk.
#include <c10/util/Exception.h>
#include <torch/types.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <iostream>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "ops.h"

namespace {

using torch::Tensor;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

void check(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

void check_close(const Tensor& actual, const Tensor& expected, double tolerance,
                 const std::string& what) {
  check(actual.sizes() == expected.sizes() && actual.scalar_type() == expected.scalar_type(),
        what + ": shape or dtype");
  // Negated, so that NaN fails.
  const double error = (actual - expected).abs().max().item<double>();
  if (!(error <= tolerance)) {
    std::ostringstream message;
    message << what << ": error " << error << " > " << tolerance << "\nactual   " << actual
            << "\nexpected " << expected;
    throw std::runtime_error(message.str());
  }
}

// The law of a k-subset by enumeration; logits [n], float64. +inf forces an item in, -inf excludes.
struct Enumeration {
  std::vector<Tensor> subsets;  // k-hot, each [n]
  std::vector<double> probabilities;
  double log_partition = 0;
  Tensor marginals;   // [n]
  Tensor covariance;  // [n, n]

  Enumeration(const Tensor& logits, int64_t k) {
    const int64_t n = logits.size(0);
    std::vector<double> weights;
    double total = 0;
    for (int64_t mask = 0; mask < (int64_t{1} << n); ++mask) {
      if (__builtin_popcountll(static_cast<uint64_t>(mask)) != k) continue;
      double score = 0;
      bool allowed = true;
      Tensor subset = torch::zeros({n}, torch::kFloat64);
      for (int64_t i = 0; i < n; ++i) {
        const bool in = (mask >> i) & 1;
        const double logit = logits[i].item<double>();
        if (logit == kInfinity) {
          allowed = allowed && in;
        } else if (in) {
          score += logit;
        }
        if (in) subset[i] = 1.0;
      }
      const double weight = allowed ? std::exp(score) : 0.0;
      subsets.push_back(subset);
      weights.push_back(weight);
      total += weight;
    }
    log_partition = std::log(total);
    marginals = torch::zeros({n}, torch::kFloat64);
    Tensor second = torch::zeros({n, n}, torch::kFloat64);
    for (size_t s = 0; s < subsets.size(); ++s) {
      probabilities.push_back(weights[s] / total);
      marginals += probabilities[s] * subsets[s];
      second += probabilities[s] * torch::outer(subsets[s], subsets[s]);
    }
    covariance = second - torch::outer(marginals, marginals);
  }
};

Tensor seed_tensor(int64_t value) { return torch::full({1}, value, torch::kInt64); }

Tensor test_logits() {
  return torch::tensor({0.3, -1.2, 2.0, 0.0, -0.4, 1.1, -2.5}, torch::kFloat64);
}

void marginals_equal_enumeration() {
  Tensor masked = test_logits();
  masked[1] = kInfinity;
  masked[4] = -kInfinity;
  for (const Tensor& logits : {test_logits(), masked}) {
    for (int64_t k = 1; k <= 6; ++k) {
      const Enumeration exact(logits, k);
      for (const std::string method : {"contour", "linear", "recursion"}) {
        const std::string what = method + ", k = " + std::to_string(k);
        const dg_ops::Marginals law = dg_ops::marginals(logits, k, method);
        check_close(law.marginals, exact.marginals, 1e-13, "marginals, " + what);
        check_close(law.marginals.sum(), torch::tensor(double(k), torch::kFloat64), 1e-12,
                    "sum of the marginals, " + what);
        check_close(law.log_partition, torch::tensor(exact.log_partition, torch::kFloat64), 1e-12,
                    "log-partition, " + what);
      }
    }
  }
}

void gradients_equal_enumeration() {
  const Tensor direction = torch::tensor({0.5, -1.0, 0.25, 2.0, 0.0, -0.7, 1.0}, torch::kFloat64);
  const Enumeration exact(test_logits(), 3);

  Tensor logits = test_logits().requires_grad_();
  dg_ops::marginals(logits, 3).log_partition.backward();
  check_close(logits.grad(), exact.marginals, 1e-13, "gradient of the log-partition");

  logits = test_logits().requires_grad_();
  (dg_ops::marginals(logits, 3).marginals * direction).sum().backward();
  check_close(logits.grad(), exact.covariance.matmul(direction), 1e-13, "VJP of the marginals");

  logits = test_logits().requires_grad_();
  (dg_ops::simple(logits, 3, 5, seed_tensor(7)) * direction).sum().backward();
  check_close(logits.grad(), 5 * exact.covariance.matmul(direction), 1e-12, "SIMPLE gradient");
}

void samples_have_k_items_and_follow_the_seed() {
  const Tensor logits = torch::randn({4, 300}, torch::kFloat32) * 3;
  for (const int64_t k : {0, 1, 17, 299, 300}) {
    const Tensor first = dg_ops::sample(logits, k, 8, seed_tensor(1));
    const std::string what = "k = " + std::to_string(k);
    check(first.sizes() == torch::IntArrayRef({8, 4, 300}), "shape of the samples, " + what);
    check(((first == 0) | (first == 1)).all().item<bool>(), "zeros and ones only, " + what);
    check((first.sum(-1) == k).all().item<bool>(), "exactly k ones, " + what);
    check(first.equal(dg_ops::sample(logits, k, 8, seed_tensor(1))), "same seed, " + what);

    const Tensor indices = dg_ops::sample_indices(logits, k, 8, seed_tensor(1));
    check(indices.sizes() == torch::IntArrayRef({8, 4, k}), "shape of the indices, " + what);
    check((indices.diff() > 0).all().item<bool>(), "ascending indices, " + what);
    const Tensor hot = torch::zeros_like(first).scatter_(-1, indices, 1.0);
    check(hot.equal(first), "indices and k-hot samples of one seed agree, " + what);
  }
  const Tensor other = dg_ops::sample(logits, 17, 8, seed_tensor(2));
  check(!other.equal(dg_ops::sample(logits, 17, 8, seed_tensor(1))), "another seed");
}

void samples_follow_the_law() {
  constexpr int64_t kDraws = 100000;
  const Tensor logits = test_logits();
  const Enumeration exact(logits, 3);
  const Tensor draws = dg_ops::sample(logits, 3, kDraws, seed_tensor(11));
  double statistic = 0;
  for (size_t s = 0; s < exact.subsets.size(); ++s) {
    const double expected = kDraws * exact.probabilities[s];
    const double seen = (draws == exact.subsets[s]).all(-1).sum().item<double>();
    statistic += (seen - expected) * (seen - expected) / expected;
  }
  // The 1 - 1e-4 quantile of chi-square with C(7, 3) - 1 = 34 degrees of freedom is 73.5.
  check(statistic < 73.5, "chi-square over all subsets: " + std::to_string(statistic));
}

// Gumbel noise and k = 1: the largest perturbed logit is a sample of the softmax.
void perturbed_maxima_follow_the_softmax() {
  constexpr int64_t kDraws = 100000;
  const Tensor logits = test_logits();
  const Tensor hot = dg_ops::call("perturbed_topk", logits, int64_t{1}, c10::IValue(), kDraws,
                                  c10::IValue(), 1.0, seed_tensor(5))[0]
                         .toTensor();
  const Tensor expected = kDraws * torch::softmax(logits, -1);
  const double statistic = ((hot.sum(0) - expected).square() / expected).sum().item<double>();
  // The 1 - 1e-4 quantile of chi-square with 7 - 1 degrees of freedom is 27.9.
  check(statistic < 27.9, "chi-square over all items: " + std::to_string(statistic));
}

void perturbed_subsets_are_the_largest_of_the_noise() {
  constexpr int64_t kSamples = 5, kRows = 3, kChosen = 16;
  for (const int64_t n : {int64_t{20}, int64_t{1000}, int64_t{40000}}) {
    const Tensor logits = torch::randn({kRows, n}, torch::kFloat32), seed = seed_tensor(9);
    const Tensor noise = dg_ops::call("perturbation_noise", kSamples * kRows, n, c10::IValue(),
                                      seed, c10::ScalarType::Float)[0]
                             .toTensor()
                             .view({kSamples, kRows, n});
    const auto largest = [&](const Tensor& x) {
      const Tensor indices = std::get<1>(x.topk(kChosen, -1));
      return torch::zeros_like(x).scatter_(-1, indices, 1.0);
    };
    const Tensor hot = dg_ops::call("perturbed_topk", logits, kChosen, c10::IValue(), kSamples,
                                    c10::IValue(), 0.5, seed)[0]
                           .toTensor();
    const Tensor left = largest(logits + 0.5 * noise);
    check(torch::equal(hot, left), "k-hot subsets");
    const Tensor indices = dg_ops::call("perturbed_topk_indices", logits, kChosen, kSamples,
                                        c10::IValue(), 0.5, seed)[0]
                               .toTensor();
    check(torch::equal(torch::zeros_like(hot).scatter_(-1, indices, 1.0), hot), "their indices");

    const Tensor grad = torch::randn({kSamples, kRows, n}, torch::kFloat32);
    const auto results =
        dg_ops::call("perturbed_topk_difference", logits, grad, kChosen, c10::IValue(),
                     c10::IValue(), torch::tensor(2.0f), 1.0, 0.5, 1.0, 0.5, false, seed);
    const Tensor difference = left - largest((logits - 2.0 * grad) + 0.5 * noise);
    check_close(results[0].toTensor(), difference.sum(0) / kSamples, 0.0, "their difference");
    check(torch::equal(results[1].toTensor(), difference.ne(0).sum(at::IntArrayRef{0, 2})),
          "how many entries differ");
  }
}

void counts_equal_enumeration() {
  const Tensor logits = test_logits();
  const int64_t n = logits.size(0);
  std::vector<double> law(n + 1, 0.0);
  const Tensor p = torch::sigmoid(logits);
  for (int64_t mask = 0; mask < (int64_t{1} << n); ++mask) {
    double probability = 1;
    for (int64_t i = 0; i < n; ++i) {
      const double one = p[i].item<double>();
      probability *= ((mask >> i) & 1) ? one : 1 - one;
    }
    law[__builtin_popcountll(static_cast<uint64_t>(mask))] += probability;
  }
  const Tensor expected = torch::tensor(law, torch::kFloat64).log();
  for (const int64_t max_count : {int64_t{0}, int64_t{3}, n}) {
    check_close(dg_ops::count_log_prob(logits, max_count), expected.slice(0, 0, max_count + 1),
                1e-12, "count_log_prob up to " + std::to_string(max_count));
  }
}

void long_rows_sum_to_k() {
  for (const int64_t k : {int64_t{3}, int64_t{5000}, int64_t{199990}}) {
    const Tensor logits = torch::randn({1, 200000}, torch::kFloat32);
    const Tensor sum = dg_ops::marginals(logits, k).marginals.to(torch::kFloat64).sum();
    check_close(sum, torch::tensor(double(k), torch::kFloat64), 1e-6 * k,
                "sum of the marginals of a long row, k = " + std::to_string(k));
  }
}

void a_bad_row_is_nan_alone() {
  Tensor logits = test_logits().repeat({3, 1});
  logits[1][2] = std::numeric_limits<double>::quiet_NaN();
  const Tensor marginals = dg_ops::marginals(logits, 3).marginals;
  check(marginals[1].isnan().all().item<bool>(), "every marginal of a row with NaN is NaN");
  const Tensor exact = Enumeration(test_logits(), 3).marginals;
  check_close(marginals[0], exact, 1e-13, "the row before");
  check_close(marginals[2], exact, 1e-13, "the row after");
}

}  // namespace

int main() {
  torch::manual_seed(0);
  const std::vector<std::pair<std::string, std::function<void()>>> tests = {
      {"marginals_equal_enumeration", marginals_equal_enumeration},
      {"gradients_equal_enumeration", gradients_equal_enumeration},
      {"samples_have_k_items_and_follow_the_seed", samples_have_k_items_and_follow_the_seed},
      {"samples_follow_the_law", samples_follow_the_law},
      {"perturbed_maxima_follow_the_softmax", perturbed_maxima_follow_the_softmax},
      {"perturbed_subsets_are_the_largest_of_the_noise",
       perturbed_subsets_are_the_largest_of_the_noise},
      {"counts_equal_enumeration", counts_equal_enumeration},
      {"long_rows_sum_to_k", long_rows_sum_to_k},
      {"a_bad_row_is_nan_alone", a_bad_row_is_nan_alone},
  };
  int failed = 0;
  for (const auto& [name, test] : tests) {
    try {
      test();
      std::cout << "passed  " << name << '\n';
    } catch (const c10::Error& error) {
      ++failed;
      std::cout << "FAILED  " << name << ": " << error.what_without_backtrace() << '\n';
    } catch (const std::exception& error) {
      ++failed;
      std::cout << "FAILED  " << name << ": " << error.what() << '\n';
    }
  }
  std::cout << tests.size() - failed << " passed, " << failed << " failed\n";
  return failed == 0 ? 0 : 1;
}
