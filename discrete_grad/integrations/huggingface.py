# SPDX-License-Identifier: Apache-2.0
"""The k-subset law in models of Hugging Face transformers (5.0 and later versions of 5).

``apply_subset_router_to_mixtral`` and ``apply_subset_router_to_qwen_moe`` replace the routers of a
mixture-of-experts model, in place. ``dg.nn.sparsify_`` needs no help here: the linear layers of
these models are ``nn.Linear``. ``selected_inputs`` gives a model the tokens that a
``dg.nn.TokenSelector`` keeps.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from discrete_grad import checks, subset
from discrete_grad.likelihood import working
from discrete_grad.nn.choice import bool_mask
from discrete_grad.nn.router import RoutingLaw
from discrete_grad.nn.token_selector import SelectedTokens

try:
    import transformers
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise  # transformers is there, and lacks something itself
    raise ImportError(
        "discrete_grad.integrations.huggingface needs Hugging Face transformers: "
        'pip install "discrete-grad[transformers]"'
    ) from error

try:
    from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
    from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeTopKRouter
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter
except ImportError as error:
    raise ImportError(
        "discrete_grad.integrations.huggingface needs the routers of transformers>=5.0,<6, got "
        f'transformers {transformers.__version__}: pip install "discrete-grad[transformers]"'
    ) from error

__all__ = [
    "SubsetMixtralRouter",
    "SubsetQwen2MoeRouter",
    "SubsetQwen3MoeRouter",
    "apply_subset_router_to_mixtral",
    "apply_subset_router_to_qwen_moe",
    "selected_inputs",
    "subset_balance_loss",
]

Model = TypeVar("Model", bound=nn.Module)


class _SubsetForward:
    """The forward of the three routers below: the output of the stock one, by the k-subset law."""

    law: RoutingLaw
    weight: Tensor
    hidden_dim: int

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Routes ``hidden_states`` [..., d], T tokens in all.

        Returns:
            The law's logits [T, E], float32 or wider; the experts' weights [T, k], in the dtype of
            the hidden states; the experts, int64 [T, k], ascending.
        """
        hidden = hidden_states.reshape(-1, self.hidden_dim)
        decision = self.law.decide(functional.linear(hidden, self.weight))
        weights = decision.weights
        if self.law.gates == "inclusion":
            # All experts' marginals sum to k; a stock router's probabilities sum to 1.
            weights = weights / self.law.k
        return decision.logits, weights.to(hidden.dtype), decision.indices


# Subclasses of the stock routers, because transformers records router_logits, and initialises
# weights, by isinstance. Made of stock routers by apply_subset_router_to_*, not by a constructor.
class SubsetMixtralRouter(_SubsetForward, MixtralTopKRouter):
    """Mixtral's router by the k-subset law; see ``apply_subset_router_to_mixtral``."""


class SubsetQwen2MoeRouter(_SubsetForward, Qwen2MoeTopKRouter):
    """Qwen2-MoE's router by the k-subset law; see ``apply_subset_router_to_qwen_moe``."""


class SubsetQwen3MoeRouter(_SubsetForward, Qwen3MoeTopKRouter):
    """Qwen3-MoE's router by the k-subset law; see ``apply_subset_router_to_qwen_moe``."""


_MIXTRAL: dict[type[nn.Module], type[nn.Module]] = {MixtralTopKRouter: SubsetMixtralRouter}
_QWEN: dict[type[nn.Module], type[nn.Module]] = {
    Qwen2MoeTopKRouter: SubsetQwen2MoeRouter,
    Qwen3MoeTopKRouter: SubsetQwen3MoeRouter,
}


def apply_subset_router_to_mixtral(
    model: Model,
    *,
    gates: str | None = None,
    temperature: float = 1.0,
    selection: str = "mode",
    evaluation: str = "mode",
) -> Model:
    """Makes every router of a Mixtral model route by the k-subset law, in place.

    With the logits theta = W h / temperature of a token and mu_e = P(e in S) the exact marginals of
    the law of the k-subsets S, the stock router's softmax, top-k and renormalisation become

    - *the experts*: the mode of the law, which is the stock router's choice, or an exact draw;
    - *their weights*, on the stock router's scale: at most 1 in sum. "normalized": mu_e over the
      sum of those chosen; "inclusion": mu_e / k; "uniform": 1 / k. All but the last depend on every
      logit, so experts that were not chosen have a gradient too; a draw adds its own, see
      ``dg.nn.SubsetRouter``.

    W stays the parameter object that it was, so optimizers, hooks and ties stay as they are.
    ``state_dict`` has the stock keys (``...mlp.gate.weight``) and ``...mlp.gate.law.temperature``
    besides, so that loading the weights of one kind of router strictly into the other fails.
    ``save_pretrained`` writes the same keys; ``from_pretrained`` makes stock routers and reports
    the temperatures as unexpected: apply this function after it, with the same settings.

    ``router_logits`` are theta, from which the model computes its auxiliary loss as before, with
    the mode's experts as the counted ones, drawn or not. ``subset_balance_loss`` is the one whose
    counts are expected. (transformers 5.0 records the stock router's probabilities under that name
    and takes their softmax; these routers record logits in every version.)

    Apply it before the model is compiled or dispatched to several devices; under DDP and FSDP,
    before wrapping. ``TemperatureSchedule`` finds the temperatures.

    Args:
        model: ``MixtralForCausalLM``, or any other module that contains Mixtral's routers.
        gates: "normalized", "inclusion", or "uniform" (with selection="sample"). None: "normalized"
            where the stock router renormalises its weights, as Mixtral's does, "inclusion" where it
            does not.
        temperature: of the law, > 0.
        selection: in training, "mode", the k most probable experts, or "sample", a draw.
        evaluation: the same in evaluation.

    Returns:
        The model.

    Raises:
        ValueError: there is no such router in the model; one of them was replaced already; a bad
            argument, named in the message. The model is left as it was.
        TypeError: ``model`` is no module, or a router is not built or placed as transformers 5
            does it.

    Source:
        The routers that it replaces: Jiang et al., "Mixtral of Experts", arXiv:2401.04088, section
        2.1. The law's gradient: Ahmed, Zeng, Niepert, Van den Broeck, "SIMPLE", ICLR 2023,
        arXiv:2210.01941.
    """
    return _apply(model, _MIXTRAL, "Mixtral", gates, temperature, selection, evaluation)


def apply_subset_router_to_qwen_moe(
    model: Model,
    *,
    gates: str | None = None,
    temperature: float = 1.0,
    selection: str = "mode",
    evaluation: str = "mode",
) -> Model:
    """Makes every router of a Qwen2-MoE or Qwen3-MoE model route by the k-subset law, in place.

    As ``apply_subset_router_to_mixtral``. Layers without experts (``mlp_only_layers``,
    ``decoder_sparse_step``) and shared experts stay as they are. ``gates=None`` is "normalized" in
    a model with ``norm_topk_prob``, "inclusion" in one without.

    Args:
        model: ``Qwen2MoeForCausalLM``, ``Qwen3MoeForCausalLM``, or any other module that contains
            their routers.
        gates, temperature, selection, evaluation: as in ``apply_subset_router_to_mixtral``.

    Returns:
        The model.

    Raises:
        ValueError, TypeError: as in ``apply_subset_router_to_mixtral``.

    Source:
        The routers that it replaces: Yang et al., "Qwen2 Technical Report", arXiv:2407.10671,
        section 2.2.2; "Qwen3 Technical Report", arXiv:2505.09388, section 2.
    """
    return _apply(model, _QWEN, "Qwen2-MoE or Qwen3-MoE", gates, temperature, selection, evaluation)


def subset_balance_loss(
    router_logits: tuple[Tensor, ...], k: int, attention_mask: Tensor | None = None
) -> Tensor:
    """The load-balancing loss of the k-subset law: the expected load, where others count it.

    Per layer, with m_e the mean of mu_e over the tokens, k E sum_e (m_e / k)^2: from k (balanced)
    to E, which is the range of transformers' auxiliary loss, so its coefficient can be kept;
    differentiable in both factors. The result is the mean over the layers (transformers pools the
    tokens of all layers first). To train with it in place of the model's own:

        out = model(ids, labels=ids, output_router_logits=True)  # model.router_aux_loss_coef = 0
        loss = out.loss + 0.001 * subset_balance_loss(out.router_logits, k)

    Args:
        router_logits: of each layer with experts, [T, E], as the model returns them.
        k: experts per token, ``config.num_experts_per_tok``.
        attention_mask: [B, n] with B n = T: 0 or False for tokens (padding) to leave out.

    Returns:
        The loss, []; NaN if the mask leaves no token.

    Raises:
        TypeError: ``router_logits`` is no tuple of tensors: the model was not called with
            ``output_router_logits=True``.
        ValueError: it is empty, k is not from 1 to E, or the mask has not T entries.
    """
    if not isinstance(router_logits, tuple):
        raise TypeError(
            "router_logits must be a tuple of tensors (call the model with "
            f"output_router_logits=True), got {type(router_logits).__name__}"
        )
    if not router_logits:
        raise ValueError("router_logits must have an entry for each layer with experts, got none")
    losses = []
    for logits in router_logits:
        checks.instances("router_logits", logits, 2, "[T, E]")
        tokens, experts = logits.shape
        if not 1 <= checks.at_least_one("k", k) <= experts:
            raise ValueError(f"k must be at most the number of experts {experts}, got {k}")
        rows = subset.marginals(working(logits), k)
        if attention_mask is None:
            mean = rows.mean(0)
        else:
            kept = bool_mask(
                attention_mask.reshape(-1).to(logits.device) != 0, torch.Size([tokens])
            )
            mean = rows.masked_fill(~kept.unsqueeze(-1), 0.0).sum(0) / kept.sum()
        losses.append(experts / k * mean.square().sum())
    return torch.stack([loss.to(losses[0].device) for loss in losses]).mean()


def selected_inputs(selected: SelectedTokens) -> dict[str, Tensor]:
    """What ``dg.nn.TokenSelector`` kept, as arguments of a decoder such as ``LlamaModel``.

        selector = dg.nn.TokenSelector(k, torch.nn.Linear(d, 1))
        out = llama(**selected_inputs(selector(llama.get_input_embeddings()(ids))))

    The tokens keep their places, so rotary embeddings see the distances that were. The mask is the
    causal one plus the logarithms of the gates, which are 0, and does two things:

    - *the gradient*: at gate 0 attention would not see the token, as though it had been left out.
      The gates that multiply the tokens do not tell that: these models normalise a token's size
      away before attention sees it, and a scorer learns badly from what is left.
    - *the gaps*: without a mask, transformers takes every gap between position_ids for the start of
      another sequence (as in packed batches), and tokens on its two sides do not see each other.

    It is of the kind that attention in its implementations "eager" and "sdpa" adds to the scores;
    flash attention takes none. Whether a token is kept depends on the scores of all: a causal
    language model that is trained on what follows each token would see ahead.

    Args:
        selected: of tokens [B, n, d]. Padding: give the selector the mask; k of the other tokens
            must be there.

    Returns:
        inputs_embeds [B, k, d]; position_ids, int64 [B, k]; attention_mask [B, 1, k, k], in the
        dtype of the tokens.

    Raises:
        TypeError: ``selected`` is no ``SelectedTokens``.
        ValueError: its tokens are not [B, k, d].
    """
    checks.instance("selected", selected, SelectedTokens)
    if selected.tokens.dim() != 3:
        raise ValueError(
            f"selected must have tokens [B, k, d], got the shape {tuple(selected.tokens.shape)}"
        )
    k = selected.gates.size(-1)
    seen = selected.gates.log()[:, None, None, :].expand(-1, 1, k, k)
    ahead = torch.ones(k, k, dtype=torch.bool, device=seen.device).triu(1)
    return {
        "inputs_embeds": selected.tokens,
        "position_ids": selected.indices,
        "attention_mask": seen.masked_fill(ahead, -torch.inf),
    }


def _apply(
    model: Model,
    family: dict[type[nn.Module], type[nn.Module]],
    title: str,
    gates: str | None,
    temperature: float,
    selection: str,
    evaluation: str,
) -> Model:
    checks.instance("model", model, nn.Module)
    found: list[tuple[str, Any]] = [
        (name, part) for name, part in model.named_modules() if isinstance(part, tuple(family))
    ]
    if not found:
        raise ValueError(
            f"model must contain routers of {title}, got none in {type(model).__name__}"
        )
    laws = []
    for name, router in found:
        _check(name, router, family)
        normalizes = getattr(router, "norm_topk_prob", True)  # Mixtral's always does
        laws.append(
            RoutingLaw(
                router.num_experts,
                router.top_k,
                gates=gates if gates is not None else "normalized" if normalizes else "inclusion",
                temperature=temperature,
                selection=selection,
                evaluation=evaluation,
                device=router.weight.device,
            )
        )
    # All checks are done: nothing is left half replaced. The class is exchanged, not the module:
    # whatever holds the router goes on holding it, and its hooks stay, among them those by which
    # transformers records router_logits, which it puts there once.
    for (_, router), law in zip(found, laws, strict=True):
        vars(router).pop("forward", None)
        router.law = law.train(router.training)
        router.__class__ = family[type(router)]
    return model


def _check(name: str, router: nn.Module, family: dict[type[nn.Module], type[nn.Module]]) -> None:
    """The router must be a stock one, as transformers 5 builds it and as it was built."""
    if isinstance(router, _SubsetForward):
        raise ValueError(f"the router {name!r} was replaced already")
    kind = type(router)
    if kind not in family:
        raise TypeError(
            f"the router {name!r} must be a stock one, got its subclass {kind.__name__}"
        )
    # Early versions of transformers 5 leave the class's own method behind on the instance. Another
    # one, such as accelerate puts there to place a model on devices, would make the new class have
    # no effect.
    own = vars(router).get("forward")
    if own is not None and getattr(own, "__func__", None) is not kind.forward:
        raise TypeError(
            f"the router {name!r} has a forward of its own in place of that of {kind.__name__}: "
            "replace the routers before the model is dispatched to devices"
        )
    state = {key: tuple(value.shape) for key, value in router.state_dict().items()}
    sizes = tuple(getattr(router, key, None) for key in ("num_experts", "hidden_dim"))
    if state != {"weight": sizes} or not isinstance(getattr(router, "top_k", None), int):
        raise TypeError(
            f"the router {name!r} must have a weight [num_experts, hidden_dim] and top_k, as in "
            f"transformers>=5.0,<6, got {state} in transformers {transformers.__version__}"
        )
