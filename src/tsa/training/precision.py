"""The type of matrix products, and loss scaling for fp16.

Weights, norms, losses and the optimiser stay in float32 (mixed precision, Micikevicius et al. 2018).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from tsa.errors import ConfigError

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The type of matrix products on a device, and the loss scaler for fp16.

    Args:
        name: auto, float32, bf16 or fp16. auto: float32 on a CPU; on a GPU bf16 if it supports it, else fp16.
        device: The device.

    Raises:
        ConfigError: For fp16 on a CPU.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device = _chosen(name, device), device
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.name == "fp16")

    def products(self) -> AbstractContextManager[object]:
        """Inside the block, matrix products have this type."""
        if self.name == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, TYPES[self.name])

    @property
    def may_overflow(self) -> bool:
        """Whether a gradient that is not finite is only due to loss scaling; the step is then skipped."""
        return self.scaler.is_enabled() and self.scaler.get_scale() > 1.0


def _chosen(name: str, device: torch.device) -> str:
    if name == "auto" and device.type == "cpu":
        return "float32"
    if name == "auto":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("training.precision: fp16 needs a GPU, bf16 does not (got precision='fp16' on a CPU)")
    return name
