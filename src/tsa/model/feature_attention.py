"""Feature attention: attention over the features of the current event."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsa.model.config import ModelConfig
from tsa.model.embedding import numerical_rows
from tsa.model.layers import stack
from tsa.model.temporal_attention import AttentionContext


class FeatureAttention(nn.Module):
    """Attends over a token per feature of the current event and a "cls" token, in pre-norm layers without mask or time.

    The shared table (N + 2, D) is an argument, since several blocks read it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, n_tokens = config.width, config.n_categorical + config.n_numerical
        # row 0 is the "cls" token: zero, which LayerNorm turns into its learned bias, and never trained, since
        # LayerNorm's slope at zero is 1 / √ε
        self.engineered = nn.Parameter(torch.randn(config.n_engineered + 1, width))
        self.bias = nn.Parameter(torch.zeros(n_tokens, width)) if config.biases else None
        biased = config.biases and config.n_engineered > 0
        self.engineered_bias = nn.Parameter(torch.zeros(config.n_engineered, width)) if biased else None
        self.norm = nn.LayerNorm(width)
        self.layers = stack(config, "feature", width, "pre", "none")
        with torch.no_grad():
            self.engineered[0].zero_()

    def forward(self, categorical: Tensor, numerical: Tensor, engineered: Tensor | None, table: Tensor) -> Tensor:
        """The current event's categorical (B, C) int, numerical (B, F) and engineered (B, G) features → (B, D)."""
        tokens = self.tokens(categorical, numerical, engineered, table)
        return self.layers.last(self.norm(tokens), AttentionContext())

    def tokens(self, categorical: Tensor, numerical: Tensor, engineered: Tensor | None, table: Tensor) -> Tensor:
        """One token per feature, and the "cls" token last: (B, C + F + G + 1, D)."""
        vectors = numerical_rows(table, numerical.shape[1])
        tokens = [functional.embedding(categorical, table, padding_idx=0), numerical.unsqueeze(-1) * vectors]
        if self.bias is not None:
            tokens = [torch.cat(tokens, dim=1) + self.bias]
        if engineered is not None and engineered.shape[1]:
            extra = engineered.unsqueeze(-1) * self.engineered[1:]
            tokens.append(extra if self.engineered_bias is None else extra + self.engineered_bias)
        return torch.cat([*tokens, self.engineered[:1].detach().expand(categorical.shape[0], 1, -1)], dim=1)
