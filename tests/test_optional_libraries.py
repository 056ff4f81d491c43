"""Libraries that only some commands need: one refusal for all, and each command that needs one gives it."""

import sys
from collections.abc import Callable

import pytest

from tsa.bundle.signing import _cryptography
from tsa.errors import ConfigError
from tsa.explain import need_captum
from tsa.inference.onnx_export import _refuse_missing
from tsa.inference.onnx_runtime import has_runtime, onnx_runtime
from tsa.optional_libraries import imported, is_installed, need
from tsa.serving.decisions.kafka import KafkaLog
from tsa.serving.history.redis_client import library as redis
from tsa.serving.metrics import library as prometheus
from tsa.training.config import TrainingConfig
from tsa.training.tracking import refuse_missing


def test_what_is_installed() -> None:
    assert is_installed("json")
    assert is_installed("numpy")
    assert not is_installed("no_such_library")
    need("a test", "json", "numpy", extra="none")


def test_what_is_missing_is_named_with_the_command() -> None:
    with pytest.raises(ConfigError) as caught:
        need("a test", "json", "no_such_library", extra="some")
    assert str(caught.value) == "a test needs no_such_library, which is not installed: pip install 'tsa-fraud[some]'"
    with pytest.raises(ConfigError, match="needs no_such and nor_this, which are not installed"):
        need("a test", "no_such", "nor_this", extra="some")


def test_a_module_without_a_spec_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "made_by_hand", type(sys)("made_by_hand"))
    assert is_installed("made_by_hand")


def test_a_library_that_cannot_be_imported(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_installed.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ConfigError, match=r"which cannot be imported \(No module named 'no_such_library'\): pip install"
    ):
        imported("a test", "half_installed", "some")


def serve() -> None:
    from tsa.serving import _serve
    from tsa.serving.settings import ServeSettings

    _serve(ServeSettings(bundle="nowhere"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "module", "extra"),
    [
        (need_captum, "captum", "explain"),
        (_refuse_missing, "onnxscript", "onnx"),
        (onnx_runtime, "onnxruntime", "onnx"),
        (_cryptography, "cryptography", "sign"),
        (prometheus, "prometheus_client", "serve"),
        (redis, "redis", "redis"),
        (serve, "uvicorn", "serve"),
        (lambda: KafkaLog("kafka://a:1/t"), "confluent_kafka", "kafka"),
        (lambda: refuse_missing(TrainingConfig(tensorboard=True)), "tensorboard", "track"),
    ],
)
def test_each_user_of_a_library_refuses_alike(
    call: Callable[[], object], module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ConfigError, match=rf"needs {module}, which is not installed: pip install 'tsa-fraud\[{extra}\]'$"
    ):
        call()


def test_the_engine_falls_back_where_its_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert not has_runtime()
