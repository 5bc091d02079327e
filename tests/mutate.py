# SPDX-License-Identifier: Apache-2.0
"""Can the gradient tests fail? Wrong factors are put into the gradient code, one at a time.

    python tests/mutate.py [--only TEXT] [--list] [--markdown] [--folder DIR]

All happens in a copy of the working tree (without what git ignores). There, each mutation below is
written, the package is built (where it is C++, compiled) and installed beside the copy, its tests
are run, which must fail, and the text is put back. First, all of those tests must pass without any
mutation. The exit status is 1 where a mutation survives. A mutation in a kernel is the same at
every SIMD level, so that one level is compiled. MAX_JOBS bounds the compiler processes.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

REPOSITORY = Path(__file__).resolve().parents[1]
# So that kernels.cpp is compiled once, not once per SIMD level.
ONE_LEVEL = ("tuple(ISA_FLAGS) if platform", '("DEFAULT",) if platform')


@dataclass(frozen=True)
class Mutation:
    name: str
    file: str
    old: str  # must occur exactly once in the file
    new: str
    tests: str  # arguments of pytest

    @property
    def compiled(self) -> bool:
        return self.file.startswith("csrc/")


CONTOUR = "tests/reference/test_contour.py"
EXPLICIT = f"{CONTOUR}::test_explicit_product_against_60_digits"
SEMIRINGS = "tests/reference/test_semirings.py"
INTERPRETED = "tests/interpreter"
TRITON = "triton_kernels"
# The rows of at most 8 items: enough for a wrong factor.
TILES = f"{INTERPRETED}/test_contour.py -k 'test_fused_rows and n0-8'"
PARTS = f"{INTERPRETED}/test_contour.py -k 'test_split_rows and n0-8'"
LIKELIHOOD = "tests/api/test_likelihood.py"
SIMPLE = "tests/api/test_simple.py"
ORDER_1 = f"{SIMPLE}::test_order_1_backward_is_the_covariance_times_the_gradient"
INVERSE = "tests/api/test_inverse.py::test_gradient_by_differences"
GRADCHECK = "tests/autograd/test_gradcheck.py"
FIRST = f"{GRADCHECK}::test_gradcheck -k 'cpp and (normal or all-but-one)'"
SECOND = f"{GRADCHECK}::test_gradgradcheck -k 'cpp and normal'"
COUNT = f"{GRADCHECK}::test_count_log_prob -k cpp"
IMLE = "tests/imle/test_definition.py"
ADAPTIVE = "tests/imle/test_adaptive.py"
TOPK = "tests/topk/test_cpu_topk.py"
DIFFERENCE = f"{TOPK}::test_difference_is_that_of_two_selections"
TOPK_TRITON = f"{INTERPRETED}/test_perturbed_topk.py::test_difference"
SCORE = "tests/estimators/test_score_function.py -k cpp"

# Python first: then no extension is compiled again only to take a mutation back.
MUTATIONS = (
    Mutation(
        "factor 2 lost in d",
        "discrete_grad/reference/contour.py",
        "scale = 2 * items.variance.unsqueeze(-2)",
        "scale = items.variance.unsqueeze(-2)",
        EXPLICIT,
    ),
    Mutation(
        "centring dropped",
        "discrete_grad/reference/contour.py",
        "g = grad - mean.to(r.dtype)",
        "g = grad",
        f"{CONTOUR}::test_common_part_of_the_gradient_is_taken_off_first",
    ),
    Mutation(
        "R dropped",
        "discrete_grad/reference/contour.py",
        "pairs - r * (moved - r * g)",
        "pairs + r * r * g",
        EXPLICIT,
    ),
    Mutation(
        "re and im of the pairs swapped",
        "discrete_grad/reference/contour.py",
        "pairs = _shift(contour, pair_real, pair_imag)",
        "pairs = _shift(contour, pair_imag, pair_real)",
        EXPLICIT,
    ),
    Mutation(
        "1 / P(S = k) without its derivative",
        "discrete_grad/reference/recursion.py",
        "inverse = -probability if logarithmic else probability.reciprocal()",
        "inverse = (-probability if logarithmic else probability.reciprocal()).detach()",
        "tests/reference/test_transforms.py::test_every_way_to_the_covariance",
    ),
    Mutation(
        "siblings swapped in the outside pass",
        "discrete_grad/reference/recursion.py",
        "(level[..., 1::2, :], level[..., 0::2, :])",
        "(level[..., 0::2, :], level[..., 1::2, :])",
        f"{SEMIRINGS}::test_marginals_are_the_derivative_of_the_root",
    ),
    Mutation(
        "entropy: log P(S = k) without its derivative",
        "discrete_grad/reference/subset.py",
        "probability.log() - expectation / probability",
        "probability.log().detach() - expectation / probability",
        f"{SEMIRINGS}::test_entropy",
    ),
    Mutation(
        "order 2: factor 1/2 lost",
        "discrete_grad/estimators/simple.py",
        "(surrogate / 2)",
        "surrogate",
        f"{SIMPLE}::test_order_2_backward_is_its_formula",
    ),
    Mutation(
        "order 2: sign of the second-order term",
        "discrete_grad/estimators/simple.py",
        "+ deviation * along",
        "- deviation * along",
        f"{SIMPLE}::test_order_2_is_unbiased_for_quadratic_losses",
    ),
    Mutation(
        "order 2 again: z - mu not a constant",
        "discrete_grad/estimators/simple.py",
        "deviation = hot.to(theta.dtype) - marginals.detach()",
        "deviation = hot.to(theta.dtype) - marginals",
        f"{SIMPLE}::test_order_2_differentiated_again_takes_the_deviation_for_a_constant",
    ),
    Mutation(
        "samples averaged instead of summed",
        "discrete_grad/ops/sampling.py",
        "+ (mu - mu.detach())",
        "+ (mu - mu.detach()) / num_samples",
        ORDER_1,
    ),
    Mutation(
        "forward-mode AD not sent to the reference",
        "discrete_grad/ops/routing.py",
        "if forward_ad._current_level >= 0:",
        "if forward_ad._current_level >= 1:",
        "tests/autograd/test_higher_order.py::test_dual_numbers_outside_functorch",
    ),
    Mutation(
        "entropy: marginals taken for constants",
        "discrete_grad/likelihood.py",
        "(centred.masked_fill(standard.fixed, 0.0) * marginals).sum(-1)",
        "(centred.masked_fill(standard.fixed, 0.0) * marginals.detach()).sum(-1)",
        f"{LIKELIHOOD}::test_entropy_and_its_gradient",
    ),
    Mutation(
        "KL divergence: p's marginals taken for constants",
        "discrete_grad/likelihood.py",
        "(centred.masked_fill(fixed, 0.0) * p.marginals).sum(-1)",
        "(centred.masked_fill(fixed, 0.0) * p.marginals.detach()).sum(-1)",
        f"{LIKELIHOOD}::test_kl_divergence_and_its_gradients",
    ),
    Mutation(
        "sign of the second derivative",
        "discrete_grad/inverse.py",
        "leaf, -w)",
        "leaf, w)",
        INVERSE,
    ),
    Mutation(
        "step onto the plane taken for a constant",
        "discrete_grad/inverse.py",
        "excess = counts - total",
        "excess = (counts - total).detach()",
        INVERSE,
    ),
    Mutation(
        "I-MLE: the left state taken at the target",
        "discrete_grad/ops/imle_rule.py",
        "left = moved if settings.symmetric else (1.0, settings.temperature)",
        "left = moved",
        f"{IMLE}::test_imle -k 'cpp and fused'",
    ),
    Mutation(
        "I-MLE: central difference not halved",
        "discrete_grad/reference/topk.py",
        "total / (2 * max(samples, 1) if symmetric else max(samples, 1))",
        "total / max(samples, 1)",
        "tests/reference/test_topk.py::test_difference_step_by_step",
    ),
    Mutation(
        "AIMLE: published length by default",
        "discrete_grad/ops/step_size.py",
        "** 0.5 if published_scale else step",
        "** 0.5",
        f"{ADAPTIVE}::test_the_gradient_has_the_length_of_its_lambda -k cpp",
    ),
    Mutation(
        "AIMLE: beta shrinks where it should grow",
        "discrete_grad/ops/step_size.py",
        "ema < rule.target_norm, 1.0, -1.0",
        "ema < rule.target_norm, -1.0, 1.0",
        f"{ADAPTIVE}::test_trajectory_over_200_steps -k cpp",
    ),
    Mutation(
        "AIMLE: an overflow counts",
        "discrete_grad/ops/step_size.py",
        "counts = (unusable == 0) & (total > 0)",
        "counts = total > 0",
        f"{ADAPTIVE}::test_a_gradient_that_is_not_finite_leaves_the_state -k cpp",
    ),
    Mutation(
        "leave-one-out: the draw itself in its baseline",
        "discrete_grad/estimators/score_function.py",
        "(values.sum(0) - values) / (values.size(0) - 1)",
        "values.mean(0).expand_as(values)",
        SCORE,
    ),
    Mutation(
        "factor 2 lost in the sums of d",
        f"{TRITON}/contour_kernels.py",
        "share = 2.0 * variances * g / (",
        "share = variances * g / (",
        TILES,
    ),
    Mutation(
        "im of W D with the wrong sign",
        f"{TRITON}/contour_kernels.py",
        "* d_re - pick(dots_im, m)[:, None] * d_im",
        "* d_re + pick(dots_im, m)[:, None] * d_im",
        TILES,
    ),
    Mutation(
        "R term without the item's own part",
        f"{TRITON}/contour_kernels.py",
        "- r * (correction[:, None] - r * g)",
        "- r * correction[:, None]",
        TILES,
    ),
    Mutation(
        "second-order term dropped",
        f"{TRITON}/contour_kernels.py",
        "product -= g * (re * square_re - im * square_im)",
        "product -= 0.0 * (re * square_re - im * square_im)",
        TILES,
    ),
    Mutation(
        "tau left out of the sums of d",
        f"{TRITON}/split_vjp_kernels.py",
        "tl.sum(share, axis=0) * tau, 0.0)",
        "tl.sum(share, axis=0), 0.0)",
        PARTS,
    ),
    Mutation(
        "sign of the second-order term",
        f"{TRITON}/split_vjp_kernels.py",
        "product -= g * (re * square_re - im * square_im)",
        "product += g * (re * square_re - im * square_im)",
        PARTS,
    ),
    Mutation(
        "grad_log_partition doubled",
        f"{TRITON}/split_vjp_kernels.py",
        "mu * scale, 0.0)",
        "2.0 * mu * scale, 0.0)",
        PARTS,
    ),
    Mutation(
        "sign of the joint term",
        f"{TRITON}/third_cumulant_kernels.py",
        "result -= r * joint",
        "result += r * joint",
        f"{INTERPRETED}/test_contour.py::test_second_derivatives",
    ),
    Mutation(
        "factor 2 lost in e''",
        f"{TRITON}/third_cumulant_kernels.py",
        "p - q - 2.0 * d_re",
        "p - q - d_re",
        f"{INTERPRETED}/test_contour.py::test_second_derivatives",
    ),
    Mutation(
        "tangent of the leaves with one sign",
        f"{TRITON}/linear_kernels.py",
        "d_node = (0.0 - change, change)",
        "d_node = (change, change)",
        f"{INTERPRETED}/test_linear.py -k one_shape",
    ),
    Mutation(
        "p and q swapped in d log q",
        f"{TRITON}/counts_kernels.py",
        "gradient = succeeded * p - failed * q",
        "gradient = succeeded * q - failed * p",
        f"{INTERPRETED}/test_counts.py",
    ),
    Mutation(
        "second derivative of log q dropped",
        f"{TRITON}/counts_kernels.py",
        " - (succeeded + failed) * (q * p) * change",
        "",
        f"{INTERPRETED}/test_counts.py",
    ),
    Mutation(
        "sign of the step",
        f"{TRITON}/topk_difference_kernels.py",
        "moved = tl.cast(alpha, theta.dtype) * theta - move",
        "moved = tl.cast(alpha, theta.dtype) * theta + move",
        TOPK_TRITON,
    ),
    Mutation(
        "factor 2 lost in D",
        "csrc/cpu/simd/contour_vjp.h",
        "scaled = T(2) * item.qp * (",
        "scaled = item.qp * (",
        FIRST,
    ),
    Mutation(
        "centring dropped",
        "csrc/cpu/simd/contour_vjp.h",
        "terms.centre = static_cast<T>(total / variance);",
        "terms.centre = T(0);",
        "tests/accuracy/test_long_rows.py::test_float32_against_float64 -k 100000",
    ),
    Mutation(
        "R dropped",
        "csrc/cpu/simd/contour_vjp.h",
        "r * (terms.total_correction - r * centred)",
        "r * (T(0) - r * centred)",
        FIRST,
    ),
    Mutation(
        "re and im of W D swapped",
        "csrc/cpu/simd/contour_vjp.h",
        "dotted_re[m] = product.re;\n      dotted_im[m] = product.im;",
        "dotted_re[m] = product.im;\n      dotted_im[m] = product.re;",
        FIRST,
    ),
    Mutation(
        "gradient of log Z at forced items",
        "csrc/cpu/simd/contour_vjp.h",
        "if (scale != T(0)) zero_forced<T>(row, n, out);",
        "",
        f"{GRADCHECK}::test_gradcheck -k 'cpp and masked'",
    ),
    Mutation(
        "tangent of the tree doubled",
        "csrc/cpu/simd/linear_marginals.h",
        "{item.q, change}",
        "{item.q, change + change}",
        FIRST,
    ),
    Mutation(
        "flipped rows: sign of the tangent",
        "csrc/cpu/simd/linear_marginals.h",
        "return select(flip_, -value, value);",
        "return value;",
        FIRST,
    ),
    Mutation(
        "linear: grad_log_partition ignored",
        "csrc/cpu/simd/linear_marginals.h",
        "direction[i] = mu.d + scale * mu.v;",
        "direction[i] = mu.d;",
        FIRST,
    ),
    Mutation(
        "half of the tangents' product rule",
        "csrc/cpu/simd/linear_algebra.h",
        "(sum.d + a.v * b.d) + a.d * b.v",
        "sum.d + a.v * b.d",
        FIRST,
    ),
    Mutation(
        "block of four: adjoint of a pair's other item",
        "csrc/cpu/simd/linear_block.h",
        "add_product(adjoint[1] * other.uncounted, adjoint[2], other.counted)",
        "add_product(adjoint[1] * other.uncounted, adjoint[1], other.counted)",
        FIRST,
    ),
    Mutation(
        "count_log_prob_vjp: adjoint of the failures dropped",
        "csrc/cpu/simd/counts.h",
        "adjoints[at + 1] * item.p - adjoints[at] * item.q;",
        "adjoints[at + 1] * item.p;",
        COUNT,
    ),
    Mutation(
        "count_log_prob_vjp_backward: second term dropped",
        "csrc/cpu/simd/counts.h",
        "(adjoints[at + 1].v + adjoints[at].v) * item.qp * direction;",
        "Real{} * direction;",
        COUNT,
    ),
    Mutation(
        "sign of e''",
        "csrc/cpu/simd/third_cumulant.h",
        "multiply(result.first, {rest.re - e.re, rest.im - e.im})",
        "multiply(result.first, {e.re - rest.re, e.im - rest.im})",
        SECOND,
    ),
    Mutation(
        "centring dropped",
        "csrc/cpu/simd/third_cumulant.h",
        "sum_a / solved.tilted.sums.variance",
        "0.0 * sum_a",
        "tests/autograd/test_higher_order.py::"
        "test_a_constant_beside_either_vector_of_the_third_cumulant",
    ),
    Mutation(
        "r not taken off d",
        "csrc/cpu/simd/third_cumulant.h",
        "multiply({at.d.re - r, at.d.im}, joint[m])",
        "multiply(at.d, joint[m])",
        SECOND,
    ),
    Mutation(
        "sides of the difference swapped",
        "csrc/cpu/simd/perturbed_topk.h",
        "sum += in_right - in_left;",
        "sum += in_left - in_right;",
        DIFFERENCE,
    ),
    Mutation(
        "sign of the step",
        "csrc/cpu/simd/perturbed_topk.h",
        "(rounded(pair.right_alpha * logit) - move(i, items))",
        "(rounded(pair.right_alpha * logit) + move(i, items))",
        DIFFERENCE,
    ),
    Mutation(
        "ties kept beyond k",
        "csrc/cpu/simd/perturbed_topk.h",
        "drop_last_equals(values_.get(), size_, last.value, surplus);",
        "drop_last_equals(values_.get(), size_, last.value, int64_t{0} * surplus);",
        f"{TOPK}::test_mode_is_the_top_k_for_every_k",
    ),
    Mutation(
        "grad_log_partition ignored",
        "csrc/autograd.cpp",
        "as_optional(grads[0]), as_optional(grads[1]));",
        "as_optional(grads[0]), std::nullopt);",
        FIRST,
    ),
    Mutation(
        "third cumulant of (v, v) for (g, v)",
        "csrc/autograd.cpp",
        "ops::subset_third_cumulant(logits, k, row_k, g, v);",
        "ops::subset_third_cumulant(logits, k, row_k, v, v);",
        SECOND,
    ),
    Mutation(
        "sign of <mu, v>",
        "csrc/autograd.cpp",
        "grad_c = (of_log_partition * v).sum(-1);",
        "grad_c = -(of_log_partition * v).sum(-1);",
        SECOND,
    ),
    Mutation(
        "c Cov v lost beside K(g, v)",
        "csrc/autograd.cpp",
        "grad_logits.defined() ? grad_logits + part : part;",
        "grad_logits.defined() ? grad_logits : part;",
        SECOND,
    ),
    Mutation(
        "samples averaged instead of summed",
        "csrc/autograd.cpp",
        "samples.sum(0);",
        "samples.mean(0);",
        ORDER_1,
    ),
    Mutation(
        "count_log_prob_vjp: no gradient of the upstream one",
        "csrc/autograd.cpp",
        "return {grad_logits, {}, grad_grad};",
        "return {grad_logits, {}, at::Tensor()};",
        COUNT,
    ),
)


def replace_once(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise SystemExit(f"{file}: {old!r} occurs {text.count(old)} times, not once")
    file.write_text(text.replace(old, new), encoding="utf-8")


class Copy:
    """The working tree in ``folder``/repository, the package built from it in installed."""

    def __init__(self, folder: Path) -> None:
        self.root, self.installed = folder / "repository", folder / "installed"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        self.environment = {
            **inherited,
            "PYTHONPATH": str(self.installed),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def fill(self) -> None:
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.check_output(command, cwd=REPOSITORY, text=True)
        names = [name for name in listed.split("\0") if name and (REPOSITORY / name).is_file()]
        for name in names:
            source, target = REPOSITORY / name, self.root / name
            # What is the same keeps its time, so that ninja does not compile it again.
            if not target.exists() or target.read_bytes() != source.read_bytes():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        kept = {self.root / name for name in names}
        for file in self.root.rglob("*"):
            if file.is_file() and file not in kept and self.root / "build" not in file.parents:
                file.unlink()
        replace_once(self.root / "setup.py", *ONE_LEVEL)

    def run(self, command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=cwd,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def build(self, compiled: bool) -> None:
        step = "build" if compiled else "build_py"
        command = [sys.executable, "setup.py", "-q", step, "--build-lib", str(self.installed)]
        done = self.run(command, self.root)
        if done.returncode != 0:
            raise SystemExit(f"{shlex.join(command)} failed:\n{done.stdout}")

    def check_imports(self) -> None:
        """The package under test is the copy's, though an editable install may be there too."""
        code = "import discrete_grad, discrete_grad._C as c; print(discrete_grad.__file__)"
        done = self.run([sys.executable, "-c", code + "; print(c.__file__)"], self.root.parent)
        lines = done.stdout.split()
        if done.returncode != 0 or not all(Path(f).is_relative_to(self.installed) for f in lines):
            raise SystemExit(f"imported from elsewhere than {self.installed}:\n{done.stdout}")

    def test(self, arguments: str) -> tuple[int, list[str], str]:
        """pytest's exit status, the ids of the tests that failed, and its output."""
        # The script, not `python -m pytest`, which would put the copy's sources on sys.path.
        pytest = Path(sysconfig.get_path("scripts"), "pytest")
        options = ["-q", "--tb=no", "-p", "no:cacheprovider"]
        mode = "1" if INTERPRETED in arguments else "0"
        command = ["env", f"TRITON_INTERPRET={mode}", str(pytest), *options]
        done = self.run([*command, *shlex.split(arguments)], self.root)
        start = "FAILED "
        lines = [s.removeprefix(start) for s in done.stdout.splitlines() if s.startswith(start)]
        return done.returncode, [line.split(" - ")[0] for line in lines], done.stdout

    def control(self, mutations: list[Mutation]) -> None:
        """Without a mutation every test passes."""
        self.build(compiled=True)
        self.check_imports()
        for arguments in tqdm(sorted({m.tests for m in mutations}), desc="without a mutation"):
            status, _, output = self.test(arguments)
            if status != 0:
                raise SystemExit(f"pytest {arguments} fails without a mutation:\n{output}")

    def try_out(self, mutation: Mutation) -> list[str]:
        """The ids of the tests that fail: none where the mutation survives."""
        file = self.root / mutation.file
        original = file.read_text(encoding="utf-8")
        replace_once(file, mutation.old, mutation.new)
        try:
            self.build(mutation.compiled)
            status, failed, output = self.test(mutation.tests)
        finally:
            file.write_text(original, encoding="utf-8")
        if status not in (0, 1) or bool(status) != bool(failed):
            raise SystemExit(f"{mutation.name} ({mutation.file}), pytest broke down:\n{output}")
        return failed


def selected(text: str) -> list[Mutation]:
    found = [m for m in MUTATIONS if text in f"{m.file}: {m.name}"]
    if not found:
        raise SystemExit(f"--only: no mutation has {text!r} in its name or file")
    return sorted(found, key=lambda m: m.compiled)


def seen(failed: list[str]) -> str:
    if not failed:
        return "SURVIVED"
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return f"`{failed[0].removeprefix('tests/')}`{more}"


def table(results: list[tuple[Mutation, list[str]]], markdown: bool) -> str:
    rows = [("mutation", "where", "seen to fail")]
    rows += [(m.name, f"`{m.file}`", seen(failed)) for m, failed in results]
    if markdown:
        rows.insert(1, ("---", "---", "---"))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{a:{widths[0]}}  {b:{widths[1]}}  {c}" for a, b, c in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="TEXT", default="", help="in the file: name of --list")
    parser.add_argument("--list", action="store_true", help="name the mutations and stop")
    parser.add_argument("--markdown", action="store_true", help="the table as in tests/README.md")
    parser.add_argument(
        "--folder", type=Path, help="keep the copy there, so that a later run compiles less"
    )
    arguments = parser.parse_args()
    mutations = selected(arguments.only)
    if arguments.list:
        print("\n".join(f"{m.file}: {m.name}" for m in mutations))
        return
    results = []
    with tempfile.TemporaryDirectory(prefix="discrete_grad-") as temporary:
        copy = Copy((arguments.folder or Path(temporary)).resolve())
        copy.fill()
        copy.control(mutations)
        for mutation in tqdm(mutations, desc="mutations"):
            results.append((mutation, copy.try_out(mutation)))
    print(table(results, arguments.markdown))
    survivors = sum(not failed for _, failed in results)
    if survivors:
        raise SystemExit(f"{survivors} of {len(results)} mutations survive")


if __name__ == "__main__":
    main()
