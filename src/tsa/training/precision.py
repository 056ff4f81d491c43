"""What matrix products are computed in, and how gradients of small types are kept from vanishing.

Weights, norms, losses and the optimiser stay in float32 (mixed precision, Micikevicius et al. 2018).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from tsa.errors import ConfigError

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The type of matrix products on a device, and the scaler of losses that fp16 needs.

    name: auto, float32, bf16 or fp16; auto is float32 on a CPU, on a GPU bf16 where it has it, else fp16.
    ConfigError for fp16 on a CPU, which has no such products.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device = _chosen(name, device), device
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.name == "fp16")

    def products(self) -> AbstractContextManager[object]:
        """A block in which products are computed in the type."""
        if self.name == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, TYPES[self.name])

    @property
    def may_overflow(self) -> bool:
        """Whether a gradient that is not finite only means that its loss was scaled too high: the step is left out then."""
        return self.scaler.is_enabled() and self.scaler.get_scale() > 1.0


def _chosen(name: str, device: torch.device) -> str:
    if name == "auto" and device.type == "cpu":
        return "float32"
    if name == "auto":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("training.precision: fp16 needs a GPU, bf16 does not (got precision='fp16' on a CPU)")
    return name
