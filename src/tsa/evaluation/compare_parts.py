"""What each part of a model scores alone: the model, the network alone and the trees alone, compared on the same payments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tsa.evaluation.metrics.paired import paired_difference
from tsa.evaluation.trained_run import Array, TrainedRun
from tsa.model.network_and_trees import PARTS, raw_scores
from tsa.progress import Progress, silent

ALONE_NAMES = {"network": "the network alone", "trees": "the trees alone"}
METRICS = ("average_precision", "roc_auc")


def compare_parts(
    run: TrainedRun, scores: Array, *, replicates: int = 200, progress: Progress = silent
) -> dict[str, Any] | None:
    """Compare the model's scores (n,) of `run.rows` with those of each part alone.

    Returns:
        form, weights, what decided it (`choice`), `values` (metrics of the model and of each part), `differences` (model
        minus part, of each part, with intervals) and a `summary`; None for a model without trees.
    """
    bundle = run.scorer.bundle
    if bundle.trees is None:
        return None
    log_odds = part_log_odds(run, progress)
    payments = run.payments(np.zeros(len(run.rows)))
    own = np.asarray(scores, np.float64)
    differences = {
        part: paired_difference(own, raw_scores(log_odds[part]).astype(np.float64), payments, replicates=replicates)
        for part in PARTS
    }
    values = {part: {name: difference[name]["b"] for name in METRICS} for part, difference in differences.items()}
    values["model"] = {name: differences["network"][name]["a"] for name in METRICS}
    form = "combined" if len(bundle.joining.parts) > 1 else bundle.joining.parts[0]
    return {
        "form": form,
        "weights": bundle.joining.to_dict(),
        "choice": dict(bundle.choice),
        "values": values,
        "differences": differences,
        "summary": summary(form, differences),
    }


def part_log_odds(run: TrainedRun, progress: Progress = silent) -> Mapping[str, Array]:
    """(n,) log odds of each part, of `run.rows`: from scoring them, or computed now."""
    if run.part_log_odds:
        return run.part_log_odds
    with progress("scoring each part", len(run.rows)) as advance:
        return run.scorer.model.log_odds_of_store(run.store, run.rows, PARTS, advance=advance)


def summary(form: str, differences: Mapping[str, Mapping[str, Any]]) -> str:
    """Sentences that say whether network and trees together are better than each alone, by average precision."""
    if form != "combined":
        other = next(part for part in PARTS if part != form)
        return f"The model scores by {ALONE_NAMES[form]}. {_sentence('it', other, differences[other])}"
    return " ".join(_sentence("Network and trees together", part, differences[part]) for part in PARTS)


def _sentence(model: str, part: str, difference: Mapping[str, Any]) -> str:
    result = difference["average_precision"]
    if result["low"] is None:
        return f"{_capital(model)} and {ALONE_NAMES[part]} cannot be compared: {result['reason']}."
    values = f"average precision {result['a']:.3f} against {result['b']:.3f}"
    interval = f"difference {result['difference']:+.3f}, 95 % interval {result['low']:+.3f} to {result['high']:+.3f}"
    verb = "are" if model.startswith("Network") else "is"
    plain = {
        "a better": f"{_capital(model)} {verb} better than {ALONE_NAMES[part]}",
        "b better": f"{_capital(ALONE_NAMES[part])} {'is' if part == 'network' else 'are'} better than {_middle(model)}",
    }.get(result["verdict"], f"No clear difference between {_middle(model)} and {ALONE_NAMES[part]}")
    return f"{plain}: {values} ({interval})."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _middle(text: str) -> str:
    """A name in the middle of a sentence."""
    return text[0].lower() + text[1:]
