# SPDX-License-Identifier: Apache-2.0
"""experiments.relational_inference: data, model, loss, estimators, and a quick run."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import asdict
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch

import discrete_grad as dg
from experiments import __main__ as cli
from experiments import session
from experiments.errors import DataError
from experiments.relational_inference import data, grid, objective, scale
from experiments.relational_inference.figures import figures
from experiments.relational_inference.latent import ESTIMATORS, TreeSampler
from experiments.relational_inference.layout import (
    edge_list,
    random_trees,
    simulate,
    spring_step,
)
from experiments.relational_inference.model import Decoder, Encoder
from experiments.relational_inference.report import best_imle, tables
from experiments.relational_inference.train import train

EDGES = 45


def _networkx_step(positions: np.ndarray, adjacency: np.ndarray) -> np.ndarray:
    graph = nx.from_numpy_array(adjacency.astype(float))
    layout = nx.spring_layout(
        graph,
        pos=dict(enumerate(positions)),
        iterations=1,
        threshold=1e-10,
        center=np.zeros(2),
    )
    return np.array([layout[vertex] for vertex in range(len(positions))])


def test_spring_step_is_that_of_networkx() -> None:
    generator = np.random.default_rng(0)
    trees = random_trees(6, 10, generator)
    positions = generator.normal(size=(6, 10, 2))
    # Both lower bounds: a pair of vertices nearer than 0.01, and a force shorter than 0.01.
    positions[4, 1] = positions[4, 0] + 1e-4
    for frame in range(20):
        expected = np.stack([_networkx_step(*pair) for pair in zip(positions, trees, strict=True)])
        found = spring_step(positions, trees)
        np.testing.assert_allclose(found, expected, atol=1e-10, rtol=0, err_msg=f"frame {frame}")
        positions = found


def test_spring_step_at_rest() -> None:
    """The force on two joined vertices vanishes at the distance k; networkx has the same bound."""
    adjacency = np.array([[[0, 1], [1, 0]]])
    for distance in (0.5**0.5, 0.5**0.5 + 1e-4):
        positions = np.array([[[0.0, 0.0], [distance, 0.0]]])
        expected = _networkx_step(positions[0], adjacency[0])
        np.testing.assert_allclose(spring_step(positions, adjacency)[0], expected, atol=1e-10)


def test_random_trees_are_the_gumbel_maximum_spanning_trees() -> None:
    """On three vertices the three trees are equally likely; and all are trees."""
    trees = random_trees(6000, 3, np.random.default_rng(1))
    rows, columns = edge_list(3).T
    left_out = 1 - trees[:, rows, columns]
    assert (left_out.sum(1) == 1).all()
    # 5 standard deviations of a binomial share.
    assert np.abs(left_out.mean(0) - 1 / 3).max() < 5 * math.sqrt(2 / 9 / 6000)
    trees = random_trees(20, 10, np.random.default_rng(2))
    for tree in trees:
        assert nx.is_tree(nx.from_numpy_array(tree))
    # The same weights, and networkx's tree.
    weights = np.random.default_rng(2).gumbel(size=(20, EDGES))
    graph = nx.Graph()
    graph.add_weighted_edges_from(
        (i, j, w) for (i, j), w in zip(edge_list(10).tolist(), weights[0], strict=True)
    )
    expected = {tuple(sorted(edge)) for edge in nx.maximum_spanning_tree(graph).edges}
    assert {tuple(e) for e in np.argwhere(np.triu(trees[0])).tolist()} == expected


def test_frames_start_after_the_first_step() -> None:
    frames, trees = simulate(3, 4, 10, np.random.default_rng(3))
    assert frames.shape == (3, 4, 2, 10)
    # Every frame is scaled, which the N(0, I) start is not.
    np.testing.assert_allclose(np.abs(frames).max((2, 3)), 1.0)
    expected = spring_step(frames[:, 1].swapaxes(1, 2), trees)
    np.testing.assert_allclose(frames[:, 2].swapaxes(1, 2), expected, atol=1e-12)


PARAMETERS = data.Parameters(train=7, valid=3, test=4, frames=10)


def test_cache_is_made_once_and_read(tmp_path: Path) -> None:
    path = data.generate(tmp_path, PARAMETERS)
    written = path.stat().st_mtime_ns
    assert data.generate(tmp_path, PARAMETERS).stat().st_mtime_ns == written
    graphs = data.load_cache(path, PARAMETERS)
    assert {split: len(part) for split, part in graphs.items()} == {
        "train": 7,
        "valid": 3,
        "test": 4,
    }
    train = graphs["train"]
    assert train.positions.shape == (7, 10, 10, 2)
    assert train.positions.dtype == train.edges.dtype == torch.float32
    assert (train.positions.min(), train.positions.max()) == (-1, 1)
    assert (train.edges.sum(1) == 9).all()
    # A split does not depend on the sizes of the others.
    other = data.Parameters(train=2, valid=3, test=4, frames=10)
    again = data.load_cache(data.generate(tmp_path, other), other)["test"]
    assert torch.equal(again.edges, graphs["test"].edges)


def test_positions_are_scaled_by_the_training_set(tmp_path: Path) -> None:
    path = _write_published(tmp_path, scale=3.0)
    graphs = data.load_published(path, 10)
    raw = np.load(path / "data_test_novar_1skip_10t_1r_graph10.npy")
    train = np.load(path / "data_train_novar_1skip_10t_1r_graph10.npy")
    low, high = train.min(), train.max()
    expected = ((raw - low) / (high - low) * 2 - 1)[1, 4, :, 7]
    np.testing.assert_allclose(graphs["test"].positions[1, 4, 7], expected, rtol=1e-5)


def test_a_cache_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "layout.npz"
    with pytest.raises(DataError, match=r"layout\.npz: no such file"):
        data.load_cache(path, PARAMETERS)
    path.write_bytes(b"PK no archive")
    with pytest.raises(DataError, match=r"layout\.npz: no readable \.npz archive"):
        data.load_cache(path, PARAMETERS)
    good = data.generate(tmp_path, PARAMETERS)
    other = data.Parameters(train=8, valid=3, test=4, frames=10)
    with pytest.raises(DataError, match=r'made with parameters .*"train": 7.*expected.*: 8'):
        data.load_cache(good, other)
    cut = good.read_bytes()[: good.stat().st_size // 2]
    path.write_bytes(cut)
    with pytest.raises(DataError, match="no readable"):
        data.load_cache(path, PARAMETERS)
    arrays = dict(np.load(good))
    del arrays["edges_valid"]
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="has no array edges_valid"):
        data.load_cache(path, PARAMETERS)


def _write_published(folder: Path, scale: float = 1.0) -> Path:
    for number, split in enumerate(data.SPLITS):
        frames, trees = simulate(5, 10, 10, np.random.default_rng(number))
        ending = f"{split}_novar_1skip_10t_1r_graph10.npy"
        np.save(folder / f"data_{ending}", frames * scale)
        np.save(folder / f"edges_{ending}", trees.astype(np.float32))
    return folder


def _break_shape(path: Path) -> str:
    np.save(path / "data_valid_novar_1skip_10t_1r_graph10.npy", np.zeros((5, 10, 10, 2)))
    return r"data_valid_.*npy: data_valid has shape \(5, 10, 10, 2\), expected \(N, 10, 2, 10\)"


def _break_number(path: Path) -> str:
    np.save(path / "edges_test_novar_1skip_10t_1r_graph10.npy", np.zeros((4, 10, 10)))
    return r"edges_test_.*npy: edges_test has shape \(4, 10, 10\), expected \(5, 10, 10\)"


def _break_trees(path: Path) -> str:
    np.save(path / "edges_train_novar_1skip_10t_1r_graph10.npy", np.ones((5, 10, 10)))
    return r"edges_train must hold symmetric adjacency matrices of 0 and 1 with 9 edges"


def _break_values(path: Path) -> str:
    np.save(path / "data_train_novar_1skip_10t_1r_graph10.npy", np.full((5, 10, 2, 10), np.nan))
    return r"data_train has entries that are not finite"


def _break_file(path: Path) -> str:
    (path / "data_train_novar_1skip_10t_1r_graph10.npy").write_text("no array")
    return r"data_train_novar_1skip_10t_1r_graph10\.npy: no readable \.npy array"


def _remove_file(path: Path) -> str:
    (path / "edges_train_novar_1skip_10t_1r_graph10.npy").unlink()
    return r"edges_train_novar_1skip_10t_1r_graph10\.npy: no such file"


@pytest.mark.parametrize(
    "damage",
    [_break_shape, _break_number, _break_trees, _break_values, _break_file, _remove_file],
)
def test_published_arrays_that_do_not_fit_are_named(tmp_path: Path, damage) -> None:
    message = damage(_write_published(tmp_path))
    with pytest.raises(DataError, match=message):
        data.load_published(tmp_path, 10)


def _encoder() -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(4, 5, 8)
    encoder(torch.randn(6, 4, 5, 2))  # running statistics that are not 0 and 1
    return encoder.eval()


def test_encoder_follows_a_renumbering_of_the_vertices() -> None:
    encoder, positions = _encoder(), torch.randn(2, 4, 5, 2)
    order = torch.tensor([3, 0, 4, 1, 2])
    before, after = torch.zeros(2, 2, 5, 5).unbind()
    rows, columns = torch.from_numpy(edge_list(5)).T
    for matrix, logits in ((before, encoder(positions)), (after, encoder(positions[:, :, order]))):
        matrix[:, rows, columns] = matrix[:, columns, rows] = logits.detach()
    torch.testing.assert_close(after, before[:, order][:, :, order])
    assert before[0, rows, columns].std() > 0.01


def test_encoder_logits_are_means_over_both_directions() -> None:
    """Against the network written with concatenated features, one ordered pair at a time."""
    encoder, positions = _encoder(), torch.randn(1, 4, 5, 2)

    def block(module, *pieces: torch.Tensor) -> torch.Tensor:
        weight = torch.cat([piece.weight for piece in module.inputs.pieces], 1)
        first = torch.cat(pieces) @ weight.T + module.inputs.pieces[0].bias
        features = torch.nn.functional.elu(first)
        features = torch.nn.functional.elu(module.layer(features))
        norm = module.norm
        scaled = (features - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps)
        return scaled * norm.weight + norm.bias

    vertices = range(5)
    hidden = [block(encoder.vertex_in, positions[0, :, v].flatten()) for v in vertices]
    pairs = {
        (s, r): block(encoder.pair_in, hidden[s], hidden[r])
        for s in vertices
        for r in vertices
        if s != r
    }
    hidden = [
        block(encoder.vertex, sum(pairs[s, r] for s in vertices if s != r) / 5) for r in vertices
    ]
    logit = {
        (s, r): encoder.logit(block(encoder.pair, hidden[s], hidden[r], pairs[s, r]))
        for s, r in pairs
    }
    expected = torch.cat([(logit[i, j] + logit[j, i]) / 2 for i, j in edge_list(5).tolist()])
    torch.testing.assert_close(encoder(positions)[0], expected)


@pytest.mark.parametrize("pull", [None, 0.3])
def test_decoder_adds_messages_by_edge_type(pull: float | None) -> None:
    """Against messages of concatenated positions, one ordered pair at a time."""
    torch.manual_seed(1)
    decoder = Decoder(4, 6, pull)
    positions, edges = torch.randn(1, 2, 4, 2), torch.rand(1, 6)
    relu = torch.nn.functional.relu
    index = {tuple(pair): e for e, pair in enumerate(edge_list(4).tolist())}
    for frame in range(2):
        x = positions[0, frame]
        for r in range(4):
            total, pulled = torch.zeros(6), torch.zeros(2)
            for s in range(4):
                if s == r:
                    continue
                z = edges[0, index[min(r, s), max(r, s)]]
                pulled = pulled + z * (x[s] - x[r])
                for kind, weight in ((0, z), (1, 1 - z)):
                    joined = torch.cat(
                        [decoder.sent[kind].weight, decoder.received[kind].weight], 1
                    )
                    first = relu(torch.cat([x[s], x[r]]) @ joined.T + decoder.sent[kind].bias)
                    total = total + weight * relu(decoder.message[kind](first))
            expected = x[r] + decoder.change(torch.cat([x[r], total])) + (pull or 0) * pulled
            torch.testing.assert_close(decoder(positions, edges)[0, frame, r], expected)


class _Shift(torch.nn.Module):
    """A decoder that adds 0.01 to every coordinate."""

    def forward(self, positions: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        return positions + 0.01


@pytest.mark.parametrize("steps", [1, 3, 9])
def test_reconstruction_of_a_constant_drift(steps: int) -> None:
    """Still layouts: the error after s steps is (0.01 s)^2 in each of 2 x 10 coordinates."""
    positions = torch.randn(1, 1, 10, 2).expand(3, 10, 10, 2)
    found = objective.reconstruction(_Shift(), positions, torch.zeros(3, EDGES), steps)
    ahead = [(t - 1) % steps + 1 for t in range(1, 10)]
    expected = sum((0.01 * s) ** 2 for s in ahead) * 20 / (2 * 5e-5) / 10
    torch.testing.assert_close(found, torch.full((3,), expected), rtol=1e-3, atol=0)
    some = torch.tensor([0])
    one = objective.reconstruction(_Shift(), positions, torch.zeros(3, EDGES), steps, some)
    starts = len(range(0, 9, steps))
    per_start = sum((0.01 * s) ** 2 for s in range(1, steps + 1)) * 20 / (2 * 5e-5) / 10
    torch.testing.assert_close(one, torch.full((3,), starts * per_start), rtol=1e-3, atol=0)


def test_divergence_is_the_kl_of_gumbel_variables() -> None:
    logits = torch.tensor([[0.0] * EDGES, [0.7] + [0.0] * 44])
    found = objective.divergence(logits)
    # E[log q(x) - log p(x)] for x = 0.7 + Gumbel, by quadrature; twice for two directions.
    x = np.linspace(-6, 40, 400_001)
    log_q, log_p = (-(x - u) - np.exp(-(x - u)) for u in (0.7, 0.0))
    kl = np.trapezoid(np.exp(log_q) * (log_q - log_p), x)
    np.testing.assert_allclose(found, [0.0, 2 * kl / 10], rtol=1e-4, atol=1e-6)


def test_edge_scores() -> None:
    true = torch.zeros(2, EDGES)
    true[:, :9] = 1
    inferred = torch.zeros(2, EDGES)
    inferred[0, :9] = 1
    inferred[1, 6:15] = 1  # 3 of 9
    scores = objective.edge_scores(inferred, true)
    assert scores["precision"] == scores["recall"] == pytest.approx((1 + 1 / 3) / 2)
    assert scores["accuracy"] == pytest.approx((1 + 33 / 45) / 2)


def _sampler(estimator: str, seed: int = 0, **options) -> TreeSampler:
    settings = {"noise": "gumbel", "temperature": 1.0, "adaptation": 1e-3, **options}
    generator = torch.Generator().manual_seed(seed)
    step = 0.5 if estimator == "imle" else None
    return TreeSampler(estimator, step=step, generator=generator, **settings)


@pytest.mark.parametrize("noise", ["gumbel", "sum_of_gamma"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_samplers_draw_the_trees_of_perturbed_logits(estimator: str, noise: str) -> None:
    logits = torch.randn(8, EDGES)
    trees = _sampler(estimator, noise=noise, temperature=2.0)(logits)
    solver = dg.solvers.spanning_tree(edge_list(10), num_vertices=10)
    law = {
        "gumbel": dg.GumbelNoiseDistribution(),
        "sum_of_gamma": dg.SumOfGammaNoiseDistribution(10),
    }[noise]
    eps = law.sample(logits.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(trees, solver(logits + 2.0 * eps))


def test_gradients_of_the_samplers() -> None:
    logits, upstream = torch.randn(8, EDGES), torch.randn(8, EDGES)
    gradient = {}
    for estimator in ESTIMATORS:
        sampler, theta = _sampler(estimator), logits.clone().requires_grad_()
        if sampler.target is not None:
            sampler.target.beta.fill_(0.3)
        trees = sampler(theta)
        trees.backward(upstream)
        gradient[estimator] = theta.grad
    assert torch.equal(gradient["straight_through"], upstream)
    solver = dg.solvers.spanning_tree(edge_list(10), num_vertices=10)
    law = dg.GumbelNoiseDistribution()
    eps = law.sample(logits.shape, generator=torch.Generator().manual_seed(0))
    adaptive = 0.3 * logits.norm() / upstream.norm()
    for estimator, step in (("imle", 0.5), ("aimle", adaptive), ("aimle_central", adaptive)):
        left = logits + (step * upstream if estimator == "aimle_central" else 0)
        change = solver(left + eps) - solver(logits - step * upstream + eps)
        expected = change / (2 * step if estimator == "aimle_central" else step)
        torch.testing.assert_close(gradient[estimator], expected)
        assert expected.abs().sum() > 0


def test_a_step_is_for_imle_alone() -> None:
    generator = torch.Generator()
    for estimator, step in (("imle", None), ("aimle", 0.1)):
        with pytest.raises(ValueError, match=f"step is for imle.*{estimator}"):
            TreeSampler(
                estimator,
                step=step,
                noise="gumbel",
                temperature=1.0,
                adaptation=1e-3,
                generator=generator,
            )


def test_unlearned_trees_beat_chance_by_distance(tmp_path: Path) -> None:
    parameters = data.Parameters(train=200, valid=1, test=1, frames=10)
    graphs = data.load_cache(data.generate(tmp_path, parameters), parameters)["train"]
    found = {name: scores["precision"] for name, scores in scale.unlearned_trees(graphs).items()}
    # Every edge is in a random tree with probability 9 / 45.
    assert found["random"] == pytest.approx(0.2, abs=0.05)
    assert 0.6 < found["mean distance"] < found["last distance"] < 0.9


def test_best_imle_takes_the_mean_over_seeds() -> None:
    runs = [
        {"estimator": "aimle", "step": None, "test": {"elbo": [5.0, 5.0]}},
        {"estimator": "imle", "step": 0.1, "test": {"elbo": [4.0, 0.0]}},
        {"estimator": "imle", "step": 1.0, "test": {"elbo": [3.0, 2.0]}},
    ]
    best = best_imle(runs, "elbo")
    assert best is not None
    assert best["step"] == 1.0
    assert best_imle(runs[:1], "elbo") is None


def test_published_setting_has_the_published_cells() -> None:
    options = cli.parser("relational-inference").parse_args(["--published"])
    setting = grid.setting(options)
    assert setting.graphs == (50_000, 10_000, 10_000)
    assert (setting.batch, setting.steps, setting.encoder_width) == (128, 50_000, 256)
    source = {"path": "x", "frames": 20, "parameters": None}
    task = setting.task("aimle", setting.fixed["aimle", 20], 3, source)
    assert (task["learning_rate"], task["temperature"], task["prediction"]) == (5e-4, 0.1, 10)
    assert (task["noise"], task["lambda"], task["seed"]) == ("sum_of_gamma", None, 3)


@pytest.mark.parametrize("estimator", ["imle", "aimle_central", "straight_through"])
def test_an_interrupted_training_goes_on(
    estimator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the last checkpoint, bit for bit: also the noise, the frames and AIMLE's state."""
    monkeypatch.setattr(session, "SECONDS_BETWEEN_SAVES", 0.0)
    parameters = data.Parameters(train=40, valid=10, test=10, frames=10)
    path = data.generate(tmp_path, parameters)
    source = {"path": str(path), "frames": 10, "parameters": asdict(parameters)}
    cell = grid.Cell(3e-3, 0.1 if estimator == "imle" else None, 1.0)
    settings = grid.QUICK.task(estimator, cell, 5, source) | {"adaptation": 0.1}
    task = session.Task("training", settings)

    def run(folder: str, last: int | None = None) -> dict:
        done = 0

        def progress(steps: int) -> None:
            nonlocal done
            done += steps
            if done == last:
                raise KeyboardInterrupt

        place = session._Place(tmp_path / folder, "cpu", "auto", 1, None)
        found = train(settings, session.Context(task, place, progress))
        assert last is None
        assert done == (grid.QUICK.steps if folder == "whole" else grid.QUICK.steps - 7)
        return {name: value for name, value in found.items() if "seconds" not in name}

    with pytest.raises(KeyboardInterrupt):
        run("parts", last=7)
    assert run("parts") == run("whole")


def test_a_training_that_diverges_ends_with_its_best_model(tmp_path: Path) -> None:
    parameters = data.Parameters(train=40, valid=10, test=10, frames=10)
    path = data.generate(tmp_path, parameters)
    source = {"path": str(path), "frames": 10, "parameters": asdict(parameters)}
    cell = grid.Cell(1e4, None, 1.0)
    settings = grid.QUICK.task("straight_through", cell, 5, source)
    task = session.Task("training", settings)
    place = session._Place(tmp_path, "cpu", "auto", 1, None)
    found = train(settings, session.Context(task, place, lambda steps: None))
    assert found["diverged"] is not None
    assert found["best"] == 0
    assert all(map(math.isfinite, found["test"].values()))


def test_quick_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["relational-inference", "--quick", "--output", str(tmp_path)]
    cli.main(arguments)
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["setting"] == "quick"
    results = record["results"]
    assert list(results["frames"]) == ["10", "20"]
    for frames, final in results["frames"].items():
        steps = grid.QUICK.imle_steps if frames == "10" else (None,)
        assert len(final["runs"]) == len(ESTIMATORS) - 1 + len(steps)
        for run in final["runs"]:
            assert {len(values) for values in run["test"].values()} == {2}
            assert len(run["tree"]) == 9
            assert run["steps"] == [6, 12]
            adapts = run["estimator"].startswith("aimle")
            assert all((value is not None) == adapts for value in run["lambda"])
    # Steps change the model, and seeds differ.
    curve = results["frames"]["10"]["runs"][0]["curve"]["elbo_sample"]
    assert len({value for seed in curve for value in seed}) == 4
    for key in ("lambda", "curves-t10", "curves-t20", "layout-t10", "layout-t20"):
        assert (tmp_path / f"relational-inference-{key}.png").stat().st_size > 5_000
    # A training may have diverged before its first evaluation.
    broken = copy.deepcopy(results)
    run = broken["frames"]["10"]["runs"][-1]
    run["changed"][0], run["diverged"][0] = None, 1
    for curves in run["curve"].values():
        curves[0] = []
    assert {row[3] for row in tables(broken)["cost"].rows} > {f"{run['changed'][1]:.2f}"}
    assert len(figures(broken)) == 5
    # What is finished is taken, and gives the same results.
    capsys.readouterr()
    cli.main(arguments)
    assert "tasks taken from an earlier run" in capsys.readouterr().out
    assert json.loads((tmp_path / "record.json").read_text())["results"] == results


def test_data_alone(tmp_path: Path) -> None:
    asked = ["relational-inference", "--generate-only", "--graphs", "6", "2", "3"]
    cli.main([*asked, "--output", str(tmp_path)])
    found = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert found == [f"layout-{frames}t-6-2-3-seed42.npz" for frames in (10, 20)]
    with pytest.raises(SystemExit, match="--publish: with --generate-only there are no results"):
        cli.main([*asked, "--publish", "--output", str(tmp_path)])


def test_damaged_data_end_the_run_with_a_line(tmp_path: Path) -> None:
    _break_shape(_write_published(tmp_path))
    with pytest.raises(SystemExit, match="data_valid has shape"):
        cli.main(
            [
                *("relational-inference", "--quick", "--frames", "10"),
                *("--data", str(tmp_path), "--output", str(tmp_path / "out")),
            ]
        )
