"""The report of a fitted model: it displays itself in a notebook, can be saved, and opened in a browser."""

from __future__ import annotations

import html
import tempfile
import webbrowser
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tsa.files.writing import need_suffix, write_json, write_text

HEIGHT = 720
"""Pixels of the report in a notebook."""


@dataclass(frozen=True)
class Report:
    """What a model reached on the newest part of the frame it was fitted on, compared with LightGBM."""

    content: Mapping[str, Any]
    """As in report.json."""
    html: str = field(repr=False)
    """The page, with everything it needs."""

    def save(self, path: str | Path) -> Path:
        """Write the report. Returns the path.

        Args:
            path: Ends in .html for the page, in .json for the numbers.

        Raises:
            ConfigError: For another suffix.
        """
        path = Path(path)
        need_suffix("path", path, ".html", ".json")
        if path.suffix == ".json":
            write_json(path, self.content)
        else:
            write_text(path, self.html)
        return path

    def open(self) -> Path:
        """Open the page in the browser. Returns the path of a temporary file."""
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", prefix="tsa-report-", suffix=".html", delete=False
        ) as file:
            file.write(self.html)
        webbrowser.open(Path(file.name).as_uri())
        return Path(file.name)

    @property
    def metrics(self) -> dict[str, float | None]:
        """The metrics on the test range by name."""
        return {name: metric["value"] for name, metric in self.content["evaluation"]["metrics"].items()}

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that its style does not change the notebook."""
        page = html.escape(self.html, quote=True)
        return f'<iframe srcdoc="{page}" sandbox style="width: 100%; height: {HEIGHT}px; border: 0"></iframe>'

    def __str__(self) -> str:
        evaluation, comparison = self.content["evaluation"], self.content.get("comparison")
        reached = evaluation["metrics"]["average_precision"]["value"]
        lines = [f"{evaluation['n']:,} test payments, {evaluation['frauds']:,} frauds: average precision {reached:.3f}"]
        lines += [comparison["summary"]] if comparison else []
        return "\n".join(lines)
