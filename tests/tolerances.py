# SPDX-License-Identifier: Apache-2.0
"""How far a path may be from the exact value, by quantity, dtype and method; each entry says why.

The numbers are promises made to users, not fits to what is measured: no test scales or loosens
them, on any machine. Errors are absolute for marginals and their vector-Jacobian product (|g| <=
1), and relative to max(1, |log Z|) for the log-partition and for count log-probabilities.
"""

from __future__ import annotations

import torch

# (quantity, dtype, method) -> bound; method None: every method that has no entry of its own.
_BOUNDS: dict[tuple[str, torch.dtype, str | None], float] = {
    # 450 eps. Sums of a few hundred terms of size one, and P(S = k) >= 0.05 in the denominator.
    ("marginals", torch.float64, None): 1e-13,
    ("vjp", torch.float64, None): 1e-13,
    # 8 eps: what one rounding per step of the centred form allows; the uncentred form is at 1e-3
    # for long rows.
    ("marginals", torch.float32, None): 1e-6,
    ("vjp", torch.float32, None): 1e-6,
    # The log recursion rounds logarithms of size up to a few hundred at each of log2(n) levels, and
    # exp turns that absolute error of the logarithm into a relative error of the marginal.
    ("marginals", torch.float32, "recursion"): 1e-5,
    ("vjp", torch.float32, "recursion"): 1e-5,
    # sum softplus - k s: n positive terms, each rounded once, summed pairwise or in double.
    ("log_partition", torch.float64, None): 2e-13,
    ("log_partition", torch.float32, None): 2e-6,
    # The log recursion without a tilt: logarithms of size up to a few hundred are rounded at each
    # of log2(n) levels, by eps times that size, in an entry that may itself be of size one.
    ("count_log_prob", torch.float64, None): 2e-13,
    ("count_log_prob", torch.float32, None): 1e-5,
    # Computed in float32, rounded once to the storage format: half an ulp of a number below one
    # (2^-9 and 2^-12; gradients below one likewise), and the float32 error on top.
    ("marginals", torch.bfloat16, None): 2.0**-9 + 1e-6,
    ("vjp", torch.bfloat16, None): 2.0**-9 + 1e-6,
    ("marginals", torch.float16, None): 2.0**-12 + 1e-6,
    ("vjp", torch.float16, None): 2.0**-12 + 1e-6,
    # Relative: half a unit in the last place of a number just above one (2^-8 and 2^-11).
    ("log_partition", torch.bfloat16, None): 2.0**-8 + 2e-6,
    ("log_partition", torch.float16, None): 2.0**-11 + 2e-6,
}

# The log recursion keeps relative accuracy: exp of a logarithm of size up to 460 (1e-200), rounded
# at each level.
RECURSION_RELATIVE_FLOAT64 = 1e-10
RECURSION_RELATIVE_FLOOR = 1e-200


def bound(quantity: str, dtype: torch.dtype, method: str | None = None) -> float:
    """The promised bound; the entry of the method itself where it has one."""
    own = _BOUNDS.get((quantity, dtype, method))
    return _BOUNDS[quantity, dtype, None] if own is None else own
