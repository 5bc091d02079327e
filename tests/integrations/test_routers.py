# SPDX-License-Identifier: Apache-2.0
"""The routers of Mixtral and Qwen-MoE of transformers, replaced by the k-subset law."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from torch import nn
from transformers import MixtralForCausalLM

import discrete_grad as dg
from discrete_grad.integrations import huggingface
from tests.integrations.models import (
    EXPERTS,
    VOCABULARY,
    WIDTH,
    K,
    gates,
    llama,
    mixtral,
    qwen2_moe,
    qwen3_moe,
    text,
    train,
)
from tests.nn import laws

APPLY = {
    mixtral: huggingface.apply_subset_router_to_mixtral,
    qwen2_moe: huggingface.apply_subset_router_to_qwen_moe,
    qwen3_moe: huggingface.apply_subset_router_to_qwen_moe,
}
EVERY = pytest.mark.parametrize("make", APPLY, ids=lambda make: make.__name__)


def replaced(make, build=None, **settings):
    """A model with the k-subset law, as new."""
    return APPLY[make](make(**build or {}), **settings)


def router(make=mixtral, build=None, **settings):
    return gates(replaced(make, build, **settings))[0]


class TestTheRouter:
    """One router against the enumerated law of its logits."""

    @EVERY
    @pytest.mark.parametrize(
        ("name", "weight"),
        [("normalized", lambda mu: mu / mu.sum()), ("inclusion", lambda mu: mu / K)],
    )
    def test_weights_are_the_exact_inclusion_probabilities(self, make, name, weight):
        gate = router(make, gates=name, temperature=0.5).double()
        hidden = torch.randn(3, 4, WIDTH, dtype=torch.float64)
        logits, weights, experts = gate(hidden)
        rows = hidden.reshape(-1, WIDTH) @ gate.weight.T / 0.5
        torch.testing.assert_close(logits, rows, rtol=0, atol=1e-12)
        assert weights.shape == experts.shape == (12, K)
        assert torch.equal(experts, rows.topk(K).indices.sort().values)
        for row, got, chosen in zip(rows, weights, experts, strict=True):
            want = weight(laws.inclusion(row, K)[chosen])
            torch.testing.assert_close(got, want, rtol=0, atol=1e-12)

    @EVERY
    def test_the_experts_are_those_of_the_stock_router(self, make):
        model = make()
        hidden = torch.randn(50, WIDTH)
        stock = [gate(hidden) for gate in gates(model)]
        APPLY[make](model)
        for gate, (_, scores, experts) in zip(gates(model), stock, strict=True):
            _, weights, chosen = gate(hidden)
            assert weights.dtype == scores.dtype
            assert torch.equal(chosen, experts.sort().values)
            # Both orders agree: the more probable expert has the larger weight.
            assert torch.equal(chosen.gather(1, weights.argmax(-1, keepdim=True)), experts[:, :1])

    @EVERY
    def test_one_expert_per_token_is_the_stock_router(self, make):
        """At k = 1 the law is softmax: the same model, but that Mixtral's only weight is 1."""
        build = {"num_experts_per_tok": 1}
        model, x = make(**build), text(4)
        with torch.no_grad():
            want = model(x, labels=x)
            APPLY[make](model)
            got = model(x, labels=x)
        torch.testing.assert_close(got.logits, want.logits, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("renormalise", [False, True])
    @pytest.mark.parametrize("make", [qwen2_moe, qwen3_moe], ids=lambda make: make.__name__)
    def test_the_default_gates_follow_the_model(self, make, renormalise):
        gate = router(make, {"norm_topk_prob": renormalise})
        assert gate.law.gates == ("normalized" if renormalise else "inclusion")
        _, weights, _ = gate(torch.randn(40, WIDTH))
        total = weights.sum(-1)
        if renormalise:
            torch.testing.assert_close(total, torch.ones(40))
        else:
            assert 0 < total.min() <= total.max() < 1
        assert router(mixtral).law.gates == "normalized"

    @EVERY
    @pytest.mark.parametrize("selection", ["mode", "sample"])
    def test_experts_that_are_not_chosen_have_a_gradient(self, make, selection):
        stock, model = gates(make())[0], replaced(make, selection=selection)
        hidden = torch.randn(1, WIDTH)
        for gate, reached in ((stock, False), (gates(model)[0].train(), True)):
            _, weights, experts = gate(hidden)
            (weights * torch.tensor([1.0, 3.0])).sum().backward()
            others = torch.ones(EXPERTS, dtype=torch.bool).index_fill(0, experts[0], False)
            slopes = gate.weight.grad.abs().amax(-1)
            if make is mixtral or reached:  # Qwen's weights may be softmax over all experts
                # Renormalised softmax leaves rounding errors where its gradient is 0.
                assert bool((slopes[others] > 1e-5 * slopes.max()).all()) is reached

    def test_draws_in_training_only(self):
        gate = router(selection="sample")
        hidden = torch.randn(1, WIDTH).expand(300, WIDTH)
        drawn = gate.train()(hidden)[2]
        assert len(drawn.unique(dim=0)) > 2
        share = drawn.flatten().bincount(minlength=EXPERTS) / 300
        mu = dg.subset.marginals(gate(hidden)[0][0], K)
        assert bool(((share - mu).abs() < 4 * (mu * (1 - mu) / 300).sqrt() + 1e-6).all())
        assert len(gate.eval()(hidden)[2].unique(dim=0)) == 1

    def test_the_gradient_of_an_expected_linear_loss_is_exact(self, monkeypatch):
        """Over all draws, by enumeration."""
        gate = router(gates="inclusion", selection="sample").double().train()
        gate.weight = nn.Parameter(torch.eye(EXPERTS, dtype=torch.float64))
        gate.hidden_dim = EXPERTS
        costs = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
        theta = torch.randn(EXPERTS, dtype=torch.float64).requires_grad_()

        def loss(hidden):
            _, weights, experts = gate(hidden)
            return (weights * costs[experts]).sum()

        got = laws.expected_gradient(monkeypatch, theta, K, loss)
        mu = laws.inclusion(theta, K)
        (want,) = torch.autograd.grad((mu * mu / K * costs).sum(), theta)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)

    def test_16_bits(self):
        gate = router().to(torch.bfloat16)
        logits, weights, _ = gate(torch.randn(5, WIDTH, dtype=torch.bfloat16))
        assert logits.dtype == torch.float32
        assert weights.dtype == torch.bfloat16

    def test_compiled_without_a_break(self):
        gate = router()
        hidden = torch.randn(20, WIDTH)
        compiled = torch.compile(gate, fullgraph=True, backend="aot_eager")
        for got, want in zip(compiled(hidden), gate(hidden), strict=True):
            torch.testing.assert_close(got, want)


class TestTheModel:
    """Whole models."""

    @EVERY
    def test_the_weights_are_the_same_objects(self, make):
        model = make()
        before = {name: (value, value.clone()) for name, value in model.named_parameters()}
        hooked = []
        gates(model)[0].register_forward_hook(lambda *_: hooked.append(1))
        assert APPLY[make](model) is model
        after = dict(model.named_parameters())
        assert set(after) == set(before)
        for name, (value, copied) in before.items():
            assert after[name] is value
            assert torch.equal(value, copied)
        model(text(1))
        assert hooked == [1]

    @EVERY
    def test_every_router_and_nothing_else(self, make):
        model = replaced(make)
        assert [type(gate).__name__.startswith("Subset") for gate in gates(model)] == [True, True]
        assert sum(isinstance(part, dg.nn.router.RoutingLaw) for part in model.modules()) == 2

    def test_layers_without_experts_stay(self):
        model = replaced(qwen3_moe, {"mlp_only_layers": [0]})
        assert len(gates(model)) == 1
        out = model(text(2), labels=text(2))
        assert len(out.router_logits) == 1

    @EVERY
    def test_router_logits_before_and_after_a_first_run(self, make):
        """transformers puts its recording hooks there once; they must outlive the replacement."""
        x = text(3)
        for ran_before in (False, True):
            model = make().eval()
            if ran_before:
                model(x)
            logits = APPLY[make](model, temperature=0.5)(x).router_logits
            assert [tuple(row.shape) for row in logits] == [(3 * 16, EXPERTS)] * 2
            assert logits[0].dtype == torch.float32
            assert logits[0].requires_grad

    @EVERY
    def test_the_auxiliary_loss_of_transformers(self, make):
        """E sum_e (share of the tokens, k in all) (mean probability), over all layers' tokens."""
        model, x = replaced(make), text(5)
        out = model(x, labels=x)
        rows = torch.cat(out.router_logits)
        share = rows.topk(K).indices.flatten().bincount(minlength=EXPERTS) / len(rows)
        want = EXPERTS * (share * rows.softmax(-1).mean(0)).sum()
        torch.testing.assert_close(out.aux_loss, want)
        plain = model(x, labels=x, output_router_logits=False)
        torch.testing.assert_close(out.loss, plain.loss + model.router_aux_loss_coef * out.aux_loss)
        (slope,) = torch.autograd.grad(out.aux_loss, gates(model)[1].weight)
        assert slope.abs().max() > 0

    @EVERY
    def test_evaluation_is_deterministic(self, make):
        model, x = replaced(make, selection="sample").eval(), text(4)
        before = torch.get_rng_state()
        assert torch.equal(model(x).logits, model(x).logits)
        assert torch.equal(before, torch.get_rng_state())  # no seed was drawn
        model.train()
        assert not torch.equal(model(x).logits, model(x).logits)

    @EVERY
    @pytest.mark.parametrize("selection", ["mode", "sample"])
    def test_the_loss_falls(self, make, selection):
        model = replaced(make, {"use_cache": False}, selection=selection).train()

        def loss():
            x = text(16)
            return model(x, labels=x).loss

        before = gates(model)[0].weight.detach().clone()
        losses = train(loss, model.parameters(), 60)
        assert sum(losses[-5:]) / 5 < 0.6 * losses[0]
        assert not torch.equal(before, gates(model)[0].weight)

    def test_the_stock_router_under_the_same_training(self):
        """The bound above is one that the stock router passes too, from the same weights."""
        torch.manual_seed(0)
        model = mixtral(use_cache=False).train()
        losses = train(lambda: model(x := text(16), labels=x).loss, model.parameters(), 60)
        assert sum(losses[-5:]) / 5 < 0.6 * losses[0]

    @EVERY
    def test_gradient_checkpointing_draws_the_same_experts(self, make):
        model = replaced(make, {"use_cache": False}, selection="sample").train()
        x, grads = text(4), []
        for checkpointed in (False, True):
            if checkpointed:
                # Named gradient_checkpointing_enable at first, which later versions deprecate.
                name = "activation_checkpointing_enable"
                old = model.gradient_checkpointing_enable
                getattr(model, name, old)({"use_reentrant": False})
            torch.manual_seed(3)
            model.zero_grad()
            out = model(x, labels=x)
            balance = huggingface.subset_balance_loss(out.router_logits, K)
            (out.loss + balance).backward()
            grads.append([value.grad.clone() for value in model.parameters()])
        for one, two in zip(*grads, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)

    def test_generation(self):
        model = replaced(mixtral, {"output_router_logits": False}).eval()
        out = model.generate(text(2, 4), max_new_tokens=3, do_sample=False)
        assert out.shape == (2, 7)
        # With the cache as without it: a token's experts do not depend on the others.
        with torch.no_grad():
            assert torch.equal(out[:, 4:], model(out[:, :-1]).logits[:, 3:].argmax(-1))

    def test_the_temperature_schedule_finds_the_laws(self):
        model = replaced(mixtral)
        schedule = dg.nn.TemperatureSchedule(model, 1.0, 0.25, 2)
        schedule.step()
        assert [gate.law.temperature.item() for gate in gates(model)] == [0.5, 0.5]


class TestSaving:
    """State dicts, files, copies."""

    @EVERY
    def test_state_dict(self, make):
        stock, one, two = make(), replaced(make), replaced(make, temperature=2.0)
        new = set(one.state_dict()) - set(stock.state_dict())
        assert set(stock.state_dict()) < set(one.state_dict())
        assert new == {f"model.layers.{i}.mlp.gate.law.temperature" for i in range(2)}
        two.load_state_dict(one.state_dict())
        x = text(2)
        assert torch.equal(one.eval()(x).logits, two.eval()(x).logits)
        with pytest.raises(RuntimeError, match=r"Unexpected key.*gate\.law\.temperature"):
            stock.load_state_dict(one.state_dict())
        with pytest.raises(RuntimeError, match=r"Missing key.*gate\.law\.temperature"):
            one.load_state_dict(stock.state_dict())

    def test_files_of_transformers(self, tmp_path):
        model = replaced(mixtral, gates="inclusion").eval()
        model.save_pretrained(tmp_path)
        loaded, report = MixtralForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        assert not report["missing_keys"]
        assert all(key.endswith("gate.law.temperature") for key in report["unexpected_keys"])
        APPLY[mixtral](loaded, gates="inclusion").eval()
        x = text(2)
        torch.testing.assert_close(model(x).logits, loaded(x).logits)

    def test_copies(self):
        model, x = replaced(mixtral).eval(), text(2)
        # Before the first run: the hooks that transformers then puts there cannot be pickled.
        twins = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        for twin in twins:
            assert torch.equal(twin(x).logits, model(x).logits)


class TestBalance:
    """subset_balance_loss."""

    def test_its_definition(self):
        logits = tuple(torch.randn(7, EXPERTS, dtype=torch.float64) for _ in range(3))
        want = 0.0
        for layer in logits:
            mean = torch.stack([laws.inclusion(row, K) for row in layer]).mean(0)
            want += EXPERTS / K * mean.square().sum() / 3
        got = huggingface.subset_balance_loss(logits, K)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)

    def test_it_is_k_times_that_of_the_router(self):
        made = dg.nn.SubsetRouter(WIDTH, EXPERTS, K)
        aux = made(torch.randn(3, 20, WIDTH)).aux
        got = huggingface.subset_balance_loss((aux.logits.flatten(0, 1),), K)
        torch.testing.assert_close(got, K * aux.balance_loss)

    def test_its_range_is_that_of_transformers(self):
        even = torch.zeros(5, EXPERTS, dtype=torch.float64)
        collapsed = even + torch.tensor([40.0, 40.0, 0.0, 0.0])
        for logits, want in ((even, K), (collapsed, EXPERTS)):
            got = huggingface.subset_balance_loss((logits,), K).item()
            torch.testing.assert_close(got, float(want), rtol=0, atol=1e-12)

    def test_padding(self):
        logits = torch.randn(2 * 3, EXPERTS)
        mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
        got = huggingface.subset_balance_loss((logits,), K, mask)
        want = huggingface.subset_balance_loss((logits[:4],), K)
        torch.testing.assert_close(got, want)

    def test_training_on_it_evens_the_load(self):
        model = replaced(mixtral, {"use_cache": False})
        model.router_aux_loss_coef = 0.0
        weights = [gate.weight for gate in gates(model)]
        x = text(32)

        def loss():
            return huggingface.subset_balance_loss(model(x).router_logits, K)

        losses = train(loss, weights, 30)
        assert losses[0] > 2.02
        assert losses[-1] < 2.005

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ((None, K), TypeError, "call the model with output_router_logits=True"),
            (((), K), ValueError, "must have an entry for each layer"),
            (((torch.zeros(3, 4),), 5), ValueError, "k must be at most the number of experts 4"),
            (((torch.zeros(3, 4),), 0), ValueError, "k must be at least 1"),
            (((torch.zeros(3, 4),), 2, torch.ones(2, 2)), ValueError, "mask must broadcast"),
        ],
    )
    def test_bad_arguments(self, arguments, error, message):
        with pytest.raises(error, match=message):
            huggingface.subset_balance_loss(*arguments)


class TestErrors:
    """What is refused leaves the model as it was."""

    @pytest.mark.parametrize(
        ("apply", "make", "message"),
        [
            (APPLY[mixtral], llama, "routers of Mixtral, got none in LlamaForCausalLM"),
            (APPLY[mixtral], qwen2_moe, "routers of Mixtral, got none in Qwen2MoeForCausalLM"),
            (APPLY[qwen2_moe], mixtral, "routers of Qwen2-MoE or Qwen3-MoE, got none"),
        ],
    )
    def test_another_model(self, apply, make, message):
        with pytest.raises(ValueError, match=message):
            apply(make())

    def test_no_model(self):
        with pytest.raises(TypeError, match="model must be a Module"):
            APPLY[mixtral]({"weights": 1})

    @EVERY
    def test_twice(self, make):
        with pytest.raises(ValueError, match=r"'model\.layers\.0\.mlp\.gate' was replaced already"):
            APPLY[make](replaced(make))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"gates": "softmax"}, "gates must be one of"),
            ({"gates": "uniform"}, "gates must not be 'uniform' with selection='mode'"),
            ({"temperature": 0.0}, "temperature must be greater than 0"),
            ({"selection": "top"}, "selection must be one of"),
            ({"evaluation": "top"}, "evaluation must be one of"),
        ],
    )
    def test_bad_settings(self, settings, message):
        model = mixtral()
        with pytest.raises(ValueError, match=message):
            APPLY[mixtral](model, **settings)
        assert [type(gate).__name__ for gate in gates(model)] == ["MixtralTopKRouter"] * 2
        assert not any("law" in name for name in model.state_dict())

    def test_another_structure(self):
        model = mixtral()
        gates(model)[1].bias = nn.Parameter(torch.zeros(EXPERTS))
        with pytest.raises(TypeError, match=r"layers\.1\.mlp\.gate' must have a weight .* top_k"):
            APPLY[mixtral](model)
        assert not any("law" in name for name in model.state_dict())

    def test_a_subclass_of_the_stock_router(self):
        model = mixtral()
        kind = type(gates(model)[0])
        gates(model)[0].__class__ = type("Other", (kind,), {})
        with pytest.raises(TypeError, match="must be a stock one, got its subclass Other"):
            APPLY[mixtral](model)

    def test_a_router_whose_forward_was_replaced(self):
        """As accelerate does it, to place a model on several devices."""
        model = mixtral()
        gate = gates(model)[0]
        gate.forward = functools.partial(gate.forward)
        with pytest.raises(TypeError, match="before the model is dispatched to devices"):
            APPLY[mixtral](model)

    def test_a_bound_forward_left_on_the_instance(self):
        """transformers 5.0 leaves one when it has recorded outputs."""
        model = mixtral()
        gate = gates(model)[0]
        gate.forward = gate.forward
        APPLY[mixtral](model)
        logits, weights, _ = gate(torch.randn(2, WIDTH))
        assert logits.shape == (2, EXPERTS)
        assert weights.shape == (2, K)
        assert model(text(1)).logits.shape == (1, 16, VOCABULARY)
