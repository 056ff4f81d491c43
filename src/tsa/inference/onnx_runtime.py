"""Import ONNX Runtime, only here, with its telemetry disabled.

From version 1.29 it writes a device id and contacts its vendor on Linux. `tsa/__init__.py` disables that by environment
variable before any import; this module also disables it by API, for processes that imported it earlier.
"""

from __future__ import annotations

from typing import Any

from tsa.errors import ConfigError
from tsa.optional_libraries import imported


def onnx_runtime(what: str = "engine 'onnxruntime'") -> Any:
    """The module. Raises ConfigError if it is not installed. what: the feature that needs it."""
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
    """ONNX Runtime's tools to quantise a graph. Raises ConfigError if it is not installed."""
    onnx_runtime()
    from onnxruntime import quantization

    return quantization
