"""Explanations of the riskiest payments of the test range, for the report."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.errors import ConfigError
from tsa.evaluation.trained_run import TrainedRun
from tsa.explain import Explainer, Explanation, need_captum
from tsa.progress import Progress, silent

MAX_SHOWN = 10
EVENT = ("id", "time", "age_seconds", "outcome", "attribution", "attention")
"""The fields of an earlier event that the report contains."""


def explain_riskiest(run: TrainedRun, scores: NDArray[Any], progress: Progress = silent) -> dict[str, Any]:
    """Explain the ten test payments with the highest `scores` (n,), highest first.

    Returns:
        {note, payments}. Without captum there are no payments, and the note says so.
    """
    try:
        need_captum()
    except ConfigError as missing:
        return {"note": str(missing), "payments": []}
    rows = run.rows[np.argsort(-scores, kind="stable")[:MAX_SHOWN]]
    with progress("explaining the riskiest payments", len(rows)) as advance:
        explained = []
        for row, explanation in zip(
            rows, Explainer(run.scorer.bundle).explain_rows(run.store, rows.tolist()), strict=True
        ):
            explained.append(_shown(explanation, bool(run.store.label[row] == 1)))
            advance(1)
    return {"note": None, "payments": explained}


def _shown(explanation: Explanation, fraud: bool) -> dict[str, Any]:
    integers = explanation.to_dict()
    histories = [
        {**history, "events": [{name: event[name] for name in EVENT} for event in history["events"]]}
        for history in integers["histories"]
    ]
    fields = ("id", "time", "scores", "score", "baseline", "total", "residual", "reasons")
    return {"fraud": fraud, **{name: integers[name] for name in fields}, "histories": histories}
