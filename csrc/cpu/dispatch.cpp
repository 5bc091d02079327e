// SPDX-License-Identifier: Apache-2.0
//
// Which SIMD level serves: the one PyTorch found on this machine, as far as it was compiled.
#include <ATen/Version.h>

#include <string>

#include "cpu/kernels.h"

namespace dg {

#define DG_DECLARE_LEVEL(level)                        \
  extern const Kernels<float> kFloatKernels_##level;   \
  extern const Kernels<double> kDoubleKernels_##level; \
  extern const int64_t kVectorBytes_##level;

DG_DECLARE_LEVEL(DEFAULT)
#ifdef DG_HAVE_X86_LEVELS
DG_DECLARE_LEVEL(AVX2)
DG_DECLARE_LEVEL(AVX512)
#endif

namespace {

struct Level {
  const Kernels<float>* of_float;
  const Kernels<double>* of_double;
  int64_t vector_bytes;
  const char* name;
};

Level choose_level() {
#ifdef DG_HAVE_X86_LEVELS
  const std::string capability = at::get_cpu_capability();
  if (capability == "AVX512") {
    return {&kFloatKernels_AVX512, &kDoubleKernels_AVX512, kVectorBytes_AVX512, "AVX512"};
  }
  if (capability == "AVX2") {
    return {&kFloatKernels_AVX2, &kDoubleKernels_AVX2, kVectorBytes_AVX2, "AVX2"};
  }
#endif
  return {&kFloatKernels_DEFAULT, &kDoubleKernels_DEFAULT, kVectorBytes_DEFAULT, "DEFAULT"};
}

const Level& level() {
  static const Level chosen = choose_level();
  return chosen;
}

}  // namespace

template <>
const Kernels<float>& kernels<float>() {
  return *level().of_float;
}
template <>
const Kernels<double>& kernels<double>() {
  return *level().of_double;
}

int64_t lanes_of(int64_t scalar_bytes) { return level().vector_bytes / scalar_bytes; }

const char* simd_level() { return level().name; }

}  // namespace dg
