# SPDX-License-Identifier: Apache-2.0
"""Sharding rules: DTensors sharded over the batch run through the ops without being gathered.

Rows are independent, so every op runs on the rows of each rank alone. Items (the last dimension)
sharded over ranks are gathered by DTensor itself; ``discrete_grad.distributed`` does not gather
them. The rules are registered when the first DTensor comes, so that importing the package does not
import ``torch.distributed.tensor``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Which dimension of an argument or result holds the first batch dimension of logits; None: it holds
# no rows, so every rank has all of it.
_ROWS, _DRAWS, _WHOLE = 0, 1, None
_ARGUMENTS: dict[str, int | None] = {
    **dict.fromkeys(("logits", "row_k", "state", "grad_marginals", "grad_log_partition"), _ROWS),
    **dict.fromkeys(("a", "b", "tangent"), _ROWS),
    **dict.fromkeys(("seed", "quantiles"), _WHOLE),
}
_OPS: dict[str, tuple[int, ...]] = {  # the results of each op
    "subset_marginals": (_ROWS, _ROWS, _ROWS),
    "subset_marginals_vjp": (_ROWS,),
    "subset_third_cumulant": (_ROWS,),
    "subset_sample": (_DRAWS,),
    "subset_sample_indices": (_DRAWS,),
    "simple": (_DRAWS,),
    "count_log_prob": (_ROWS,),
    "count_log_prob_vjp": (_ROWS,),
    "count_log_prob_vjp_backward": (_ROWS, _ROWS),
    "perturbed_topk": (_DRAWS,),
    "perturbed_topk_indices": (_DRAWS,),
    "perturbed_topk_difference": (_ROWS, _ROWS),
    "imle_topk": (_DRAWS,),
}
_MIX = 0x1E3779B97F4A7C15  # odd: multiples of it differ modulo 2^62
_SEED_MASK = 2**62 - 1


def is_dtensor(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a DTensor; no import where no one has imported it."""
    if type(tensor) is Tensor or type(tensor) is torch.nn.Parameter:
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def prepare(logits: Tensor) -> None:
    """Registers the rules if ``logits`` is the first DTensor that comes."""
    if is_dtensor(logits):
        _register()


def placed(logits: Tensor, tensor: Tensor | None) -> Tensor | None:
    """``tensor``, the same on every rank, as it goes with ``logits`` into an op."""
    if tensor is None or not is_dtensor(logits) or is_dtensor(tensor):
        return tensor
    return _replicated(logits, tensor)


def own_seed(seed: Tensor, part: int) -> Tensor:
    """Another seed for each part > 0, from a seed that the parts have in common."""
    return seed ^ (part * _MIX & _SEED_MASK)


def _over_batch(logits: Tensor, placement: Any) -> bool:
    from torch.distributed.tensor import Shard

    return isinstance(placement, Shard) and placement.dim % logits.dim() < logits.dim() - 1


def batch_part(logits: Tensor) -> int:
    """The number, from 1, of the part of the batch that this rank has; 0 where it has all."""
    mesh: Any = logits.device_mesh  # type: ignore[attr-defined]
    part = 0
    for dim, placement in enumerate(logits.placements):  # type: ignore[attr-defined]
        if _over_batch(logits, placement):
            part = part * mesh.size(dim) + mesh.get_local_rank(dim) + 1
    return part


def local_seed(logits: Tensor, seed: Tensor) -> Tensor:
    """The seed of this rank's rows of DTensor logits: another one for every part of the batch.

    An op numbers the rows that it sees from 0, so one seed would give the rows of every rank the
    same noise. Ranks that work on the same rows take the seed of the first of them.
    """
    mesh: Any = logits.device_mesh  # type: ignore[attr-defined]
    for dim, placement in enumerate(logits.placements):  # type: ignore[attr-defined]
        if not _over_batch(logits, placement) and mesh.size(dim) > 1:
            name = mesh.get_group(dim).group_name
            pending = torch.ops._c10d_functional.broadcast(seed, 0, name)
            seed = torch.ops._c10d_functional.wait_tensor(pending)
    return own_seed(seed, batch_part(logits))


def placed_seed(logits: Tensor, seed: Tensor) -> Tensor:
    """``seed`` as it goes with ``logits`` into an op: ``local_seed`` for a DTensor."""
    if not is_dtensor(logits) or is_dtensor(seed):
        return seed
    return _replicated(logits, local_seed(logits, seed))


def _replicated(logits: Tensor, tensor: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor, Replicate

    mesh: Any = logits.device_mesh  # type: ignore[attr-defined]
    return DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)


def draws_of_parts(
    function: Callable[[Tensor, int | Tensor, str], Tensor],
    logits: Tensor,
    k: int | Tensor,
    group: str,
) -> Tensor:
    """Draws ``[S, ..., n]`` of a function that keeps a state, which no sharding rule can describe.

    Args:
        function: of this rank's rows, their k, and the group of the ranks that share the state.
        logits: a DTensor ``[..., n]``.
        k: int, or integer tensor that broadcasts to ``[...]``.
        group: its name; "" is that of the mesh dimension over which the batch is sharded.

    Raises:
        ValueError: the batch is sharded over several mesh dimensions, and ``group`` is "".
    """
    from torch.distributed.tensor import DTensor, Replicate, Shard

    mesh: Any = logits.device_mesh  # type: ignore[attr-defined]
    given = logits.placements  # type: ignore[attr-defined]
    over = [dim for dim, placement in enumerate(given) if _over_batch(logits, placement)]
    if not group and len(over) > 1:
        raise ValueError(
            "process_group must be given for logits whose batch is sharded over several mesh "
            f"dimensions, got None for placements {given}"
        )
    if not group and over:
        group = mesh.get_group(over[0]).group_name
    placements = [p if dim in over else Replicate() for dim, p in enumerate(given)]
    rows = logits.redistribute(placements=placements)  # type: ignore[attr-defined]
    if isinstance(k, Tensor):
        counts: Any = placed(logits, k.expand(logits.shape[:-1]))
        k = counts.redistribute(placements=placements).to_local()
    hot = function(rows.to_local(grad_placements=placements), k, group)
    behind = [Shard(p.dim % logits.dim() + 1) if isinstance(p, Shard) else p for p in placements]
    shape = torch.Size([hot.shape[0], *logits.shape])
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(hot, mesh, behind, run_check=False, shape=shape, stride=stride)


@functools.cache
def _register() -> None:
    from torch.distributed.tensor.experimental import register_sharding

    for name, results in _OPS.items():
        op = getattr(torch.ops.discrete_grad, name).default
        register_sharding(op)(_rule(op, results))


def _rule(op: Any, results: tuple[int, ...]) -> Callable[..., list[tuple[list[Any], list[Any]]]]:
    names = [argument.name for argument in op._schema.arguments]

    def rule(*args: Any) -> list[tuple[list[Any], list[Any]]]:
        from torch.distributed.tensor import Replicate, Shard

        given = dict(zip(names, args, strict=True))
        batch = len(given["logits"].shape) - 1

        def placements(dim: int | None) -> tuple[list[Any], list[Any]]:
            def at(offset: int | None) -> Any:
                return Replicate() if dim is None or offset is None else Shard(dim + offset)

            inputs = [
                at(_offset(name, value, batch)) if hasattr(value, "shape") else None
                for name, value in given.items()
            ]
            return [at(offset) for offset in results], inputs

        return [placements(dim) for dim in (None, *range(batch))]

    return rule


def _offset(name: str, value: Any, batch: int) -> int | None:
    if name == "grad":  # of draws [S, ..., n], or of count log-probabilities [..., max_count + 1]
        return len(value.shape) - batch - 1
    if name == "step":  # lambda of all rows, or of each
        return _ROWS if len(value.shape) else _WHOLE
    return _ARGUMENTS[name]
