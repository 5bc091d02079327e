# SPDX-License-Identifier: Apache-2.0
"""Neural relational inference: trajectories to edge logits, and edges to trajectories.

Kipf, Fetaya, Wang, Welling, Zemel, "Neural Relational Inference for Interacting Systems", ICML
2018, arXiv:1802.04687, sections 3.1 and 3.2, with changes of Paulus et al., "Gradient Estimation
with Stochastic Softmax Tricks", NeurIPS 2020, arXiv:2006.08063, for trees as latent variables.

A layer on the concatenated features of a sender and a receiver is the sum of one layer on each. It
is written so: it then runs once per vertex and not once per pair.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.relational_inference.layout import edge_list

_COORDINATES = 2


class _Inputs(nn.Module):
    """A linear layer on concatenated pieces, as one layer per piece whose results are added."""

    def __init__(self, sizes: list[int], width: int) -> None:
        super().__init__()
        pieces = [nn.Linear(size, width, bias=not i) for i, size in enumerate(sizes)]
        deviation = (2 / (sum(sizes) + width)) ** 0.5  # Xavier, of the whole layer
        for piece in pieces:
            nn.init.normal_(piece.weight, std=deviation)
        nn.init.constant_(pieces[0].bias, 0.1)
        self.pieces = nn.ModuleList(pieces)

    def forward(self, piece: int, features: Tensor) -> Tensor:
        result: Tensor = self.pieces[piece](features)
        return result


class _Block(nn.Module):
    """Two layers with ELU, then batch normalisation over all but the last dimension."""

    def __init__(self, sizes: list[int], width: int) -> None:
        super().__init__()
        self.inputs = _Inputs(sizes, width)
        self.layer = _xavier(width, width)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, first: Tensor) -> Tensor:
        features = F.elu(self.layer(F.elu(first)))
        normed: Tensor = self.norm(features.flatten(0, -2))
        return normed.view(features.shape)


def _xavier(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_normal_(layer.weight)
    nn.init.constant_(layer.bias, 0.1)
    return layer


class Encoder(nn.Module):
    """Factor-graph network from trajectories [B, T, V, 2] to edge logits [B, E].

    Vertices to pairs, pairs to vertices, and vertices to pairs again with a skip connection; one
    logit per ordered pair, and for the edge {i, j} the mean of the two.

    Args:
        frames: T.
        vertices: V; E is V (V - 1) / 2.
        width: of the hidden layers.
    """

    senders: Tensor
    receivers: Tensor
    reverse: Tensor
    forth: Tensor

    def __init__(self, frames: int, vertices: int, width: int) -> None:
        super().__init__()
        self.vertices = vertices
        self.vertex_in = _Block([_COORDINATES * frames], width)
        self.pair_in = _Block([width, width], width)
        self.vertex = _Block([width], width)
        self.pair = _Block([width, width, width], width)
        self.logit = _xavier(width, 1)
        receivers, senders = torch.where(~torch.eye(vertices, dtype=torch.bool))
        place = torch.zeros(vertices, vertices, dtype=torch.int64)
        place[receivers, senders] = torch.arange(len(receivers))
        rows, columns = torch.from_numpy(edge_list(vertices)).T
        for name, index in (
            ("senders", senders),
            ("receivers", receivers),
            ("forth", place[rows, columns]),
            ("reverse", place[columns, rows]),
        ):
            self.register_buffer(name, index, persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        trajectories = positions.transpose(1, 2).flatten(2)
        vertices = self.vertex_in(self.vertex_in.inputs(0, trajectories))
        pairs = self.pair_in(self._to_pairs(self.pair_in, vertices))
        received = pairs.view(len(pairs), self.vertices, self.vertices - 1, -1).sum(2)
        vertices = self.vertex(self.vertex.inputs(0, received / self.vertices))
        both = self._to_pairs(self.pair, vertices) + self.pair.inputs(2, pairs)
        logits = self.logit(self.pair(both)).squeeze(-1)
        symmetric: Tensor = (logits[:, self.forth] + logits[:, self.reverse]) / 2
        return symmetric

    def _to_pairs(self, block: _Block, vertices: Tensor) -> Tensor:
        sent: Tensor = block.inputs(0, vertices)
        received: Tensor = block.inputs(1, vertices)
        return sent.index_select(1, self.senders) + received.index_select(1, self.receivers)


class Decoder(nn.Module):
    """The next frame from a frame [B, F, V, 2] and the edges [B, E]: positions + a learned change.

    Each ordered pair sends a message by the network of edges, weighted by z, and one by the network
    of pairs that are no edge, weighted by 1 - z; a vertex adds up what it receives.

    With ``pull`` a vertex moves towards its neighbours besides, by a learned multiple of the sum of
    the differences. It says at the start what an edge does: the two networks alone are
    interchangeable, and chance decides which of them an encoder's first trees suit.

    Args:
        vertices: V; E is V (V - 1) / 2.
        width: of the hidden layers.
        pull: the multiple at first; None is none, the published decoder.
    """

    pairs: Tensor
    edge: Tensor

    def __init__(self, vertices: int, width: int, pull: float | None = None) -> None:
        super().__init__()
        self.pull = None if pull is None else nn.Parameter(torch.tensor(pull))
        each = range(2)
        self.sent = nn.ModuleList(nn.Linear(_COORDINATES, width) for _ in each)
        self.received = nn.ModuleList(nn.Linear(_COORDINATES, width, bias=False) for _ in each)
        self.message = nn.ModuleList(nn.Linear(width, width) for _ in each)
        for layer in (*self.sent, *self.received):
            # What a layer of twice as many inputs starts with, for the two together.
            nn.init.uniform_(
                layer.weight, -((2 * _COORDINATES) ** -0.5), (2 * _COORDINATES) ** -0.5
            )
        self.change = nn.Sequential(
            nn.Linear(_COORDINATES + width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, _COORDINATES),
        )
        rows, columns = torch.from_numpy(edge_list(vertices)).T
        edge = torch.zeros(vertices, vertices, dtype=torch.int64)
        edge[rows, columns] = edge[columns, rows] = torch.arange(len(rows))
        self.register_buffer("edge", edge, persistent=False)
        self.register_buffer("pairs", 1.0 - torch.eye(vertices), persistent=False)

    def forward(self, positions: Tensor, edges: Tensor) -> Tensor:
        adjacency = edges[:, self.edge] * self.pairs  # [B, V, V]
        total = positions.new_zeros(())
        for kind, weight in enumerate((adjacency, self.pairs - adjacency)):
            received, sent = self.received[kind](positions), self.sent[kind](positions)
            first = F.relu(received.unsqueeze(3) + sent.unsqueeze(2))  # [B, F, V, V, width]
            messages = F.relu(self.message[kind](first))
            # Not a matrix product: for so few senders its backward pass is slower.
            total = total + (messages * weight[:, None, :, :, None]).sum(3)
        change: Tensor = self.change(torch.cat([positions, total], -1))
        if self.pull is not None:
            degree = adjacency.sum(-1)[:, None, :, None]
            change = change + self.pull * (adjacency[:, None] @ positions - degree * positions)
        return positions + change
