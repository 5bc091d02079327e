# SPDX-License-Identifier: Apache-2.0
"""Graph-layout data: made here and cached, or read from the files of the published code."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from experiments import storage
from experiments.errors import DataError
from experiments.relational_inference.layout import edge_list, simulate

VERTICES = 10
SPLITS = ("train", "valid", "test")
_GRAPHS_AT_ONCE = 2000

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Parameters:
    """Of generated data: numbers of graphs, frames of each, and the seed."""

    train: int
    valid: int
    test: int
    frames: int
    seed: int = 42

    @property
    def file_name(self) -> str:
        """Of the cache."""
        return f"layout-{self.frames}t-{self.train}-{self.valid}-{self.test}-seed{self.seed}.npz"


@dataclass(frozen=True)
class Graphs:
    """Layouts over time and their trees.

    Args:
        positions: float32 [N, T, V, 2], scaled to [-1, 1] over the training set.
        edges: 0 or 1, float32 [N, E], over the edges of ``layout.edge_list``.
    """

    positions: Tensor
    edges: Tensor

    def __len__(self) -> int:
        return len(self.positions)

    def to(self, device: torch.device) -> Graphs:
        """On this device."""
        return Graphs(self.positions.to(device), self.edges.to(device))


Dataset = dict[str, Graphs]


def pairs(edges: Tensor) -> list[list[int]]:
    """The two vertices of each of the edges that are chosen in 0/1 [E]."""
    found: list[list[int]] = edge_list(VERTICES)[edges.bool().cpu().numpy()].tolist()
    return found


def generate(folder: Path, parameters: Parameters) -> Path:
    """The cache with these parameters in ``folder``, made with a progress bar if it is not there.

    A split is the same whatever the sizes of the others.
    """
    path = folder / parameters.file_name
    if path.exists():
        return path
    streams = np.random.SeedSequence(parameters.seed).spawn(len(SPLITS))
    sizes = asdict(parameters)
    arrays: Arrays = {"parameters": np.array(json.dumps(sizes))}
    total = sum(sizes[split] for split in SPLITS)
    with tqdm(total=total, desc=f"layouts of {parameters.frames} frames", unit="graph") as bar:
        for split, stream in zip(SPLITS, streams, strict=True):
            generator = np.random.default_rng(stream)
            parts = []
            for start in range(0, sizes[split], _GRAPHS_AT_ONCE):
                number = min(_GRAPHS_AT_ONCE, sizes[split] - start)
                parts.append(simulate(number, parameters.frames, VERTICES, generator))
                bar.update(number)
            data, edges = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            arrays[f"data_{split}"], arrays[f"edges_{split}"] = data.astype(np.float32), edges
    storage.replace(path, lambda part: np.savez(part, allow_pickle=False, **arrays))
    return path


def load_cache(path: Path, parameters: Parameters) -> Dataset:
    """The data that ``generate`` wrote.

    Raises:
        DataError: the file is missing, malformed, or has other parameters.
    """
    remedy = "delete the file, and it is made again"
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; generate() makes it") from None
    except Exception as error:  # whatever a damaged archive makes NumPy or zipfile raise
        raise DataError(f"{path}: no readable .npz archive ({error}); {remedy}") from error
    wanted = json.dumps(asdict(parameters))
    found = str(arrays.get("parameters", "none"))
    if found != wanted:
        raise DataError(f"{path}: made with parameters {found}, expected {wanted}; {remedy}")
    for split in SPLITS:
        for kind in ("data", "edges"):
            if f"{kind}_{split}" not in arrays:
                raise DataError(f"{path}: has no array {kind}_{split}; {remedy}")
    return _dataset(arrays, parameters.frames, dict.fromkeys(arrays, path))


def load_published(folder: Path, frames: int) -> Dataset:
    """The arrays of the published generator: data_<split>_novar_1skip_<T>t_1r_graph10.npy.

    With them edges_<split>_...npy; ``data`` is [N, T, 2, V], ``edges`` [N, V, V] with 0 and 1.

    Raises:
        DataError: a file is missing or malformed.
    """
    arrays: Arrays = {}
    paths = {}
    for split in SPLITS:
        for kind in ("data", "edges"):
            name = f"{kind}_{split}"
            path = folder / f"{name}_novar_1skip_{frames}t_1r_graph{VERTICES}.npy"
            try:
                arrays[name], paths[name] = np.load(path, allow_pickle=False), path
            except FileNotFoundError:
                raise DataError(f"{path}: no such file; expected an array {kind}") from None
            except (OSError, ValueError, EOFError) as error:
                raise DataError(f"{path}: no readable .npy array: {error}") from error
    return _dataset(arrays, frames, paths)


def _dataset(arrays: Arrays, frames: int, paths: dict[str, Path]) -> Dataset:
    for split in SPLITS:
        data, edges = (arrays[f"{kind}_{split}"] for kind in ("data", "edges"))
        _check(data, edges, frames, split, paths)
    low, high = arrays["data_train"].min(), arrays["data_train"].max()
    rows, columns = edge_list(VERTICES).T
    result = {}
    for split in SPLITS:
        scaled = (arrays[f"data_{split}"] - low) * 2 / (high - low) - 1
        positions = np.ascontiguousarray(scaled.swapaxes(2, 3), dtype=np.float32)
        edges = arrays[f"edges_{split}"][:, rows, columns].astype(np.float32)
        result[split] = Graphs(torch.from_numpy(positions), torch.from_numpy(edges))
    return result


def _check(
    data: NDArray[np.generic],
    edges: NDArray[np.generic],
    frames: int,
    split: str,
    paths: dict[str, Path],
) -> None:
    source = f"{paths[f'data_{split}']}: data_{split}"
    if data.shape[1:] != (frames, 2, VERTICES) or not len(data):
        raise DataError(
            f"{source} has shape {data.shape}, expected (N, {frames}, 2, {VERTICES}): graphs, "
            "frames, coordinates, vertices"
        )
    if not np.isfinite(data).all():
        raise DataError(f"{source} has entries that are not finite")
    source = f"{paths[f'edges_{split}']}: edges_{split}"
    if edges.shape != (len(data), VERTICES, VERTICES):
        raise DataError(
            f"{source} has shape {edges.shape}, expected {(len(data), VERTICES, VERTICES)}: an "
            f"adjacency matrix for each of the graphs of data_{split}"
        )
    number = edges.astype(np.float64).sum((1, 2))
    symmetric = (edges == edges.swapaxes(1, 2)).all()
    if not (np.isin(edges, (0, 1)).all() and symmetric and (number == 2 * (VERTICES - 1)).all()):
        raise DataError(
            f"{source} must hold symmetric adjacency matrices of 0 and 1 with "
            f"{VERTICES - 1} edges, and does not"
        )
