# SPDX-License-Identifier: Apache-2.0
"""Builds discrete_grad: packages, and the extension discrete_grad._C. Metadata: pyproject.toml.

Environment variables that are read:

DISCRETE_GRAD_NO_EXTENSION=1  install as pure Python
DISCRETE_GRAD_SANITIZE=1      AddressSanitizer and UndefinedBehaviorSanitizer
DISCRETE_GRAD_WERROR=1        compiler warnings are errors
DISCRETE_GRAD_CUDA=0|1        without the CUDA kernels | with them, even with a CPU torch, and an
                              error where it cannot be (default: where torch and nvcc have CUDA)
CXX, CUDA_HOME, TORCH_CUDA_ARCH_LIST, MAX_JOBS   as for every torch extension

Without a working C++ compiler the package still installs as pure Python. What was built, and why
not more, is left in discrete_grad/_build_report.json for discrete_grad.show_config().
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from glob import glob
from pathlib import Path
from typing import ClassVar

import setuptools
from setuptools import Command, find_packages, setup
from setuptools.command.build import build

PACKAGE = "discrete_grad"
OLDEST_SETUPTOOLS = 77  # the first that knows pyproject.toml's license and license-files (PEP 639)
# Commands that compile. The others (egg_info, sdist, ...) need neither torch nor a compiler.
BUILD_COMMANDS = {"build", "build_ext", "bdist_wheel", "editable_wheel", "install", "develop"}
# Real per-file flags: GCC's target pragmas leave __AVX2__ undefined for the preprocessor.
ISA_FLAGS = {
    "DEFAULT": [],
    "AVX2": ["-mavx2", "-mfma", "-mf16c"],
    "AVX512": [
        *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"),
        *("-mavx2", "-mfma", "-mf16c"),
    ],
}


def load_cuda_build():
    """csrc/cuda/build.py: how the CUDA kernels are compiled."""
    file = Path(__file__).parent / "csrc" / "cuda" / "build.py"
    spec = importlib.util.spec_from_file_location("discrete_grad_cuda_build", file)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cuda = load_cuda_build()


def flag(name: str) -> bool:
    value = os.environ.get(name, "0")
    if value not in ("", "0", "1"):
        raise SystemExit(f"{name} must be 0 or 1, not {value!r}.")
    return value == "1"


@dataclass(frozen=True)
class Plan:
    """What is built on this machine; `reason` and `cuda_reason` say why not more."""

    extension: bool
    reason: str | None = None
    compiler: str | None = None
    torch: str | None = None
    isas: tuple[str, ...] = ()
    sanitize: bool = False
    cuda: bool = False
    cuda_reason: str | None = None
    cuda_archs: tuple[str, ...] = ()
    nvcc: str | None = None


def jobs() -> int:
    return int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)


def find_compiler() -> tuple[str | None, str]:
    """(compiler command, "") or (None, reason): a compiler counts if it builds a trivial module."""
    if sys.platform == "win32":
        return None, "the C++ extension is built on Linux and macOS only"
    named = os.environ.get("CXX")
    candidates = [named] if named else ["c++", "g++", "clang++"]
    found = [c for c in candidates if shutil.which(shlex.split(c)[0])]
    if not found:
        return None, f"no C++ compiler was found (looked for {', '.join(candidates)})"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text("#include <Python.h>\n#include <vector>\nstd::vector<int> probe(3);\n")
        command = [*shlex.split(found[0]), "-std=c++17", "-fPIC", "-shared", *openmp_flags()]
        command += ["-I" + sysconfig.get_path("include"), str(source), "-o", f"{folder}/probe.so"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        first_error = next((s for s in run.stderr.splitlines() if "error" in s), run.stderr)
        return None, f"the C++ compiler {found[0]!r} cannot build a module: {first_error.strip()}"
    return found[0], ""


def openmp_flags() -> list[str]:
    # A compile flag only: at::parallel_for is serial without it, and torch brings the runtime.
    # Apple's clang has no -fopenmp; the kernels are serial there.
    return [] if sys.platform == "darwin" else ["-fopenmp"]


def make_plan() -> Plan:
    if flag("DISCRETE_GRAD_NO_EXTENSION"):
        compiler, reason = None, "DISCRETE_GRAD_NO_EXTENSION=1 was set at installation"
    else:
        compiler, reason = find_compiler()
    if compiler is None:
        if cuda.asked():
            raise SystemExit(f"{cuda.VARIABLE}=1, but the extension is not built: {reason}.")
        return Plan(extension=False, reason=reason, cuda_reason=reason)
    try:
        import torch
    except ImportError as error:
        raise SystemExit(
            f"torch cannot be imported ({error}). {PACKAGE} is compiled against the torch it will "
            "run with: install torch, then run `pip install --no-build-isolation .` "
            "(or set DISCRETE_GRAD_NO_EXTENSION=1 to install as pure Python)."
        ) from error
    os.environ["CXX"] = compiler  # torch and setuptools each look for one; let both take this
    isas = tuple(ISA_FLAGS) if platform.machine() in ("x86_64", "AMD64") else ("DEFAULT",)
    headers = Path(torch.__file__).parent / "include"
    decision = cuda.decide(torch.version.cuda is not None, headers)
    return Plan(
        extension=True,
        compiler=compiler,
        torch=torch.__version__,
        isas=isas,
        sanitize=flag("DISCRETE_GRAD_SANITIZE"),
        cuda=decision.build,
        cuda_reason=decision.reason,
        cuda_archs=decision.archs,
        nvcc=decision.nvcc,
    )


def make_extension(plan: Plan):
    """The extension as setuptools knows it: all but the SIMD and CUDA objects."""
    from torch.utils.cpp_extension import CppExtension

    sources = glob("csrc/*.cpp") + glob("csrc/cpu/*.cpp") + glob("csrc/python/*.cpp")
    macros = [("DISCRETE_GRAD_ISAS", '"' + ",".join(plan.isas) + '"')]
    macros += [("DG_HAVE_X86_LEVELS", None)] if "AVX512" in plan.isas else []
    if plan.cuda:
        sources += glob("csrc/cuda/*.cpp")
        macros += [("DISCRETE_GRAD_CUDA_ARCHS", '"' + ",".join(plan.cuda_archs) + '"')]
    flags = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
    flags += ["-Wall", "-Wextra", "-Wno-psabi", *openmp_flags()]
    link_flags = []
    if plan.sanitize:
        flags += ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]
        flags += ["-fno-sanitize-recover=undefined", "-fno-sanitize=vptr", "-D_GLIBCXX_ASSERTIONS"]
        link_flags += ["-fsanitize=address,undefined"]
    if flag("DISCRETE_GRAD_WERROR"):
        flags += ["-Werror"]
    extension = CppExtension(f"{PACKAGE}._C", sorted(sources), define_macros=macros)
    # torch's headers are not ours to be warned of.
    for folder in extension.include_dirs:
        flags += ["-isystem", folder]
    # Absolute: ninja runs in the build folder.
    extension.include_dirs = [os.path.abspath("csrc"), os.path.abspath(f"{PACKAGE}/ops")]
    extension.extra_compile_args, extension.extra_link_args = flags, link_flags
    return extension


def make_build_ext(plan: Plan):
    from torch.utils.cpp_extension import BuildExtension

    class build_ext(BuildExtension):
        """Adds the objects that need flags of their own: one per SIMD level, and CUDA."""

        def finalize_options(self) -> None:
            super().finalize_options()
            # A place of its own that survives, also for editable installs (whose default is a
            # temporary folder), so that ninja recompiles only what changed.
            parts = [sysconfig.get_platform(), sys.implementation.cache_tag, f"torch{plan.torch}"]
            parts += ["sanitize"] if plan.sanitize else []
            self.build_temp = os.path.join("build", "temp." + "-".join(parts))

        def build_extension(self, extension) -> None:
            # By now torch has put ninja behind self.compiler.compile, where ninja is available.
            def compile_simd(isa: str) -> list[str]:
                extra = [*ISA_FLAGS[isa], f"-DCPU_CAPABILITY={isa}", f"-DCPU_CAPABILITY_{isa}"]
                if plan.sanitize:
                    # With less, functions of the standard library are not inlined, and their
                    # AVX-512 copies may be the ones the linker keeps for the whole program.
                    extra.append("-O2")
                return self.compiler.compile(
                    sorted(glob("csrc/cpu/simd/*.cpp")),
                    output_dir=os.path.join(self.build_temp, isa),
                    macros=extension.define_macros,
                    include_dirs=extension.include_dirs,
                    extra_postargs=[*extension.extra_compile_args, *extra],
                )

            # Side by side where each call runs a ninja of its own.
            with ThreadPoolExecutor(jobs() if self.use_ninja else 1) as pool:
                for objects in pool.map(compile_simd, plan.isas):
                    extension.extra_objects += objects
            if plan.cuda:
                self.add_cuda(extension)
            super().build_extension(extension)

        def add_cuda(self, extension) -> None:
            line = cuda.command(plan.nvcc, plan.cuda_archs, plan.compiler)
            folder = Path(self.build_temp, "cuda")
            extension.extra_objects += cuda.compile_objects(line, folder, jobs(), self.spawn)
            extension.library_dirs += cuda.library_folders(line)
            extension.libraries += cuda.LIBRARIES

    return build_ext


class build_report(Command):
    """Leaves the plan beside the modules, in an editable install too."""

    user_options: ClassVar[list[tuple[str, str, str]]] = []
    plan: Plan

    def initialize_options(self) -> None:
        self.editable_mode = False
        self.build_lib = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self) -> None:
        folder = Path(PACKAGE if self.editable_mode else os.path.join(self.build_lib, PACKAGE))
        if self.editable_mode and not self.plan.extension:
            # A module left by an earlier editable build would be loaded in spite of the plan.
            for stale in folder.glob("_C.*.so"):
                stale.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self.plan), indent=2) + "\n"
        (folder / "_build_report.json").write_text(text, encoding="utf-8")

    def get_outputs(self) -> list[str]:
        return [os.path.join(self.build_lib, PACKAGE, "_build_report.json")]

    def get_output_mapping(self) -> dict[str, str]:
        return (
            {self.get_outputs()[0]: f"{PACKAGE}/_build_report.json"} if self.editable_mode else {}
        )

    def get_source_files(self) -> list[str]:
        return []


class clean_build(build):
    """build, from an empty build_lib: a module that was removed must not come back in a wheel."""

    sub_commands: ClassVar = [*build.sub_commands, ("build_report", None)]

    def run(self) -> None:
        shutil.rmtree(os.path.join(self.build_lib, PACKAGE), ignore_errors=True)
        super().run()


def main() -> None:
    if int(setuptools.__version__.partition(".")[0]) < OLDEST_SETUPTOOLS:
        # Its own error is that the project is described wrongly.
        raise SystemExit(
            f"setuptools {OLDEST_SETUPTOOLS} or newer is needed to build {PACKAGE}, this is "
            f"{setuptools.__version__}: pip install 'setuptools>={OLDEST_SETUPTOOLS}'"
        )
    commands: dict[str, type[Command]] = {"build": clean_build, "build_report": build_report}
    extensions = []
    if BUILD_COMMANDS.intersection(sys.argv[1:]):
        plan = build_report.plan = make_plan()
        if plan.extension:
            extensions = [make_extension(plan)]
            commands["build_ext"] = make_build_ext(plan)
    kernels = f"{PACKAGE}.triton_kernels"
    setup(
        packages=[
            *find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
            kernels,
            *(f"{kernels}.{name}" for name in find_packages("triton_kernels")),
        ],
        package_dir={kernels: "triton_kernels"},
        ext_modules=extensions,
        cmdclass=commands,
    )


if __name__ == "__main__":
    main()
