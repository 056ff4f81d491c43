"""What time does to attention, and learned encodings of a time or a number.

Ages are seconds before the current event, capped at `age_cap_seconds` of the configuration: an old query's factor grows by
e every 1e6 s, and its logits leave the range of float32 some time after `MAX_CAP_SECONDS`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tsa.times import DAY_SECONDS

FOLDING_SECONDS = 1e6  # an attention logit shrinks by e for each of these between query and key
AGE_CAP_SECONDS = 1e7
"""The cap where none is said: 116 days, as the legacy system's parsing for one history has it."""
MAX_CAP_SECONDS = 6e7
"""The largest cap, and how much later than the current event one can be: logits times exp(60) still are float32s."""
OLDEST_SECONDS = 1e10
"""Ages beyond these 300 years, and below 0, count as the bound: where distances are taken, they would be no numbers."""


def age_growth(age_seconds: Tensor, cap_seconds: float = AGE_CAP_SECONDS) -> Tensor:
    """exp(age / 1e6 s), the age capped at `cap_seconds`: from 1 on, float32 at least; same shape.

    An event after the current one has a negative age, and a factor below 1.

    The factor exp((age_i − age_j) / 1e6) on the logit of query i and key j is growth_i / growth_j: it is applied to the
    queries and the keys, so that no (B, L, L) factor is ever made.
    """
    age = age_seconds.to(torch.promote_types(age_seconds.dtype, torch.float32))
    return torch.exp(age.clamp(-MAX_CAP_SECONDS, cap_seconds) / FOLDING_SECONDS)


def age_distance(age_seconds: Tensor, queries: slice = slice(None)) -> Tensor:
    """log1p(|age_i − age_j| in days) for the positions i in `queries`: age_seconds (B, L) → (B, |queries|, L)."""
    return torch.log1p((age_seconds[:, queries, None] - age_seconds.unsqueeze(-2)).abs() / DAY_SECONDS)


class TimeEncode(nn.Module):
    """Time2Vec (Kazemi et al. 2019): t ↦ [w₀t + b₀, sin(w₁t + b₁), …, sin(w_{k−1}t + b_{k−1})], all learned."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, 1))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, t: Tensor) -> Tensor:
        """t (…) → (…, k)."""
        line = t.unsqueeze(-1) * self.weight[:, 0] + self.bias
        return torch.cat([line[..., :1], torch.sin(line[..., 1:])], dim=-1)
