"""Publish the candidate of a round, and promote it. What a round returns is here too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsa.errors import RegistryError
from tsa.evaluation.promotion.gate import gate_sentence
from tsa.evaluation.trained_run import TrainedRun
from tsa.registry import AliasEntry, Registry


@dataclass(frozen=True, kw_only=True)
class Retrained:
    """The result of a round."""

    run: Path
    """The run folder, with report.html, retrain.html and gate.json."""
    candidate: str
    """sha256 of the new bundle."""
    champion: str | None
    """sha256 of the bundle that it was compared with; None for the first."""
    gate: Mapping[str, Any]
    promoted: bool
    """Whether the alias names the candidate now."""
    summary: str

    @property
    def passed(self) -> bool:
        """Whether the candidate passes the gate."""
        return bool(self.gate["passed"])


@dataclass(frozen=True, kw_only=True)
class Aliases:
    """Who moves which aliases of a registry."""

    registry: Registry
    champion: str
    challenger: str
    by: str
    promote: bool
    signing_key: bytes | None = None


def published(run: TrainedRun, gate: Mapping[str, Any], aliases: Aliases) -> Retrained:
    """Publish the candidate, and promote it if that is asked for and it passes the gate, unless it was rolled back."""
    registry, sentence = aliases.registry, gate_sentence(gate)
    version = registry.publish(run.path / "bundle", by=aliases.by, note=sentence)
    evidence = {name: value for name, value in gate.items() if name != "asked"}
    move: dict[str, Any] = {"by": aliases.by, "why": sentence, "evidence": evidence}
    registry.promote(version.sha256, aliases.challenger, **move)
    before = registry.history(aliases.champion)
    if before and before[-1].sha256 == version.sha256:
        return result_of(
            run, gate, promoted=True, summary=f"{version.short} is the {aliases.champion} already. {sentence}"
        )
    if not gate["passed"]:
        summary = f"{version.short} is published as {aliases.challenger} and not promoted. {sentence}"
    elif not aliases.promote:
        summary = f"{version.short} is published as {aliases.challenger}. {sentence} --promote was not given."
    elif any(entry.sha256 == version.sha256 for entry in before):
        summary = f"{version.short} was {aliases.champion} before and was replaced: promote it by hand. {sentence}"
    else:
        _refuse_other_champion(before, gate, aliases.champion)
        registry.promote(version.sha256, aliases.champion, seen=before, **move)
        return result_of(run, gate, promoted=True, summary=f"{version.short} is the new {aliases.champion}. {sentence}")
    return result_of(run, gate, promoted=False, summary=summary)


def _refuse_other_champion(moves: list[AliasEntry], gate: Mapping[str, Any], alias: str) -> None:
    """Raise RegistryError if the alias names another version than the one that the candidate was compared with."""
    now = moves[-1] if moves else None
    compared = gate["champion"]["sha256"] if gate["champion"] else None
    if now is not None and now.sha256 != compared:
        raise RegistryError(
            f"{now.by} moved {alias} to {now.sha256[:12]} during this round, so nothing was promoted; "
            "the same call compares with that version"
        )


def result_of(run: TrainedRun, gate: Mapping[str, Any], *, promoted: bool, summary: str) -> Retrained:
    """The result of a round."""
    candidate, champion = gate["candidate"], gate["champion"]
    return Retrained(
        run=run.path,
        candidate=candidate["sha256"],
        champion=None if champion is None else champion["sha256"],
        gate=gate,
        promoted=promoted,
        summary=summary,
    )
