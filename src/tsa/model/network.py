"""`TSANetwork`, the complete network: a batch of payments in, logits out."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsa.model.batch import Batch, History
from tsa.model.config import ModelConfig
from tsa.model.dropout import dropout, feature_dropout
from tsa.model.embedding import AggregatedEvents
from tsa.model.feature_attention import FeatureAttention
from tsa.model.fusion import make_fusion
from tsa.model.layers import Stack
from tsa.model.moe import MixtureOfExperts
from tsa.model.network_ensemble import BatchedLinear, concat_members, mean_over_members
from tsa.model.order_attention import OrderAttention

MLP_WIDTH = 1024
MLP_DROPOUT = 0.1


class TSANetwork(nn.Module):
    """Temporal Self-Attention: attends over the events of each history and over the current event's features.

    Except for rounding, a payment's logits do not depend on the rest of its batch or on padding.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.n_embedding + 2, config.width, padding_idx=0)
        # small, so that random vectors do not hide the numbers of an event and are not memorised
        nn.init.normal_(self.table.weight, std=0.1)
        with torch.no_grad():
            self.table.weight[0].zero_()
        self.order = nn.ModuleList(OrderAttention(config) for _ in config.histories)
        self.combine = make_fusion(config)
        self.feature = FeatureAttention(config) if config.n_feature_layers else None
        self.mlp = NumericalBranch(config) if config.mlp else None
        self.classifier = Classifier(config)

    def forward(self, batch: Batch, *, per_member: bool = False) -> Tensor:
        """The logits of a batch.

        Args:
            per_member: Return the logits of each member of an ensemble instead of their mean.

        Returns:
            (B, classes), or (B, M, classes) per member; at least float32.

        Raises:
            ModelError: If the batch does not match the configuration.
        """
        logits: Tensor = self.classifier(self.embed(batch))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits if per_member else mean_over_members(logits)

    def embed(self, batch: Batch) -> Tensor:
        """The classifier's input, [order | feature | mlp]: (B, `config.ensemble_width`), or (B, M, …) for an ensemble.

        Raises:
            ModelError: If the batch does not match the configuration.
        """
        self._clear_balance()
        batch = batch.to_dtype(self.table.weight.dtype)
        histories = batch.ordered_histories(self.config)
        if self.training and self.config.feature_dropout > 0.0:
            histories = feature_dropout(histories, self.config.feature_dropout)
        parts = [self.combine(histories, self._attend_over_events)]
        current = histories[0].categorical[:, -1], histories[0].numerical[:, -1], batch.engineered
        if self.feature is not None:
            parts.append(self.feature(*current, self.table.weight))
        if self.mlp is not None:
            parts.append(self.mlp(*current[1:]))
        return concat_members(parts)

    def history_weights(self, batch: Batch) -> Tensor | None:
        """(B, n) the weight that each of the n histories has when they are combined; None if `fusion` gives none.

        Raises:
            ModelError: If the batch does not match the configuration.
        """
        histories = batch.to_dtype(self.table.weight.dtype).ordered_histories(self.config)
        combine: Any = self.combine
        weights: Tensor | None = combine.weights(histories, self._attend_over_events)
        self._clear_balance()
        return weights

    def auxiliary_loss(self) -> Tensor:
        """The experts' balance losses of the last training forward, summed and weighted; scalar, 0 without experts."""
        terms = [term for module in self._expert_modules() for term in module.balance]
        self._clear_balance()
        if not terms:
            return self.table.weight.new_zeros(())
        return self.config.balance_weight * torch.stack(terms).sum()

    def to_bfloat16(self) -> TSANetwork:
        """Convert the largest matrix products to bfloat16, in place. For scoring only; scores change by about 1e-3.

        Those are the first product of the aggregation of categorical features, and all in self-attention layers except
        the last of each stack. The gate, residuals, norms and later layers do not change.
        """
        for block in nn.ModuleList([self.order, self.feature] if self.feature else [self.order]).modules():
            if isinstance(block, Stack):
                block.to_bfloat16()
            elif isinstance(block, AggregatedEvents) and block.categorical is not None:
                weight = block.categorical.weights[0]
                weight.data = weight.data.bfloat16()
        return self

    def _attend_over_events(self, number: int, history: History) -> Tensor:
        out: Tensor = self.order[number](history, self.table.weight)
        return out

    def _expert_modules(self) -> list[MixtureOfExperts]:
        modules = self.modules() if self.config.n_experts else ()
        return [module for module in modules if isinstance(module, MixtureOfExperts)]

    def _clear_balance(self) -> None:
        for module in self._expert_modules():
            module.balance.clear()


class NumericalBranch(nn.Module):
    """[numerical of the current event | engineered] → 1024 → D, then LayerNorm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.widen = nn.Linear(config.n_numerical + config.n_engineered, MLP_WIDTH)
        self.narrow = nn.Linear(MLP_WIDTH, config.width)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, numerical: Tensor, engineered: Tensor | None) -> Tensor:
        """numerical (B, F), engineered (B, G) or None → (B, D)."""
        x = numerical if engineered is None else torch.cat([numerical, engineered], dim=-1)
        h = dropout(torch.relu(self.widen(x)), MLP_DROPOUT, self.training)
        out: Tensor = self.norm(self.narrow(h))
        return out


class Classifier(nn.Module):
    """Linear, activation, dropout, Linear: (B, `config.ensemble_width`) → logits (B, classes), separate for each member."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        linear = nn.Linear if config.n_ensemble == 1 else partial(BatchedLinear, config.n_ensemble)
        self.widen = linear(config.ensemble_width, config.classifier_width)
        self.narrow = linear(config.classifier_width, config.n_classes)
        self.dropout, self.activation = config.dropout, config.activation

    def forward(self, ensemble: Tensor) -> Tensor:
        """→ (B, classes), or (B, M, classes) for members."""
        members = ensemble.ndim == 3
        h = self.widen(ensemble.transpose(0, 1) if members else ensemble)
        h = torch.relu(h) if self.activation == "relu" else functional.gelu(h)
        logits: Tensor = self.narrow(dropout(h, self.dropout, self.training))
        return logits.transpose(0, 1) if members else logits
