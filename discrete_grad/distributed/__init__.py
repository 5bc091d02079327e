# SPDX-License-Identifier: Apache-2.0
"""k-subset laws of rows whose items are sharded over the ranks of a process group or a mesh.

``import discrete_grad.distributed``: the package does not import it by itself. A few numbers per
row are sent, never the row; ``traffic`` counts them, ``debug`` compares the calls of all ranks.
"""

from discrete_grad.distributed.agreement import debug
from discrete_grad.distributed.functions import (
    entropy,
    log_partition,
    log_prob,
    marginals,
    mode,
    sample,
    simple,
)
from discrete_grad.distributed.traffic import Traffic, traffic

__all__ = [
    "Traffic",
    "debug",
    "entropy",
    "log_partition",
    "log_prob",
    "marginals",
    "mode",
    "sample",
    "simple",
    "traffic",
]
