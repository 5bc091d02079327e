// SPDX-License-Identifier: Apache-2.0
//
// The two sides of a difference of selections, and how samples of a row are shared out.
#pragma once

#include "cuda/perturbed.cuh"

namespace dg {
namespace cuda {

// What the blocks of all samples of a row add up, in integers: in any order the same sums.
struct DifferenceSums {
  int32_t* sums;                 // [rows, n]: left minus right
  unsigned long long* nonzeros;  // [rows]
  int32_t* invalid;              // [rows]: how many samples have no choice
};

template <class T>
struct SideValues {
  T left, right;
};

// Of one sample of one row.
template <class T>
struct Sides {
  const T* theta;
  const T* grad;
  T step;
  PerturbedPair<T> pair;

  DG_DEVICE bool is_silent() const {
    return pair.left_temperature == T(0) && pair.right_temperature == T(0);
  }

  DG_DEVICE SideValues<T> at(int64_t i, T noise) const {
    const T logit = theta[i];
    const T move = rounded_product(step, grad[i]);
    T left =
        rounded_product(pair.left_alpha, logit) + rounded_product(pair.left_temperature, noise);
    if (pair.symmetric) left += move;
    const T right = (rounded_product(pair.right_alpha, logit) - move) +
                    rounded_product(pair.right_temperature, noise);
    return {settled_value(logit, left), settled_value(logit, right)};
  }
};

template <class T>
DG_DEVICE Sides<T> sides_of(const Rows<T>& problem, const PerturbedPair<T>& pair, int64_t sample,
                            int64_t row) {
  return {problem.logits + row * problem.n,
          pair.grad + sample * pair.sample_stride + row * problem.n, pair.step[row], pair};
}

}  // namespace cuda
}  // namespace dg
