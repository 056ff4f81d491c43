"""ONNX Runtime, imported in this one place, with its reports to its maker turned off.

From 1.29 on it writes a device id and looks up a host of its maker on Linux. `tsa/__init__.py` sets the variable that keeps it
from doing so before anything can import it; here the same is said through its API, for a process that had imported it before.
"""

from __future__ import annotations

from typing import Any

from tsa.errors import ConfigError
from tsa.optional import imported


def onnx_runtime(what: str = "engine 'onnxruntime'") -> Any:
    """The module. ConfigError where it is not installed. what: who needs it."""
    onnxruntime = imported(what, "onnxruntime", "onnx")
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def has_runtime() -> bool:
    """Whether ONNX Runtime is installed."""
    try:
        onnx_runtime()
    except ConfigError:
        return False
    return True


def onnx_quantisation() -> Any:
    """ONNX Runtime's tools to quantise a graph. ConfigError where it is not installed."""
    onnx_runtime()
    from onnxruntime import quantization

    return quantization
