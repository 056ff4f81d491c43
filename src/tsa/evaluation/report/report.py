"""Write report.json and report.html of an evaluation: the metrics for machines, and a self-contained page for people.

The page contains its style and charts (SVG), no script and no network access, and a policy that forbids both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tsa.evaluation.report import data_summary, formatting, sections, sentences
from tsa.evaluation.report.calibration import calibration
from tsa.evaluation.report.json_values import to_plain as to_plain
from tsa.evaluation.report.timelines import reasons
from tsa.evaluation.report.warnings import warnings_of
from tsa.files.writing import write_json, write_text

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


PACKAGE = "tsa.evaluation.report"


def write_report(out: Path, report: Mapping[str, Any]) -> None:
    """Write report.json and report.html into the folder `out`, each atomically.

    report: title, created, market, data, model, training, evaluation (from evaluate_scores), calibration (from
    assess_calibration), parts (from compare_parts) or None, reasons (from explain_riskiest), comparison or None,
    environment; and, for payments other than the test range of a run, their name `called` and `notes`. Numbers that
    are not finite become null.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    plain = to_plain(report)
    made = render(plain)
    write_json(out / "report.json", plain)
    write_text(out / "report.html", made)


def render(report: Mapping[str, Any]) -> str:
    """The page of a plain report (see to_plain)."""
    return page("report.html", view(report))


def page(template: str, shown: Mapping[str, Any], package: str = PACKAGE) -> str:
    """A self-contained page from a template of a package; included templates may be in this package."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name, "") for name in (package, PACKAGE)]),
        autoescape=True,
        finalize=_printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("count", "share", "decimal", "moment"):
        environment.filters[name] = getattr(formatting, name)
    return environment.get_template(template).render(shown)


def view(report: Mapping[str, Any]) -> dict[str, Any]:
    """The values that the template shows, by section."""
    evaluation, comparison = report["evaluation"], report.get("comparison")
    return {
        "title": report.get("title") or "Fraud report",
        "created": report.get("created"),
        "market": (report.get("market") or {}).get("name"),
        "headline": sentences.headline(evaluation, comparison),
        "operating_point": sentences.operating_point(evaluation, comparison),
        "decision": sentences.decision(evaluation),
        "evaluation": evaluation,
        "called": report.get("called") or "test payments",
        "notes": report.get("notes") or [],
        "warnings": warnings_of(report),
        "history_weights": report.get("history_weights"),
        "confidence": formatting.share(evaluation["settings"]["confidence"], digits=0),
        "other": comparison["model_name"] if comparison else None,
        "note": (comparison or {}).get("note"),
        "key_figures": sections.key_figures(evaluation, comparison),
        "charts": sections.evaluation_charts(evaluation, comparison),
        "metrics": sections.metric_rows(evaluation, comparison),
        "features": sections.features(comparison),
        "model_parts": sections.model_parts(report.get("parts"), comparison),
        "parts": sections.part_tables(evaluation, comparison),
        "calibration": calibration(report.get("calibration"), report.get("place") or "the test range"),
        "reasons": reasons(report.get("reasons")),
        "training": sections.training(report.get("training") or {}),
        "data": data_summary.summarize_data(report.get("data") or {}),
        "settings": data_summary.settings(report),
    }


def _printable(value: Any) -> Any:
    """Text without characters that HTML does not allow; the template escapes the rest."""
    if isinstance(value, Markup):
        return Markup(_UNPRINTABLE.sub("\ufffd", value))
    return _UNPRINTABLE.sub("\ufffd", value) if isinstance(value, str) else value
