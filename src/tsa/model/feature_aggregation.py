"""Aggregate the features of an event into one vector, without storing the embeddings of a complete batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

SLOPE = 0.01
VALUES_AT_ONCE = 6912  # values whose embeddings are in memory at once: few enough for the processor's cache


def aggregation_widths(n_features: int, floor: int) -> list[int]:
    """n, n//2, n//4, n//8, n//16, n//32, 1: the legacy system's widths.

    For n < 32 one of them is 0, which outputs nothing; then no width is below `floor`. floor 0: the legacy widths.
    """
    widths = [n_features >> halvings for halvings in range(6)]
    if widths[-1] == 0:
        widths = [n_features, *(max(width, floor) for width in widths[1:])]
    return [*widths, 1]


class FeatureAggregation(nn.Module):
    """A stack of linear layers over the feature axis, the same for each channel, with LeakyReLU between them.

    Works on (features, channels), so that each layer is one plain matrix product.
    """

    def __init__(self, n_features: int, floor: int) -> None:
        super().__init__()
        widths = aggregation_widths(n_features, floor)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for n_in, n_out in itertools.pairwise(widths):
            bound = (6 / max(n_in, 1)) ** 0.5  # He et al. 2015: preserves the scale through all six layers
            self.weights.append(nn.Parameter(torch.empty(n_out, n_in).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.zeros(n_out)))

    def forward(self, x: Tensor) -> Tensor:
        """x (n, channels) → (channels)."""
        return self._rest(torch.addmm(self.biases[0][:, None], self.weights[0], x))

    def of_rows(self, rows: Tensor, table: Tensor) -> Tensor:
        """Events of categorical features: rows (n, C) int of the table (N, D) → (n, D)."""
        return _by_parts(self._of_rows, rows, table)

    def of_values(self, values: Tensor, vectors: Tensor) -> Tensor:
        """Events of numerical features with one vector each: values (n, F), vectors (F, D) → (n, D)."""
        # the values are multiplied with the first layer's weights: value · vector is never stored
        return _by_parts(self._of_values, values, self.weights[0].unsqueeze(-1) * vectors)

    def _of_rows(self, rows: Tensor, table: Tensor) -> Tensor:
        if self.weights[0].dtype != table.dtype:  # scoring with the largest product in a smaller type
            x = functional.embedding(rows.t(), table.to(self.weights[0].dtype)).flatten(1)
            folded = self._rest((self.weights[0] @ x).to(table.dtype).add_(self.biases[0][:, None]))
        elif torch.is_grad_enabled():
            first: Tensor = _LinearOfRows.apply(rows.t(), table, self.weights[0])  # type: ignore[no-untyped-call]
            folded = self._rest(first.add_(self.biases[0][:, None]))
        else:
            folded = self.forward(functional.embedding(rows.t(), table).flatten(1))
        return folded.view(rows.shape[0], table.shape[1])

    def _of_values(self, values: Tensor, first: Tensor) -> Tensor:
        h = torch.matmul(values, first).add_(self.biases[0][:, None, None])
        return self._rest(h.flatten(1)).view(values.shape[0], first.shape[-1])

    def _rest(self, h: Tensor) -> Tensor:
        for weight, bias in zip(list(self.weights)[1:], list(self.biases)[1:], strict=True):
            h = torch.addmm(bias[:, None], weight, functional.leaky_relu_(h, SLOPE))
        return h[0]


def _by_parts(function: Callable[[Tensor, Tensor], Tensor], events: Tensor, shared: Tensor) -> Tensor:
    if not events.is_cpu or torch.compiler.is_compiling():
        return function(events, shared)
    parts = torch.split(events, max(1, VALUES_AT_ONCE // events.shape[1]))
    return torch.cat([function(part, shared) for part in parts])


class _LinearOfRows(torch.autograd.Function):
    """weight · table[rows], rows (C, n) of the table (N, D), weight (m, C) → (m, n · D), without storing table[rows]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, table: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(rows, table, weight)
        return weight @ functional.embedding(rows, table).flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        rows, table, weight = ctx.saved_tensors
        grad = grad.to(weight.dtype)  # smaller under autocast
        of_weight = grad @ functional.embedding(rows, table).flatten(1).t()
        of_values = (weight.t() @ grad).view(*rows.shape, table.shape[1])
        return None, torch.ops.aten.embedding_dense_backward(of_values, rows, len(table), 0, False), of_weight


def factorization_machine(x: Tensor, dim: int = -2) -> Tensor:
    """½((Σ v)² − Σ v²) over the feature axis (Rendle 2010): x (…, n, D) → (…, D)."""
    return 0.5 * (x.sum(dim).square() - x.square().sum(dim))
