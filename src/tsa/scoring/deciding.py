"""Put decisions into a bundle. It knows bundles; what decisions are is in decisions.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tsa.errors import ConfigError
from tsa.scoring.bundle import Bundle
from tsa.scoring.decisions import Decision, Decisions


def decide_bundle(path: Path, texts: Sequence[str], *, score: str, otherwise: str = "accept") -> Decisions:
    """Write decisions, `NAME=LIMIT` each, into the bundle at `path`, which is sealed anew.

    ConfigError for decisions that are none, or by a score that the bundle is not calibrated for.
    """
    bundle = Bundle.open(path)
    made = Decisions(score=score, decisions=tuple(map(_decision, texts)), otherwise=otherwise)
    calibration = bundle.calibration
    if score != "raw_score" and (calibration is None or getattr(calibration, score) is None):
        raise ConfigError(f"thresholds: decisions go by {score}, however: the bundle is not calibrated for it")
    replace(bundle, thresholds=made).save(path)
    return made


def _decision(text: str) -> Decision:
    name, _, limit = text.partition("=")
    try:
        return Decision(name.strip(), float(limit))
    except ValueError:
        raise ConfigError(f"a decision must be NAME=LIMIT, such as review=0.98, however: {text!r}") from None
