"""Feature attention: how the features of the current event interact.

Knows the current event alone; not its history.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsa.model.attention import Surroundings
from tsa.model.config import ModelConfig
from tsa.model.embedding import numerical_rows
from tsa.model.layers import attention_layer, through_to_last

PAYMENTS_AT_ONCE = 4  # few enough for all of a layer's values to stay in the processor's cache


class FeatureAttention(nn.Module):
    """A token per feature of the current event and a read-out token, through pre-norm layers without mask or time.

    The shared table (N + 2, D) is handed in, since several blocks read it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, n_tokens = config.width, config.n_categorical + config.n_numerical
        # row 0 is the read-out token: zero, which LayerNorm turns into its learned bias, and never trained, since
        # LayerNorm's slope at zero is 1 / √ε
        self.engineered = nn.Parameter(torch.randn(config.n_engineered + 1, width))
        self.bias = nn.Parameter(torch.zeros(n_tokens, width)) if config.biases else None
        biased = config.biases and config.n_engineered > 0
        self.engineered_bias = nn.Parameter(torch.zeros(config.n_engineered, width)) if biased else None
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            attention_layer(config, "feature", width, "pre", "none") for _ in range(config.n_feature_layers)
        )
        # experts in training balance their load over all of a batch
        self.whole = config.n_experts > 0 and "feature" in config.experts_in
        with torch.no_grad():
            self.engineered[0].zero_()

    def forward(self, categorical: Tensor, numerical: Tensor, engineered: Tensor | None, table: Tensor) -> Tensor:
        """The current event's categorical (B, C) int, numerical (B, F) and engineered (B, G) features → (B, D)."""
        tokens = self._tokens(categorical, numerical, engineered, table)
        if self.whole and self.training:
            return self._attend(tokens)
        return torch.cat([self._attend(part) for part in torch.split(tokens, PAYMENTS_AT_ONCE)])

    def _attend(self, tokens: Tensor) -> Tensor:
        return through_to_last(self.layers, self.norm(tokens), Surroundings())

    def _tokens(self, categorical: Tensor, numerical: Tensor, engineered: Tensor | None, table: Tensor) -> Tensor:
        vectors = numerical_rows(table, numerical.shape[1])
        tokens = [functional.embedding(categorical, table, padding_idx=0), numerical.unsqueeze(-1) * vectors]
        if self.bias is not None:
            tokens = [torch.cat(tokens, dim=1) + self.bias]
        if engineered is not None and engineered.shape[1]:
            extra = engineered.unsqueeze(-1) * self.engineered[1:]
            tokens.append(extra if self.engineered_bias is None else extra + self.engineered_bias)
        return torch.cat([*tokens, self.engineered[:1].detach().expand(len(categorical), 1, -1)], dim=1)
