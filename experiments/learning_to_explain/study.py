# SPDX-License-Identifier: Apache-2.0
"""The experiment: tune each estimator, train the chosen settings, and vary lambda."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import torch

import discrete_grad as dg
from experiments.errors import UsageError
from experiments.learning_to_explain import beeradvocate, grid, metrics, options, source
from experiments.learning_to_explain.corpus import PAD, Corpus
from experiments.learning_to_explain.fit import BATCH, fit, steps
from experiments.learning_to_explain.grid import CANDIDATES, Candidate, Options
from experiments.learning_to_explain.model import choosable
from experiments.learning_to_explain.options import PUBLISHED_EPOCHS, PUBLISHED_LENGTH, TUNED_K
from experiments.session import JSON, Session, Task


@dataclass(frozen=True)
class _Plan:
    """What is trained, and on what."""

    corpus: dict[str, JSON]
    epochs: int
    sizes: tuple[int, ...]
    train: int

    @property
    def steps(self) -> int:
        return steps(self.train, self.epochs)

    def task(
        self, key: str, estimator: str, given: Options, rate: float, k: int, seed: int
    ) -> Task:
        settings = {
            "corpus": self.corpus,
            "estimator": estimator,
            "options": given,
            "k": k,
            "learning_rate": rate,
            "epochs": self.epochs,
            "seed": seed,
            "example": seed == 0,
        }
        return Task(f"{key}/seed-{seed}", settings, self.steps)


def run(session: Session) -> JSON:
    """Everything that the tables and figures need."""
    settings = options.corpus(session)
    corpus = source.load(settings)
    plan = _Plan(settings, options.epochs(session), options.sizes(session), len(corpus.train))
    length = corpus.train.tokens.shape[1]
    for k in plan.sizes:
        if k > length:
            raise UsageError(f"--k {k}: the longest review has {length} words, it must be longer")
    candidates = [CANDIDATES[key] for key in session.estimators(list(CANDIDATES))]
    seeds = session.seeds()
    tuned_k = TUNED_K if TUNED_K in plan.sizes else plan.sizes[0]

    tuning = _tune(session, plan, candidates, tuned_k)
    chosen = {key: min(cells, key=lambda cell: cell["error"]) for key, cells in tuning.items()}
    final = _final(session, plan, candidates, chosen, seeds)
    reference = final[str(tuned_k)]
    return {
        "setting": _setting(session, plan, corpus),
        "tuned_k": tuned_k,
        "seeds": seeds,
        "tuning": tuning,
        "chosen": chosen,
        "final": {k: {key: _kept(runs) for key, runs in row.items()} for k, row in final.items()},
        "lambdas": _lambdas(session, plan, chosen, seeds, tuned_k, reference),
        "rules": _rules(session, plan, candidates, chosen, seeds, tuned_k),
        "chance": _chance(corpus, plan.sizes),
        "example": _example(corpus, reference),
    }


def _tune(
    session: Session, plan: _Plan, candidates: list[Candidate], k: int
) -> dict[str, list[JSON]]:
    """The mean best validation error of each cell of each estimator."""
    seeds = grid.TUNING_SEEDS[:1] if session.quick else grid.TUNING_SEEDS
    cells = [
        (candidate.key, rate, candidate.options(own, plan.steps), seed)
        for candidate in candidates
        for rate, own in candidate.cells()[: 1 if session.quick else None]
        for seed in seeds
    ]
    tasks = [
        plan.task(
            f"tuning/{key}/{rate:g}-{_name(given)}",
            CANDIDATES[key].estimator,
            given,
            rate,
            k,
            seed,
        )
        for key, rate, given, seed in cells
    ]
    results = session.map(fit, tasks, "tuning")
    found: dict[str, list[JSON]] = {candidate.key: [] for candidate in candidates}
    for start in range(0, len(cells), len(seeds)):
        key, rate, given, _ = cells[start]
        errors = [min(run["validation_errors"]) for run in results[start : start + len(seeds)]]
        found[key].append(
            {"learning_rate": rate, "options": given, "error": round(fmean(errors), 4)}
        )
    return found


def _final(
    session: Session,
    plan: _Plan,
    candidates: list[Candidate],
    chosen: dict[str, JSON],
    seeds: list[int],
) -> dict[str, dict[str, list[JSON]]]:
    """The runs that count, by k and estimator."""
    rows = [(k, candidate.key) for k in plan.sizes for candidate in candidates]
    tasks = [
        plan.task(
            f"final/k-{k}/{key}",
            CANDIDATES[key].estimator,
            chosen[key]["options"],
            chosen[key]["learning_rate"],
            k,
            seed,
        )
        for k, key in rows
        for seed in seeds
    ]
    parts = _split(session.map(fit, tasks, "final"), len(seeds))
    result: dict[str, dict[str, list[JSON]]] = {str(k): {} for k in plan.sizes}
    for (k, key), runs in zip(rows, parts, strict=True):
        result[str(k)][key] = runs
    return result


def _lambdas(
    session: Session,
    plan: _Plan,
    chosen: dict[str, JSON],
    seeds: list[int],
    k: int,
    reference: dict[str, list[JSON]],
) -> list[JSON]:
    """I-MLE over lambda, at its tuned learning rate."""
    if "imle" not in chosen:
        return []
    tuned = chosen["imle"]["options"]["lambda"]
    values = sorted({tuned, *(grid.LAMBDAS[:2] if session.quick else grid.LAMBDAS)})
    rest = [value for value in values if value != tuned]
    rate = chosen["imle"]["learning_rate"]
    tasks = [
        plan.task(f"lambda/{value:g}", "imle", {"lambda": value}, rate, k, seed)
        for value in rest
        for seed in seeds
    ]
    runs = dict(zip(rest, _split(session.map(fit, tasks, "lambda"), len(seeds)), strict=True))
    runs[tuned] = reference["imle"]
    return [{"lambda": value, "runs": _kept(runs[value])} for value in values]


def _rules(
    session: Session,
    plan: _Plan,
    candidates: list[Candidate],
    chosen: dict[str, JSON],
    seeds: list[int],
    k: int,
) -> list[JSON]:
    """AIMLE from beta = 0 with other steps of beta."""
    rows = [
        (candidate, update)
        for candidate in candidates
        if candidate.from_zero
        for update in (grid.RULE_STEPS[:1] if session.quick else grid.RULE_STEPS)
    ]
    tasks = [
        plan.task(
            f"rule/{candidate.key}/{update:g}",
            candidate.estimator,
            {"initial_beta": 0.0, "beta_update_step": update},
            chosen[candidate.key]["learning_rate"],
            k,
            seed,
        )
        for candidate, update in rows
        for seed in seeds
    ]
    parts = _split(session.map(fit, tasks, "rule"), len(seeds))
    return [
        {"key": candidate.key, "beta_update_step": update, "runs": _kept(runs)}
        for (candidate, update), runs in zip(rows, parts, strict=True)
    ]


def _name(given: Options) -> str:
    return "-".join(f"{name}-{value:g}" for name, value in given.items())


def _split(results: list[JSON], size: int) -> list[list[JSON]]:
    return [results[start : start + size] for start in range(0, len(results), size)]


def _kept(runs: list[JSON]) -> dict[str, JSON]:
    """Of the runs of all seeds what is published."""
    names = sorted({name for run in runs for name in run["steps"]})
    return {
        "error": [run["test_error"] for run in runs],
        "precision": [run["precision"] for run in runs],
        "best_epoch": [1 + _argmin(run["validation_errors"]) for run in runs],
        "seconds_per_step": [run["seconds_per_step"] for run in runs],
        **{name: [run["steps"].get(name) for run in runs] for name in names},
    }


def _argmin(values: list[float]) -> int:
    return min(range(len(values)), key=values.__getitem__)


def _chance(corpus: Corpus, sizes: tuple[int, ...]) -> JSON:
    """What is reached without learning: random words, and the mean rating."""
    draws = torch.Generator().manual_seed(0)
    tokens = corpus.annotated.tokens
    precisions = {}
    for k in sizes:
        scores = torch.rand(tokens.shape, generator=draws)
        random = dg.subset.mode(choosable(scores, tokens, k), k)
        precisions[str(k)] = round(metrics.precision(random, corpus.annotated, k).percent, 2)
    constant = corpus.heldout.ratings - corpus.train.ratings.mean()
    return {"precision": precisions, "error": round(100 * float(constant.square().mean()), 3)}


def _example(corpus: Corpus, runs: dict[str, list[JSON]]) -> JSON:
    """The first annotated review, and what seed 0 of each estimator chose in it."""
    tokens = corpus.annotated.tokens[0]
    kept = (tokens != PAD).nonzero().squeeze(1).tolist()
    place = {position: i for i, position in enumerate(kept)}
    rationale = corpus.annotated.rationale[0].nonzero().squeeze(1).tolist()
    return {
        "words": [corpus.words[int(tokens[position])] for position in kept],
        "rationale": [place[position] for position in rationale if position in place],
        "chosen": {
            key: [place[position] for position in row[0]["example"] if position in place]
            for key, row in runs.items()
        },
    }


def _setting(session: Session, plan: _Plan, corpus: Corpus) -> JSON:
    return {
        "data": "generated" if session.options.data is None else "BeerAdvocate",
        "aspect": session.options.aspect,
        "reviews": [len(corpus.train), len(corpus.heldout), len(corpus.annotated.tokens)],
        "length": corpus.train.tokens.shape[1],
        "embedding_size": corpus.embeddings.shape[1],
        "vocabulary": len(corpus.words),
        "epochs": plan.epochs,
        "batch": BATCH,
        "steps": plan.steps,
        "published": {
            "length": PUBLISHED_LENGTH,
            "embedding_size": beeradvocate.VECTOR,
            "epochs": PUBLISHED_EPOCHS,
            "steps": grid.PUBLISHED_STEPS,
        },
    }
