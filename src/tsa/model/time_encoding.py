"""The effect of age on attention, and a learned encoding of time.

Ages are seconds before the current event. They are capped, since the factor of "exponential" attention grows by e every
1e6 s and overflows float32 beyond `MAX_CAP_SECONDS`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tsa.times import DAY_SECONDS

FOLDING_SECONDS = 1e6  # an attention logit shrinks by e for each of these between query and key
AGE_CAP_SECONDS = 1e7
"""The default cap, 116 days: the legacy system's for one history."""
MAX_CAP_SECONDS = 6e7
"""The largest cap, and the most that an event can be later than the current one: exp(60) · logit is still a float32."""
OLDEST_SECONDS = 1e10
"""Ages are clipped to 0 … 300 years where distances are computed, which would be NaN otherwise."""


def age_growth(age_seconds: Tensor, cap_seconds: float = AGE_CAP_SECONDS) -> Tensor:
    """exp(age / 1e6 s), with ages capped at `cap_seconds`; at least float32, same shape.

    An event after the current one has a negative age and a factor below 1. The factor exp((age_i − age_j) / 1e6) on the
    logit of query i and key j is growth_i / growth_j. It is applied to queries and keys separately, so that no
    (B, L, L) factor is stored.
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
