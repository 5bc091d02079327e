# SPDX-License-Identifier: Apache-2.0
#
# Finds torch's C++ headers and libraries, in a libtorch folder or in a Python installation of
# torch, and defines the target LibTorch::LibTorch.
#
# Why not find_package(Torch): for a torch with CUDA it demands the CUDA toolkit, which nothing here
# uses, and it adds global compile flags. Where the including project has called find_package(Torch)
# before, that torch is taken.
#
# CMAKE_PREFIX_PATH: the libtorch folder, or what
#   python -c "import torch.utils; print(torch.utils.cmake_prefix_path)"
# prints.

if(TARGET LibTorch::LibTorch)
  return()
endif()

if(TARGET torch)
  get_filename_component(_libtorch_root "${TORCH_INSTALL_PREFIX}" ABSOLUTE)
else()
  # NO_CACHE: another torch in CMAKE_PREFIX_PATH must be taken without emptying the build folder.
  find_path(_libtorch_config TorchConfig.cmake
    HINTS ${Torch_DIR} ${CMAKE_PREFIX_PATH} ENV CMAKE_PREFIX_PATH
    PATH_SUFFIXES Torch share/cmake/Torch
    NO_CACHE)
  get_filename_component(_libtorch_root "${_libtorch_config}/../../.." ABSOLUTE)
endif()

if(EXISTS "${_libtorch_root}/include/torch/library.h")
  set(LibTorch_ROOT_DIR "${_libtorch_root}")
  file(STRINGS "${_libtorch_root}/share/cmake/Torch/TorchConfigVersion.cmake" _line
    REGEX "^set\\(PACKAGE_VERSION ")
  if(_line MATCHES "([0-9]+\\.[0-9]+\\.[0-9]+)")
    set(LibTorch_VERSION "${CMAKE_MATCH_1}")
  endif()
  foreach(_name torch torch_cpu c10)
    find_library(_libtorch_${_name} ${_name}
      PATHS "${_libtorch_root}/lib" NO_DEFAULT_PATH NO_CACHE)
    list(APPEND _libtorch_libraries "${_libtorch_${_name}}")
  endforeach()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_ROOT_DIR _libtorch_torch _libtorch_torch_cpu _libtorch_c10
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "add the libtorch folder, or torch.utils.cmake_prefix_path, to CMAKE_PREFIX_PATH")

if(LibTorch_FOUND)
  add_library(LibTorch::LibTorch INTERFACE IMPORTED)
  # An imported target's include directories count as system ones: no warnings from torch's headers.
  set_target_properties(LibTorch::LibTorch PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES
      "${LibTorch_ROOT_DIR}/include;${LibTorch_ROOT_DIR}/include/torch/csrc/api/include"
    INTERFACE_LINK_LIBRARIES "${_libtorch_libraries}"
    INTERFACE_COMPILE_FEATURES cxx_std_20)
  if(NOT APPLE)
    # torch's libraries find those they need (OpenMP, CUDA) at run time; the linker need not.
    set_target_properties(LibTorch::LibTorch PROPERTIES
      INTERFACE_LINK_OPTIONS LINKER:--allow-shlib-undefined)
  endif()
endif()
