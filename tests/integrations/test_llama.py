# SPDX-License-Identifier: Apache-2.0
"""Llama of transformers: 2:4 masks by dg.nn.sparsify_ as it is, and token selection."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaForCausalLM

import discrete_grad as dg
from discrete_grad.integrations.huggingface import selected_inputs
from tests.integrations.models import VOCABULARY, WIDTH, llama, text, train


def generate(model, prompt):
    return model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False
    )


def at_most_two_of_four(weight):
    return bool(((weight.reshape(-1, 4) != 0).sum(-1) <= 2).all())


class TestMasks:
    """dg.nn.sparsify_ on LlamaForCausalLM."""

    def test_train_harden_bake_generate_save(self, tmp_path):
        torch.manual_seed(0)
        model = llama(use_cache=False).train()
        linear = sum(isinstance(part, nn.Linear) for part in model.model.modules())
        layers = dg.nn.sparsify_(model.model)
        assert len(layers) == linear == 2 * 7
        assert isinstance(model.lm_head, nn.Linear)
        cooling = dg.nn.TemperatureSchedule(model, 1.0, 0.1, 80)

        def loss():
            cooling.step()
            x = text(16)
            return model(x, labels=x).loss

        losses = train(loss, model.parameters(), 80)
        assert sum(losses[-5:]) / 5 < 0.6 * losses[0]
        assert dg.nn.flipped_groups(model) > 0

        model.eval()
        x = text(4)
        with torch.no_grad():
            want = model(x).logits
            dg.nn.harden_masks_(model)
            torch.testing.assert_close(model(x).logits, want)
            dg.nn.bake_masks_(model)
            torch.testing.assert_close(model(x).logits, want)
        weights = [part.weight for part in model.model.modules() if type(part) is nn.Linear]
        assert len(weights) == linear
        assert all(at_most_two_of_four(weight) for weight in weights)
        assert not any("mask" in name for name in model.state_dict())

        model.config.use_cache = True
        prompt = text(3, 6)
        written = generate(model, prompt)
        assert written.shape == (3, 14)
        model.save_pretrained(tmp_path)
        loaded = LlamaForCausalLM.from_pretrained(tmp_path)
        assert torch.equal(generate(loaded, prompt), written)
        assert all(
            at_most_two_of_four(part.weight)
            for part in loaded.model.modules()
            if isinstance(part, nn.Linear)
        )

    def test_masks_alone_of_a_frozen_model(self):
        torch.manual_seed(0)
        model = llama(use_cache=False).train()
        x = text(256)
        train(lambda: model(y := text(16), labels=y).loss, model.parameters(), 60)
        model.requires_grad_(False)
        dg.nn.sparsify_(model.model, freeze_weights=True)
        masks = [value for value in model.parameters() if value.requires_grad]
        assert len(masks) == 14
        dense = {name: value.clone() for name, value in model.named_parameters()}
        model.eval()
        before = model(x, labels=x).loss.item()
        model.train()
        train(lambda: model(y := text(16), labels=y).loss, masks, 40, lr=0.1)
        model.eval()
        assert model(x, labels=x).loss.item() < before - 0.02
        for name, value in model.named_parameters():
            assert torch.equal(value, dense[name]) is not value.requires_grad


class Reader(nn.Module):
    """Which of 4 marked tokens is among the 12 of a row: Llama reads the 3 that are kept."""

    def __init__(self):
        super().__init__()
        self.llama = llama().model
        self.selector = dg.nn.TokenSelector(3, nn.Linear(WIDTH, 1))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, ids):
        kept = self.selector(self.llama.get_input_embeddings()(ids))
        return self.head(self.llama(**selected_inputs(kept)).last_hidden_state[:, -1])

    @staticmethod
    def batch(number):
        ids = torch.randint(4, VOCABULARY, (number, 12))
        answers = torch.randint(4, (number,))
        return ids.scatter(1, torch.randint(12, (number, 1)), answers.unsqueeze(1)), answers


class TestTokens:
    """TokenSelector in front of LlamaModel."""

    def test_the_loss_falls_and_the_scorer_learns(self):
        torch.manual_seed(0)
        reader = Reader().train()

        def loss():
            ids, answers = reader.batch(32)
            return functional.cross_entropy(reader(ids), answers)

        losses = train(loss, reader.parameters(), 250)
        assert sum(losses[-10:]) / 10 < 0.6 * losses[0]
        ids, answers = reader.batch(400)
        reader.eval()
        with torch.no_grad():
            kept = reader.selector(reader.llama.get_input_embeddings()(ids)).indices
            right = (reader(ids).argmax(-1) == answers).float().mean()
        found = (ids.gather(1, kept) < 4).any(-1).float().mean()
        assert found > 0.9  # a blind choice: 0.25
        assert right > 0.85

    def test_tokens_keep_their_places(self):
        """All tokens kept is the model itself; a row of neighbours is that of its own positions."""
        model = llama().model.eval()
        embedded = model.get_input_embeddings()(text(2, 6))
        with torch.no_grad():
            every = dg.nn.TokenSelector(6)(embedded, torch.zeros(2, 6))
            want = model(inputs_embeds=embedded).last_hidden_state
            torch.testing.assert_close(model(**selected_inputs(every)).last_hidden_state, want)

            scores = torch.tensor([0.0, 0, 1, 1, 1, 0]).expand(2, 6)
            few = selected_inputs(dg.nn.TokenSelector(3).eval()(embedded, scores))
            assert few["position_ids"].tolist() == [[2, 3, 4]] * 2
            # Rotary embeddings see distances only.
            got, want = model(**few), model(inputs_embeds=embedded[:, 2:5])
            torch.testing.assert_close(
                got.last_hidden_state, want.last_hidden_state, rtol=1e-4, atol=1e-5
            )

    @pytest.mark.parametrize("use_cache", [False, True])
    def test_tokens_see_each_other_over_the_gaps(self, use_cache):
        model = llama(use_cache=use_cache).model.eval()
        embedded = model.get_input_embeddings()(text(1, 8)).detach().requires_grad_()
        scores = torch.tensor([[1.0, 0, 0, 1, 0, 0, 0, 1]])
        kept = dg.nn.TokenSelector(3).eval()(embedded, scores)
        out = model(**selected_inputs(kept)).last_hidden_state[0, -1].sum()
        (slope,) = torch.autograd.grad(out, embedded)
        reached = slope[0].abs().amax(-1) > 0
        assert torch.equal(reached, scores[0] > 0)

    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_at_gate_0_a_token_is_left_out(self, implementation):
        """For all others: what makes the gates' gradient that of leaving tokens out."""
        model = llama(attn_implementation=implementation).model.eval()
        tokens, places = torch.randn(1, 4, WIDTH), torch.tensor([[0, 2, 3, 7]])
        gates = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
        shut = selected_inputs(dg.nn.SelectedTokens(tokens, places, gates))
        rest = [0, 2, 3]
        left = dg.nn.SelectedTokens(tokens[:, rest], places[:, rest], torch.ones(1, 3))
        with torch.no_grad():
            got = model(**shut).last_hidden_state[:, rest]
            want = model(**selected_inputs(left)).last_hidden_state
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)

    def test_the_gates_have_a_gradient_where_the_size_of_tokens_has_none(self):
        """RMSNorm hides a token's size from the others: only the mask tells what it is worth."""
        torch.manual_seed(0)
        model = llama(num_hidden_layers=1).model.eval()
        slopes = []
        for through_mask in (False, True):
            gates = torch.ones(1, 4, requires_grad=True)
            selected = dg.nn.SelectedTokens(
                torch.randn(1, 4, WIDTH, generator=torch.Generator().manual_seed(0)),
                torch.tensor([[0, 2, 3, 7]]),
                gates,
            )
            inputs = selected_inputs(selected)
            if not through_mask:
                inputs["attention_mask"] = inputs["attention_mask"].detach()
                inputs["inputs_embeds"] = selected.tokens * gates.unsqueeze(-1)
            out = model(**inputs).last_hidden_state[0, -1, 0]
            slopes.append(torch.autograd.grad(out, gates)[0][0, :-1].abs().max())
        assert slopes[1] > 0.01
        assert slopes[1] > 1000 * slopes[0]

    def test_autocast(self):
        model = llama().model.train()
        selector = dg.nn.TokenSelector(3, nn.Linear(WIDTH, 1)).train()
        with torch.autocast("cpu", torch.bfloat16):
            kept = selector(model.get_input_embeddings()(text(2, 9)))
            out = model(**selected_inputs(kept)).last_hidden_state
        out.float().square().sum().backward()
        grad = selector.scorer.weight.grad
        assert bool(grad.isfinite().all())
        assert grad.abs().max() > 0

    def test_that_the_mask_is_needed(self):
        """transformers takes the gap for the start of another sequence, if there is none."""
        model = llama(use_cache=False).model.eval()
        inputs = selected_inputs(
            dg.nn.TokenSelector(2).eval()(torch.randn(1, 4, WIDTH), torch.tensor([[1.0, 0, 0, 1]]))
        )
        with torch.no_grad():
            whole = model(**inputs).last_hidden_state
            del inputs["attention_mask"]
            split = model(**inputs).last_hidden_state
        assert not torch.allclose(whole[:, 1], split[:, 1], atol=1e-3)

    def test_between_the_layers(self):
        """The first layers read all tokens, a second model the hidden states of those kept."""
        lower, upper = llama(num_hidden_layers=1).model, llama(num_hidden_layers=1).model
        selector = dg.nn.TokenSelector(4, nn.Linear(WIDTH, 1)).train()
        kept = selector(lower(text(3, 9)).last_hidden_state)
        out = upper(**selected_inputs(kept)).last_hidden_state
        assert out.shape == (3, 4, WIDTH)
        out[:, -1].square().sum().backward()
        for part in (selector.scorer, lower.layers[0], upper.layers[0]):
            assert all(value.grad.abs().max() > 0 for value in part.parameters() if value.dim() > 1)

    def test_bad_arguments(self):
        with pytest.raises(TypeError, match="selected must be a SelectedTokens"):
            selected_inputs(torch.zeros(1, 2, 3))
        kept = dg.nn.TokenSelector(2)(torch.zeros(4, 3), torch.zeros(4))
        with pytest.raises(
            ValueError, match=r"must have tokens \[B, k, d\], got the shape \(2, 3\)"
        ):
            selected_inputs(kept)
