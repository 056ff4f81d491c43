"""Loss functions: from logits and true classes to one number per payment.

Every loss takes logits (B, K) of K ≥ 2 classes, class 1 being fraud, and the true classes (B,) int64, and returns the
losses (B,): a mean or a weighted mean is the caller's. It computes in float32 (in float64 where the logits are) and in
logarithms, so that no finite logit gives NaN, in the loss or in its gradient. Where a weight depends on the logits, the
gradient goes through it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from tsa.training.config import LOSSES

if TYPE_CHECKING:
    from tsa.training.config import TrainingConfig

FRAUD = 1


class Loss(Protocol):
    """A loss with its parameters."""

    def __call__(self, logits: Tensor, target: Tensor, epoch: int, /) -> Tensor:
        """logits (B, K), target (B,) int64, epoch of the run, the first being 1 -> losses (B,) float32."""


def make_loss(config: TrainingConfig) -> Loss:
    """The loss that the settings name, with their parameters."""
    parameters = {
        name.removeprefix("loss_").removeprefix("label_"): getattr(config, name) for name in LOSSES[config.loss]
    }
    if config.loss == "cyclical_focal":
        return _cyclical(config.epochs, **parameters)
    loss = partial(SAME_IN_EVERY_EPOCH[config.loss], **parameters)
    return lambda logits, target, epoch: loss(logits, target)


def cross_entropy(logits: Tensor, target: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """−Σ_k t_k log p_k, with the share `smoothing` of the target t spread evenly over all classes.

    Label smoothing: Szegedy et al. 2016, Rethinking the Inception Architecture for Computer Vision.
    """
    return functional.cross_entropy(_exact(logits), target, reduction="none", label_smoothing=smoothing)


def weighted(logits: Tensor, target: Tensor, *, fraud_weight: float, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy in which the logarithm of the fraud probability counts `fraud_weight` times (King and Zeng 2001).

    Not divided by the sum of the weights, as `mean` in PyTorch is.
    """
    logits = _exact(logits)
    weight = torch.ones_like(logits[0])
    weight[FRAUD] = fraud_weight
    return functional.cross_entropy(logits, target, weight, reduction="none", label_smoothing=smoothing)


def focal(logits: Tensor, target: Tensor, *, gamma: float, alpha: float) -> Tensor:
    """−α (1 − p_t)^γ log p_t, p_t being the probability of the true class.

    Lin et al. 2018, Focal Loss for Dense Object Detection. Here α is the same for all classes, as in the legacy system.
    """
    log_p, log_rest = _log_probabilities(logits, target)
    return -alpha * _power(log_rest, gamma) * log_p.gather(1, target[:, None])[:, 0]


def asymmetric(logits: Tensor, target: Tensor, *, gamma_pos: float, gamma_neg: float, smoothing: float = 0.0) -> Tensor:
    """−Σ_k t_k w_k log p_k with w_k = (1 − p_k)^γ+ for the true class and p_k^γ− for the others; t smoothed.

    Ben-Baruch et al. 2020, Asymmetric Loss for Multi-Label Classification, in its single-label form. Without smoothing the
    other classes have no share in the loss, and γ− no effect.
    """
    log_p, log_rest = _log_probabilities(logits, target)
    true, share = _targets(log_p, target, smoothing)
    weight = torch.where(true, _power(log_rest, gamma_pos)[:, None], _power(log_p, gamma_neg))
    return -(share * weight * log_p).sum(dim=1)


def asl_focal(logits: Tensor, target: Tensor, *, gamma: float, smoothing: float) -> Tensor:
    """`asymmetric` with γ+ = γ− = γ: the focal loss (Lin et al. 2018) with label smoothing in it."""
    return asymmetric(logits, target, gamma_pos=gamma, gamma_neg=gamma, smoothing=smoothing)


def cyclical_focal(
    logits: Tensor,
    target: Tensor,
    *,
    gamma_pos: float,
    gamma_neg: float,
    gamma_hc: float,
    smoothing: float,
    certainty: float,
) -> Tensor:
    """−Σ_k t_k (ξ h_k + (1 − ξ) w_k) log p_k; h_k = (1 + p_k)^γ_hc for the true class, 1 for the others; w_k, t_k as above.

    `certainty` is ξ: 1 learns first from what is certain, 0 focuses on what is not; see `certainty_at`.
    Smith 2022, Cyclical Focal Loss.
    """
    log_p, log_rest = _log_probabilities(logits, target)
    true, share = _targets(log_p, target, smoothing)
    focus = torch.where(true, _power(log_rest, gamma_pos)[:, None], _power(log_p, gamma_neg))
    certain = torch.where(true, (1 + log_p.exp()) ** gamma_hc, torch.ones_like(log_p))
    return -(share * (certainty * certain + (1 - certainty) * focus) * log_p).sum(dim=1)


def certainty_at(epoch: int, epochs: int, factor: float) -> float:
    """ξ of an epoch, the first being 1: from 1 down to 0 in the first 1 / `factor` of the epochs, and up to 1 again."""
    passed = factor * (epoch - 1) / max(epochs - 1, 1)
    if passed <= 1:
        return 1 - passed
    return min((passed - 1) / (factor - 1), 1.0) if factor > 1 else 0.0


def asymmetric_multi_label(
    logits: Tensor, target: Tensor, *, gamma_pos: float, gamma_neg: float, clip: float
) -> Tensor:
    """Σ over classes k ≥ 1, each a label with probability p_k: −(1 − p)^γ+ log p where it is the case, else
    −q^γ− log(1 − q) with q = max(p − clip, 0).

    Ben-Baruch et al. 2020, Asymmetric Loss for Multi-Label Classification. A label's log-odds are log p_k − log(1 − p_k) of
    the softmax over all classes: with two classes, the label is fraud, and what is learned is the very score.
    """
    logits = _exact(logits)
    own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    other_classes = logits[:, None, :].masked_fill(own, -torch.inf).logsumexp(dim=2)
    odds = (logits - other_classes)[:, 1:]
    case = functional.one_hot(target, logits.shape[1])[:, 1:].bool()
    log_p, log_not = functional.logsigmoid(odds), functional.logsigmoid(-odds)
    positive = -_power(log_not, gamma_pos) * log_p
    negative = _shifted(log_p, gamma_neg, clip) if clip else -_power(log_p, gamma_neg) * log_not
    return torch.where(case, positive, negative).sum(dim=1)


def _shifted(log_p: Tensor, gamma: float, clip: float) -> Tensor:
    """−q^γ log(1 − q), q = p − clip where that is above 0; elsewhere 0."""
    p = log_p.exp()
    counts = p > clip
    q = torch.where(counts, p - clip, 0.5)  # any value: a root of 0 has no gradient, not even times 0
    return torch.where(counts, -(q**gamma) * torch.log1p(-q), 0.0)


def _exact(logits: Tensor) -> Tensor:
    """In float32, unless in float64: a logarithm in 16 bits is too coarse to learn from."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _log_probabilities(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """log p (B, K), and log(1 − p) of the true class (B,): of the others' sum, so that nothing cancels."""
    log_p = functional.log_softmax(_exact(logits), dim=1)
    return log_p, log_p.scatter(1, target[:, None], -torch.inf).logsumexp(dim=1)


def _targets(log_p: Tensor, target: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Which class is the true one (B, K) bool, and the smoothed target (B, K)."""
    true = functional.one_hot(target, log_p.shape[1])
    return true.bool(), true.to(log_p.dtype) * (1 - smoothing) + smoothing / log_p.shape[1]


def _power(logarithm: Tensor, exponent: float) -> Tensor:
    """exp(logarithm) ** exponent; at 0 its gradient is 0 for any exponent, where a power's would be infinite below 1."""
    return (exponent * logarithm).exp()


def _cyclical(
    epochs: int, *, gamma_pos: float, gamma_neg: float, gamma_hc: float, smoothing: float, cycle_factor: float
) -> Loss:
    gammas = {"gamma_pos": gamma_pos, "gamma_neg": gamma_neg, "gamma_hc": gamma_hc}

    def loss(logits: Tensor, target: Tensor, epoch: int) -> Tensor:
        certainty = certainty_at(epoch, epochs, cycle_factor)
        return cyclical_focal(logits, target, **gammas, smoothing=smoothing, certainty=certainty)

    return loss


SAME_IN_EVERY_EPOCH: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "weighted": weighted,
    "focal": focal,
    "asymmetric": asymmetric,
    "asymmetric_multi_label": asymmetric_multi_label,
    "asl_focal": asl_focal,
}
