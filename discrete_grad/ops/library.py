# SPDX-License-Identifier: Apache-2.0
"""Declares the ops where the C++ extension has not, from the same table of schemas."""

from __future__ import annotations

import re
from importlib import resources

import torch

from discrete_grad import backends

_NAMESPACE = "discrete_grad"
_SCHEMA = re.compile(r'^DG_OP\("(?P<schema>[^"]+)"\)$', re.MULTILINE)


def schemas() -> list[str]:
    """The op schemas, as text, from schemas.def."""
    table = resources.files(__package__).joinpath("schemas.def").read_text(encoding="utf-8")
    return [match["schema"] for match in _SCHEMA.finditer(table)]


# Ops whose forward pass is another op on every device; the others have a kernel in each backend.
COMPOSITES = frozenset({"imle_topk", "aimle_topk"})


def kernel_ops() -> list[str]:
    """The names of the ops that a backend has kernels for."""
    names = [schema.partition("(")[0] for schema in schemas()]
    return [name for name in names if name not in COMPOSITES]


# The Library object must live as long as the ops.
_library: torch.library.Library | None = None
if not backends.extension_loaded:
    _library = torch.library.Library(_NAMESPACE, "DEF")
    for _schema in schemas():
        _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))
