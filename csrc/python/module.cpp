// SPDX-License-Identifier: Apache-2.0
//
// discrete_grad._C: importing it registers the ops; it tells how it was built.
#include <ATen/Version.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/version.h>

#include <map>
#include <string>

#include "cpu/kernels.h"

#ifndef DISCRETE_GRAD_CUDA_ARCHS
#define DISCRETE_GRAD_CUDA_ARCHS ""
#endif

namespace {

std::map<std::string, std::string> build_info() {
  std::map<std::string, std::string> info;
#if defined(__clang__)
  info["compiler"] = "clang " __clang_version__;
#elif defined(__GNUC__)
  info["compiler"] = "gcc " __VERSION__;
#else
  info["compiler"] = "unknown";
#endif
  info["torch"] = TORCH_VERSION;
  info["cuda_archs"] = DISCRETE_GRAD_CUDA_ARCHS;
  info["simd_levels"] = DISCRETE_GRAD_ISAS;
#ifdef _OPENMP
  info["openmp"] = "yes";
#else
  info["openmp"] = "no";
#endif
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.def("build_info", &build_info, "Compiler, PyTorch version, SIMD levels and GPU architectures.");
  m.def(
      "cpu_capability", [] { return std::string(dg::simd_level()); },
      "The SIMD level that serves on this machine.");
}
