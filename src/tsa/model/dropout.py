"""Dropout, and attention with dropout, for training on a CPU: faster random bits and less memory than PyTorch's.

The distribution and the seeded generator are PyTorch's, the draws differ. On a GPU PyTorch's kernels are used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from tsa.model.batch import History


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """In training: 0 with probability p, else x / (1 − p) (Srivastava et al. 2014)."""
    if not training or p == 0.0:
        return x
    if not x.is_cpu or torch.compiler.is_compiling():
        return functional.dropout(x, p)
    dropped: Tensor = _Dropout.apply(x, p)  # type: ignore[no-untyped-call]
    return dropped


def feature_dropout(histories: Sequence[History], p: float) -> list[History]:
    """The histories of B payments with each categorical feature left out with probability p, independently per payment.

    Its values are then row 0, as for padding, in all events of all histories.
    """
    categorical = histories[0].categorical
    keep = torch.rand(categorical.shape[0], 1, categorical.shape[2], device=categorical.device) >= p
    return [replace(history, categorical=history.categorical * keep) for history in histories]


def relu_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """dropout(relu(x)). May overwrite x."""
    if not training or p == 0.0:
        return torch.relu_(x)
    if not x.is_cpu or torch.compiler.is_compiling():
        return functional.dropout(torch.relu_(x), p)
    dropped: Tensor = _DroppedReLU.apply(x, p)  # type: ignore[no-untyped-call]
    return dropped


def attention_with_dropout(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, p: float) -> Tensor:
    """dropout(softmax(q·k / √d + bias)) · v: q, k, v (B, H, L, d), bias (B, 1 or H, 1 or L, L) → (B, H, L, d)."""
    learned = bias is not None and bias.requires_grad and torch.is_grad_enabled()
    # on a CPU the fused kernel supports neither dropout nor a learned bias, and is slow in bfloat16
    if not q.is_cpu or (p == 0.0 and not learned and q.dtype != torch.bfloat16):
        return functional.scaled_dot_product_attention(q, k, v, bias, p)
    if bias is None and p > 0.0:
        attended: Tensor = _DroppedAttention.apply(q, k, v, p)  # type: ignore[no-untyped-call]
        return attended
    logits = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
    logits = logits if bias is None else logits + bias
    return dropout(torch.softmax(logits, dim=-1), p, True) @ v


def _keep(shape: torch.Size, p: float) -> Tensor:
    """Float, 0 with probability p (rounded to 1 / 65536), else 1. Several times faster than `bernoulli`."""
    n = shape.numel()
    bits = torch.empty((n + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    # 16 bits per element; comparing floats is vectorised, with bools it is not
    return bits.view(torch.int16)[:n].float().ge_(p * 65_536 - 32_768).view(shape)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        keep = _keep(x.shape, p)
        ctx.save_for_backward(keep.to(torch.int8))
        ctx.scale = 1 / (1 - p)
        return (x * keep.to(x.dtype)).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return (grad * keep.to(grad.dtype)).mul_(ctx.scale), None


class _DroppedReLU(torch.autograd.Function):
    """Stores only the result, which is above 0 exactly where a gradient flows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        ctx.scale = 1 / (1 - p)
        y = torch.relu(x).mul_(_keep(x.shape, p).to(x.dtype)).mul_(ctx.scale)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, y, 0).mul_(ctx.scale), None


class _DroppedAttention(torch.autograd.Function):
    """Stores the attention weights, negative if dropped, and nothing else of their size."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, p: float) -> Tensor:
        ctx.scale = 1 / (1 - p)
        weights = torch.softmax((q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2), dim=-1)
        signed = weights.copysign_(_keep(weights.shape, p).sub_(0.5)).to(q.dtype)
        ctx.save_for_backward(q, k, v, signed)
        return (torch.relu(signed) @ v).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, signed = ctx.saved_tensors
        grad = grad * ctx.scale
        of_weights = torch.ops.aten.threshold_backward(grad @ v.transpose(-1, -2), signed, 0)
        of_logits = torch._softmax_backward_data(of_weights, signed.abs(), -1, signed.dtype)
        of_logits = of_logits.mul_(1 / math.sqrt(q.shape[-1]))
        return of_logits @ k, of_logits.transpose(-1, -2) @ q, torch.relu(signed).transpose(-1, -2) @ grad, None
