"""The processing steps of the pipeline: `python -m tsa.integrations.sagemaker.steps preprocess | calibrate | evaluate | register`.

    /opt/ml/processing/input/logs      the payment logs, or rows with inline history
    /opt/ml/processing/input/market    the market file (preprocess)
    /opt/ml/processing/input/model     model.tar.gz of the training job (calibrate)
    /opt/ml/processing/input/bundle    bundle.tar.gz of the step before (evaluate, register)
    /opt/ml/processing/output/store    the event store (preprocess)
    /opt/ml/processing/output/bundle   bundle.tar.gz, calibrated (calibrate), with its metrics (evaluate)
    /opt/ml/processing/output/report   report.html, report.json, and evaluation.json for the condition (evaluate)

SAGEMAKER_BASE_DIR, if set, is used instead of /opt/ml. A step that fails exits with 1, and its message is the last line.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tsa.bundle.bundle import Bundle
from tsa.config.overrides import Overrides
from tsa.data.store.prepare import prepare
from tsa.errors import ConfigError, TSAError
from tsa.evaluation.evaluate import metrics_of
from tsa.evaluation.evaluate_log import evaluate_bundle
from tsa.evaluation.report.report import to_plain
from tsa.files.writing import write_json
from tsa.inference.recalibrate import calibrate_bundle
from tsa.integrations.sagemaker.packing import BUNDLE, CODE
from tsa.registry import Registry

logger = logging.getLogger("tsa.integrations.sagemaker.steps")

MODEL = "model.tar.gz"
CALIBRATION = ("calibration", "validation")
"""Ranges that probabilities are fitted on: the first that the bundle has."""


def preprocess(base: Path, market: str, settings: Sequence[str] = ()) -> Path:
    """Write the event store of the logs.

    Args:
        base: /opt/ml/processing.
        market: The name of the market file.
        settings: `key=value` settings of the market.

    Returns:
        The store.

    Raises:
        ConfigError: If there is no market file of this name. Also raises what `prepare` raises.
    """
    path = base / "input" / "market" / market
    if not path.is_file():
        raise ConfigError(f"market must name a file of the input market (got {market!r}, {path} is not there)")
    store = base / "output" / "store"
    opened = Overrides.read(settings, path)
    assert opened.market is not None
    prepare(opened.market, _input(base, "logs"), store)
    return store


def calibrate(base: Path, *, method: str = "bspline", start: str | None = None, end: str | None = None) -> Path:
    """Fit percentiles and probabilities of the trained model; by default on its own calibration range.

    Args:
        base: /opt/ml/processing.
        method: As for `tsa calibrate`.
        start, end: Times in UTC.

    Returns:
        The bundle with the new calibration.

    Raises:
        ConfigError: If there is no model. Also raises what `calibrate_bundle` raises.
    """
    out = base / "output" / "bundle" / BUNDLE
    with tempfile.TemporaryDirectory(prefix="tsa-step-") as folder:
        bundle = unpacked(_input(base, "model") / MODEL, Path(folder))
        if start is None and end is None:
            start, end = _range(bundle, CALIBRATION)
        calibrate_bundle(bundle, _input(base, "logs"), out, method=method, start=start, end=end)
    return out


def evaluate(base: Path, *, start: str | None = None, end: str | None = None) -> dict[str, Any]:
    """Measure the bundle, by default on its own test range; write the report, and the bundle with its metrics.

    Args:
        base: /opt/ml/processing.
        start, end: Times in UTC.

    Returns:
        The content of evaluation.json: `market`, `bundle` (the sha256), `n`, `frauds`, and `metrics` with values and intervals.

    Raises:
        ConfigError: If there is no bundle. Also raises what `evaluate_bundle` raises.
    """
    given, report_folder = _input(base, "bundle") / BUNDLE, base / "output" / "report"
    if start is None and end is None:
        start, end = _range(given, ("test",))
    report = evaluate_bundle(given, _input(base, "logs"), report_folder, start=start, end=end)
    bundle = replace(Bundle.open(given), metrics=metrics_of(report))
    out = base / "output" / "bundle" / BUNDLE
    out.parent.mkdir(parents=True, exist_ok=True)
    bundle.save(out)
    measured = report["evaluation"]
    metrics = {
        name: {key: metric[key] for key in ("value", "low", "high") if key in metric}
        for name, metric in measured["metrics"].items()
        if isinstance(metric, dict) and isinstance(metric.get("value"), int | float)
    }
    facts = {"market": bundle.market.name, "bundle": Bundle.open(out).sha256}
    result = dict(to_plain({**facts, "n": measured["n"], "frauds": measured["frauds"], "metrics": metrics}))
    write_json(report_folder / "evaluation.json", result)
    return result


def register(base: Path, registry: str, *, by: str, alias: str = "challenger") -> str:
    """Publish the bundle, and let an alias name it.

    Args:
        base: /opt/ml/processing.
        registry: The URL of a registry.
        by: Who publishes it.
        alias: Such as challenger; empty for none.

    Returns:
        The sha256 of the version.

    Raises:
        RegistryError: If the registry cannot be used.
    """
    opened = Registry.open(registry)
    version = opened.publish(_input(base, "bundle") / BUNDLE, by=by, note="made by the pipeline")
    if alias:
        opened.promote(version.sha256, alias, by=by, why="the pipeline's condition holds")
    return version.sha256


def main(words: Sequence[str] | None = None) -> int:
    """Run one step. Returns the exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    given = _parser().parse_args(words)
    base = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")) / "processing"
    values = {name: value for name, value in vars(given).items() if name != "step"}
    steps: dict[str, Callable[..., Any]] = {
        "preprocess": preprocess,
        "calibrate": calibrate,
        "evaluate": evaluate,
        "register": register,
    }
    try:
        logger.info("%s: %s", given.step, steps[given.step](base, **values))
    except (TSAError, OSError) as error:
        logger.error("%s: %s", given.step, error)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tsa.integrations.sagemaker.steps")
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("preprocess")
    step.add_argument("--market", required=True)
    step.add_argument("--set", dest="settings", action="append", default=[])
    for name in ("calibrate", "evaluate"):
        step = steps.add_parser(name)
        step.add_argument("--from", dest="start")
        step.add_argument("--to", dest="end")
        if name == "calibrate":
            step.add_argument("--method", default="bspline")
    step = steps.add_parser("register")
    step.add_argument("--registry", required=True)
    step.add_argument("--by", default="pipeline")
    step.add_argument("--alias", default="challenger")
    return parser


def _input(base: Path, name: str) -> Path:
    path = base / "input" / name
    if not path.is_dir():
        raise ConfigError(f"the step needs the input {name} (got no folder {path})")
    return path


def unpacked(archive: Path, folder: Path) -> Path:
    """The bundle of a model.tar.gz: its files, or the bundle.tar.gz in it. Nothing is written outside `folder`."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                path = Path(os.path.normpath(member.name))
                file = tar.extractfile(member) if member.isfile() else None
                if file is None or len(path.parts) != 1 or path.parts[0] in ("..", CODE):
                    continue
                (folder / path.name).write_bytes(file.read())
    except (OSError, tarfile.TarError) as error:
        raise ConfigError(f"{archive} must be the model.tar.gz of a training job ({error})") from None
    return folder / BUNDLE if (folder / BUNDLE).is_file() else folder


def _range(bundle: Path, names: Sequence[str]) -> tuple[str, str]:
    """Start and end of the first of these ranges that the bundle has. Raises ConfigError if it has none."""
    data = Bundle.open(bundle).data or {}
    for name in names:
        if split := data.get("splits", {}).get(name):
            return str(split["start"]), str(split["end"])
    raise ConfigError(f"the bundle has no range {' or '.join(names)}; give --from and --to")


if __name__ == "__main__":
    sys.exit(main())
