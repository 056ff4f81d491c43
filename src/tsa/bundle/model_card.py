"""The model card (Mitchell et al. 2019) of a bundle, in Markdown, generated from its other files.

The same bundle gives the same card.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from tsa.bundle.decisions import DecisionPolicy
from tsa.calibration.calibration import Calibration
from tsa.config.market import Market
from tsa.model import ModelConfig, TSANetwork
from tsa.model.network_and_trees import Joining
from tsa.model.tree_model import TreeModel

SHOWN = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "precision_at_k": "precision at k per day",
    "recall_at_fpr_0.01": "recall at 1 % false positives",
    "precision": "precision at the threshold",
    "recall": "recall at the threshold",
    "value_weighted_recall": "share of the value of frauds found at the threshold",
}
INTENDED = """\
To rank payments of this market by how likely they are fraud, and, where it is calibrated, to give a probability, so that people
can review the riskiest or rules can act on them. Histories must be of the same kind as those it was trained on, and outcomes
must reach it no sooner than the market says they are known."""
LIMITS = (
    "It was trained on the payments of the ranges above; it cannot recognise kinds of fraud that did not occur in them.",
    "Another market, currency, label policy or label delay needs a separate model.",
    "Scores drift with the payments: monitor them, and calibrate or train again.",
    "It learns associations. A reason given for a score does not prove its cause, and does not prove fraud.",
    "Whether it treats groups of people equally was measured only for the segments in the tables above.",
)


class CardFacts(Protocol):
    """The content of a card; a `Bundle` has these fields."""

    @property
    def market(self) -> Market:
        """Whose payments it scores."""

    @property
    def config(self) -> ModelConfig:
        """The architecture of the network."""

    @property
    def network(self) -> TSANetwork:
        """The network."""

    @property
    def trees(self) -> TreeModel | None:
        """The boosted trees."""

    @property
    def joining(self) -> Joining:
        """How network and trees are joined."""

    @property
    def training(self) -> Mapping[str, Any]:
        """How it was trained."""

    @property
    def calibration(self) -> Calibration | None:
        """From raw scores to percentiles and probabilities."""

    @property
    def thresholds(self) -> DecisionPolicy | None:
        """The decisions, by score."""

    @property
    def metrics(self) -> Mapping[str, Any] | None:
        """The evaluation."""

    @property
    def data(self) -> Mapping[str, Any] | None:
        """The rows it was trained on."""


def model_card(bundle: CardFacts) -> str:
    """The card of a bundle."""
    sections = [
        [f"# {bundle.market.name}: Temporal Self-Attention"],
        [*_network(bundle), *_trees(bundle)],
        _data(bundle.data, bundle.training),
        _metrics(bundle.metrics),
        _scores(bundle),
        ["## Intended use", "", INTENDED],
        ["## Limits", "", *(f"- {limit}" for limit in LIMITS)],
    ]
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def _network(bundle: CardFacts) -> list[str]:
    market, config = bundle.market, bundle.config
    parameters = sum(value.numel() for value in bundle.network.parameters())
    histories = ", ".join(f"{history.name} ({history.length} events)" for history in market.views)
    known = f" Outcomes are seen {market.label.delay_days:g} days later." if market.label.delay_days is not None else ""
    features = market.features
    kinds: dict[str, list[str]] = {
        "categorical": [feature.name for feature in features.categorical],
        "calendar": [str(name) for name in features.calendar],
        "numerical": [feature.name for feature in features.numerical],
        "engineered": [feature.name for feature in features.engineered],
    }
    return [
        f"A network of {parameters:,} parameters (width {config.width}, {config.n_heads} heads, order attention "
        f'"{config.order_attention}") that reads the histories {histories}.{known}',
        "",
        *(f"- {kind} features: {_listed(names)}" for kind, names in kinds.items() if names),
        f"- market fingerprint: `{market.fingerprint}`",
    ]


def _trees(bundle: CardFacts) -> list[str]:
    """The trees, and what a score consists of; nothing for a network alone."""
    if bundle.trees is None:
        return []
    columns, joining = bundle.trees.columns, bundle.joining
    reach = columns.aggregates.history_length
    weights = " + ".join(f"{getattr(joining, part):.3g} x {part}" for part in joining.parts)
    return [
        "",
        f"{bundle.trees.trees.n_trees:,} boosted trees that read {len(columns.names):,} columns: the payment's own values, and "
        f"aggregates of each history over up to {reach} events.",
        "",
        f"The log odds of a score are {weights} {'-' if joining.intercept < 0 else '+'} {abs(joining.intercept):.3g}.",
    ]


def _listed(names: list[str], max_names: int = 12) -> str:
    first = ", ".join(f"`{name}`" for name in names[:max_names])
    return first if len(names) <= max_names else f"{first} and {len(names) - max_names} more"


def _data(data: Mapping[str, Any] | None, training: Mapping[str, Any]) -> list[str]:
    if data is None:
        origin = training.get("imported")
        return [
            "## Data",
            "",
            "It was trained elsewhere and imported." if origin else "There is no summary of its data.",
        ]
    lines = [
        "## Data",
        "",
        f"Of {data['rows_read']:,} rows read, {data['rows_kept']:,} were used, {data['rows_excluded']:,} excluded by the "
        f"market and {data['rows_quarantined']:,} quarantined because they broke a rule.",
        "",
        "| range | from | until | payments with a known outcome | frauds |",
        "|---|---|---|---|---|",
    ]
    # ranges in time order and segments by name: the order of JSON keys is not stored, and the card must not change on reading
    for name, split in sorted(data.get("splits", {}).items(), key=lambda item: (item[1]["start"] or "", item[0])):
        lines.append(f"| {name} | {split['start']} | {split['end']} | {split['n']:,} | {split['frauds']:,} |")
    if (rate := training.get("sampling_rate_genuine")) is not None:
        lines += ["", f"An epoch of training draws {rate:.2%} of the genuine payments of its range, and all frauds."]
    return lines


def _metrics(metrics: Mapping[str, Any] | None) -> list[str]:
    if metrics is None:
        return ["## Metrics", "", "It has not been evaluated since it was trained."]
    evaluation = metrics["evaluation"]
    lines = [
        "## Metrics",
        "",
        f"On the test range: {evaluation['n']:,} payments, {evaluation['frauds']:,} of them fraud; 95 % intervals.",
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {text} | {metric_text(evaluation['metrics'].get(name))} |" for name, text in SHOWN.items()),
    ]
    for segment, values in sorted((evaluation.get("segments") or {}).items()):
        lines += ["", *_segment(segment, values)]
    comparison = metrics.get("comparison")
    return lines if not comparison else [*lines, "", comparison["summary"]]


def _segment(name: str, values: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"By `{name}`:"
    yield ""
    yield "| value | payments | frauds | average precision | ROC AUC |"
    yield "|---|---|---|---|---|"
    for row in values:
        scores = [metric_text(row["metrics"].get(metric)) for metric in ("average_precision", "roc_auc")]
        yield f"| {row['value']} | {row['n']:,} | {row['frauds']:,} | {scores[0]} | {scores[1]} |"


def metric_text(metric: Mapping[str, Any] | None) -> str:
    """A metric with its interval, such as 0.741 [0.690, 0.790]; – if it has no value."""
    if not metric or metric.get("value") is None:
        return "–"
    low, high = metric.get("low"), metric.get("high")
    return f"{metric['value']:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def _scores(bundle: CardFacts) -> list[str]:
    calibration, thresholds = bundle.calibration, bundle.thresholds
    lines = ["## Scores", "", "- `raw_score`: the model's output; it ranks payments and is not a probability"]
    if calibration is not None and calibration.percentile is not None:
        lines.append("- `percentile`: the share of calibration payments that score lower")
    if calibration is not None and calibration.probability is not None:
        lines.append("- `probability`: that the payment is fraud, as fitted on the calibration range")
    if calibration is not None and calibration.note:
        lines.append(f"- {calibration.note}")
    for decision in thresholds.decisions if thresholds is not None else ():
        assert thresholds is not None
        lines.append(f"- `{decision.name}` from a {thresholds.score} of {decision.at_least:g} on")
    return lines
