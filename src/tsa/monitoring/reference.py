"""The reference that payments are compared with: bins, operating points, and the counts of reference payments.

It is stored as `reference.json` and can be reused, so that the reference payments are scored only once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from tsa.bundle.bundle import Bundle
from tsa.config.tables import Monitoring
from tsa.errors import ConfigError
from tsa.evaluation.top_k import bundle_k
from tsa.monitoring.bin_counts import Counts, Feature
from tsa.monitoring.feature_bins import count_features, features_of
from tsa.monitoring.performance import performance
from tsa.monitoring.scores import (
    OperatingPoint,
    count_days,
    count_points,
    count_scores,
    decision_points,
    operating_points,
    score_feature,
)
from tsa.monitoring.windows import ScoredWindow, Windows, iso_time, shown_facts
from tsa.progress import Progress, silent

KIND, VERSION = "tsa monitoring reference", 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Counts of the n payments of a reference. `source` describes where they are from."""

    source: str
    model: str
    """The `fingerprint` of the bundle that the counts were made with."""
    facts: Mapping[str, Any]
    """start, end, n."""
    as_of: str
    features: Sequence[Feature]
    counts: Sequence[Counts]
    score: Feature
    score_counts: Counts
    points: Sequence[OperatingPoint]
    above: Sequence[int]
    """(P,) payments at or above each operating point."""
    by_weekday: Sequence[float] | None
    """(7,) payments per day, Monday first."""
    performance: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        seen: ScoredWindow,
        source: str,
        settings: Monitoring,
        *,
        as_of: float,
        replicates: int,
        progress: Progress = silent,
    ) -> Self:
        """Make the reference from scored payments."""
        full_range = Windows.full_range(seen.start, seen.end)
        features, score = features_of(seen), score_feature(seen)
        points = operating_points(bundle, seen, settings.top_shares)
        measure: dict[str, Any] = {"as_of": as_of, "min_frauds": settings.min_frauds, "replicates": replicates}
        measured = performance(seen, full_range, **measure, top_k=bundle_k(bundle), progress=progress)
        return cls(
            source=source,
            model=fingerprint(bundle),
            facts=shown_facts(seen),
            as_of=iso_time(as_of),
            features=features,
            counts=count_features(seen, features, full_range),
            score=score,
            score_counts=count_scores(seen, score, full_range),
            points=points,
            above=count_points(seen, points, full_range)[0].tolist(),
            by_weekday=count_days(seen).by_weekday(),
            performance=measured[0],
        )

    def check(self, bundle: Bundle, settings: Monitoring, path: Path) -> None:
        """Check that the reference fits the bundle and the settings.

        Raises:
            ConfigError: If it was made with another model or with other operating points.
        """
        if self.model != fingerprint(bundle):
            raise ConfigError(f"{path} must be made with the monitored bundle (got a reference of another model)")
        expected = sorted(settings.top_shares)
        made = sorted(point.share for point in self.points if point.share is not None)
        decided = [point for point in self.points if point.share is None]
        if expected != made or decided != decision_points(bundle):
            raise ConfigError(
                f"{path} must have the operating points of the market and the bundle (they have changed); "
                "create it again from the payments of the reference"
            )

    def to_dict(self) -> dict[str, Any]:
        """The reference as plain JSON values."""
        return {
            "kind": KIND,
            "version": VERSION,
            "source": self.source,
            "model": self.model,
            "facts": dict(self.facts),
            "as_of": self.as_of,
            "features": [asdict(feature) for feature in self.features],
            "counts": [counts.to_dict() for counts in self.counts],
            "score": asdict(self.score),
            "score_counts": self.score_counts.to_dict(),
            "points": [asdict(point) for point in self.points],
            "above": list(self.above),
            "by_weekday": None if self.by_weekday is None else list(self.by_weekday),
            "performance": dict(self.performance),
        }

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load a reference.json.

        Raises:
            ConfigError: If the file is not a reference that `to_dict` wrote.
        """
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            if (table["kind"], table["version"]) != (KIND, VERSION):
                raise ConfigError(f"{path} must be a {KIND} of version {VERSION} (got {table['kind']!r})")
            return cls._from_dict(table)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} must be a reference.json of tsa monitor (got {error!r})") from None

    @classmethod
    def _from_dict(cls, table: Mapping[str, Any]) -> Self:
        plain = {key: table[key] for key in ("source", "model", "facts", "as_of", "above", "by_weekday", "performance")}
        return cls(
            features=[_feature(entry) for entry in table["features"]],
            counts=[Counts.from_dict(entry) for entry in table["counts"]],
            score=_feature(table["score"]),
            score_counts=Counts.from_dict(table["score_counts"]),
            points=[OperatingPoint(**entry) for entry in table["points"]],
            **plain,
        )


def _feature(table: Mapping[str, Any]) -> Feature:
    return Feature(**{**table, "edges": tuple(table["edges"]), "values": tuple(table["values"])})


def fingerprint(bundle: Bundle) -> str:
    """sha256 of the model, the encoder and the calibration; equal for bundles that give the same scores."""
    calibration = None if bundle.calibration is None else bundle.calibration.to_dict()
    rest = json.dumps([bundle.encoder.to_dict(), calibration], sort_keys=True)
    return hashlib.sha256(bundle.model_sha256.encode() + rest.encode()).hexdigest()
