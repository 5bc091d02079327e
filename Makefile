# SPDX-License-Identifier: Apache-2.0
#
# `make help` lists the targets. Each needs nothing done by hand: the first one to run creates
# .venv, installs torch and this package in it and compiles the C++ extension; later ones do so
# again only where pyproject.toml, setup.py or csrc/ changed.
#
# With `make USE_ACTIVE_ENV=1 <target>` the active virtual or conda environment, which must have
# torch, is used instead (and the package is installed in it, in editable mode).

.DEFAULT_GOAL := help
PYTHON ?= python3
TORCH := torch==2.13.0
# For PyTorch's CPU build: its CUDA builds bring the Triton that they want.
TRITON := triton==3.6.0
BUILD_TOOLS := "setuptools>=77" ninja

ifeq ($(USE_ACTIVE_ENV),1)
ENV := $(or $(VIRTUAL_ENV),$(CONDA_PREFIX))
ifeq ($(ENV),)
$(error USE_ACTIVE_ENV=1, but no environment is active (neither VIRTUAL_ENV nor CONDA_PREFIX is set))
endif
export PATH := $(ENV)/bin:$(PATH)
else
ENV := .venv
export PATH := $(CURDIR)/.venv/bin:$(PATH)
endif

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The stamp names the checkout that is installed, since several may share one environment.
STAMP := $(ENV)/.discrete_grad.stamp
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

# The first time pip shows its progress, after that only what is wrong.
QUIET_AGAIN = $$(test ! -e $(STAMP) || echo --quiet)

CPP_FILES = $(shell find csrc examples tests bench -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
TORCH_CMAKE = $$(python -c 'import torch.utils; print(torch.utils.cmake_prefix_path)')

.PHONY: help
help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed 's/:.*## /\t/' | expand -t 12

$(STAMP): Makefile pyproject.toml setup.py discrete_grad/ops/schemas.def $(shell find csrc)
ifeq ($(USE_ACTIVE_ENV),1)
	@python -c 'import torch; assert torch.__version__ >= "2.9", torch.__version__' \
	  || { echo "USE_ACTIVE_ENV=1, but $(ENV) has no torch 2.9 or newer"; exit 1; }
	@python -m pip install --quiet $(BUILD_TOOLS)
else
	@test -x .venv/bin/python || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	    || { echo "Python 3.10 or newer is needed: make PYTHON=/path/to/python3 ..."; exit 1; }; \
	  echo "Creating .venv: installing torch and the tools, compiling C++. This takes some minutes."; \
	  $(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }; }
	@python -m pip install $(QUIET_AGAIN) "$(TORCH)" $(BUILD_TOOLS)
endif
	@python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("triton") is None)' \
	  || python -m pip install $(QUIET_AGAIN) "$(TRITON)"
	@echo "Building discrete_grad in $(ENV) ..."
	@python -m pip install $(QUIET_AGAIN) --no-build-isolation --editable ".[demo,test,lint]"
	@printf '%s' '$(CURDIR)' > $(STAMP)

.PHONY: setup
setup: $(STAMP) ## the environment and the compiled extension only

.PHONY: demo
demo: $(STAMP) ## train a k-subset autoencoder on handwritten digits; writes demo-output/
	@# `python -m` would put the root of the repository, with triton_kernels, on sys.path
	PYTHONSAFEPATH=1 python -m discrete_grad.demo $(DEMO_ARGS)

.PHONY: test
test: $(STAMP) ## the tests, then the C++ library's (where cmake is found)
	pytest -m "not slow" $(PYTEST_ARGS)
	TRITON_INTERPRET=1 pytest tests/interpreter $(PYTEST_ARGS)
	@if command -v cmake > /dev/null; then $(MAKE) --no-print-directory cpp; \
	else echo "cmake was not found: the plain C++ library and its ctest were left out."; fi

.PHONY: test-full
test-full: $(STAMP) ## every test, the slow ones too, then the C++ library's
	pytest $(PYTEST_ARGS)
	TRITON_INTERPRET=1 pytest tests/interpreter $(PYTEST_ARGS)
	$(MAKE) --no-print-directory cpp

.PHONY: lint
lint: $(STAMP) ## ruff, mypy, clang-format
	ruff check .
	ruff format --check .
	mypy
	clang-format --dry-run -Werror $(CPP_FILES)

.PHONY: format
format: $(STAMP) ## rewrite the sources as `make lint` wants them
	ruff check --fix .
	ruff format .
	clang-format -i $(CPP_FILES)

.PHONY: bench
bench: $(STAMP) ## time beside the baselines, 5 minutes; writes bench/results/ and BENCHMARKS.md
	python bench/all.py --quick $(BENCH_ARGS)

.PHONY: bench-full
bench-full: $(STAMP) ## the same in full, 15 minutes on a quiet machine: what is committed
	python bench/all.py $(BENCH_ARGS)

.PHONY: gpu-check
gpu-check: ## on a machine with a GPU: build, tests, sanitizers, times; writes gpu-check/
	@# with that machine's own python3 and packages: nothing is downloaded, no .venv is made
	$(PYTHON) bench/gpu_check.py $(if $(STAGE),--stages $(STAGE)) $(GPU_CHECK_ARGS)

.PHONY: kernels
kernels: $(STAMP) ## compile every GPU kernel ahead of time (needs nvcc); writes docs/kernels.md
	PYTHONSAFEPATH=1 python -m discrete_grad.triton_kernels.aot --output docs/kernels.md
	python csrc/cuda/resources.py --output docs/kernels.md

.PHONY: cpp
cpp: $(STAMP) ## csrc/ as a plain libtorch library with CMake, and its ctest; no Python in it
	cmake -S . -B build/cpp -G Ninja -DCMAKE_BUILD_TYPE=Release -DDISCRETE_GRAD_TESTS=ON \
	  -DCMAKE_PREFIX_PATH="$(TORCH_CMAKE)" -DDISCRETE_GRAD_PYTHON="$$(command -v python)" \
	  $(CMAKE_ARGS)
	cmake --build build/cpp
	ctest --test-dir build/cpp --output-on-failure

# A C++ exception crashes a process under ASan unless libstdc++ is preloaded as well; leak checking
# would report the interpreter's own.
SANITIZERS = LD_PRELOAD="$$($(or $(CXX),c++) -print-file-name=libasan.so) \
  $$($(or $(CXX),c++) -print-file-name=libstdc++.so.6)" \
  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
SANITIZE_TESTS ?= tests/accuracy tests/sampling tests/autograd tests/topk

.PHONY: sanitize
sanitize: $(STAMP) ## the tests that run C++, under AddressSanitizer and UBSan, in build/sanitize
	rm -rf build/sanitize
	DISCRETE_GRAD_SANITIZE=1 python -m pip install --quiet --no-build-isolation --no-deps \
	  --target build/sanitize .
	$(SANITIZERS) PYTHONPATH=$(CURDIR)/build/sanitize pytest -m "not slow" --backends=cpp \
	  -p no:cacheprovider $(SANITIZE_TESTS) $(SANITIZE_ARGS)

.PHONY: clean
clean: ## remove what was built and written, except .venv
	rm -rf build dist demo-output experiments-output gpu-check *.egg-info $(STAMP) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f discrete_grad/_C.*.so discrete_grad/_build_report.json
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## remove .venv too
	rm -rf .venv
