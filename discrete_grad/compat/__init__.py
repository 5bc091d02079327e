# SPDX-License-Identifier: Apache-2.0
"""Samplers with the call surface of published projects, which then run by changing an import.

- ``discrete_grad.compat.sfess``: the samplers of SFESS (Wijk, Vinuesa, Azizpour, "SFESS: Score
  Function Estimators for k-Subset Sampling", ICLR 2025).
- ``discrete_grad.compat.pr_mpnn``: the edge sampler of PR-MPNN (Qian, Manolache, Ahmed, Zeng, Van
  den Broeck, Niepert, Morris, "Probabilistically Rewired Message-Passing Neural Networks", ICLR
  2024, arXiv:2310.02156), main branch; ``pr_mpnn_backup``: its branch ``backup``, with I-MLE.
- ``discrete_grad.compat.circuit``: the circuit layer that both of them call.

Each has two modes: ``"exact"``, the k-subset law of the scores, and ``"compat"``, the law that the
published code samples and differentiates. See ``discrete_grad.compat.law`` and docs/clients.md.
"""

from discrete_grad.compat import circuit, law, pr_mpnn, pr_mpnn_backup, sfess

__all__ = ["circuit", "law", "pr_mpnn", "pr_mpnn_backup", "sfess"]
