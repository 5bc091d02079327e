# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of discrete_grad, importable as ``discrete_grad.triton_kernels`` only.

The directory stands at the top of the repository beside ``csrc``, and ``setup.py`` maps it to the
package ``discrete_grad.triton_kernels`` in a wheel and in an editable install alike. It must never
be importable as plain ``triton_kernels``: Triton's own repository ships a distribution of that
name, and programs (vLLM is one) decide by its mere presence to import their kernels from it. Hence
relative imports inside this package, and no tool that puts the root of the repository on
``sys.path``: pytest runs in importlib mode, started as ``pytest`` and not ``python -m pytest``.
"""

__all__ = ["SERVED_OPS"]

SERVED_OPS: frozenset[str] = frozenset()
"""Names of the ops of ``torch.ops.discrete_grad`` that have a Triton kernel in this version."""
