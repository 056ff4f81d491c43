"""Import a folder of the legacy system (weights and artefacts) as a bundle that gives the same three scores.

Everything is read and checked first, and one error lists all that is missing or inconsistent. Start with
`import_legacy`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tsa.bundle.bundle import Bundle
from tsa.calibration.calibration import Calibration
from tsa.config.market import LegacyArtifacts, Market
from tsa.errors import ArtefactError, ConfigError, TSAError
from tsa.files.writing import sha256_of
from tsa.legacy.artifacts import BSPLINE, PERCENTILES, read_bspline, read_percentiles, read_table, read_weights
from tsa.legacy.encoder import SCALES, encoder_findings, legacy_encoder, legacy_market, refuse
from tsa.legacy.safe_pickle import SHOWN, read_pickle
from tsa.legacy.weights import ARGUMENTS, TWO, reference_network, without_prefixes
from tsa.model import TSANetwork
from tsa.text import truncate_repr

ENCODING = ("cat_to_index.json", "default_value_dict.json", "preprocessor.pkl")
ARTEFACTS: dict[str, Callable[[Path], Any]] = {
    "cat_to_index.json": read_table,
    "default_value_dict.json": read_table,
    "preprocessor.pkl": read_pickle,
    PERCENTILES: read_percentiles,
    BSPLINE: read_bspline,
}
ABSENT = {
    PERCENTILES: ("percentile", f"the imported folder had no {PERCENTILES}; `tsa calibrate` fits percentiles to a log"),
    BSPLINE: ("probability", f"the imported folder had no {BSPLINE}; `tsa calibrate` fits probabilities to a log"),
}
"""Files that the legacy system does not always write: the score that is missing without them, and why."""
WEIGHTS = (".pt", ".pth", ".bin", ".safetensors")
COUNTS = {"n_cat_features": "categorical", "n_num_features": "numerical", "n_engineered_num_features": "engineered"}
"""Constructor arguments that must equal the number of features in the market file, by kind."""


_log = logging.getLogger(__name__)


@dataclass
class _ImportState:
    """The files read so far, by name, and the errors of the others."""

    read: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Remarks on valid files."""
    reasons: dict[str, str] = field(default_factory=dict)
    """By score that the bundle will not have: why."""

    def lacks(self, score: str, reason: str) -> None:
        """Record that the bundle will not have a score."""
        self.reasons[score] = reason
        self.notes.append(f"There is no {score} score: {reason}.")

    def take(self, name: str, path: Path, reader: Callable[[Path], Any]) -> None:
        """Read a file, or record why it cannot be read."""
        if not path.is_file():
            self.findings.append(f"{path.name} is missing")
            return
        try:
            self.read[name], self.paths[name] = reader(path), path
        except TSAError as error:
            self.findings.append(str(error))


def import_legacy(
    folder: str | Path, market: Market, *, weights: Path | None = None, config: Path | None = None
) -> Bundle:
    """A bundle of the legacy model in `folder`, for a market with the legacy features in the legacy order.

    The folder contains the weights (one .pt, .pth, .bin or .safetensors), the constructor arguments (one more .json) and
    the five artefacts. Without `percentile_score.pkl` the bundle has no percentiles, without `bspline_parameters.json`
    no probabilities, and a note says so. The market's `[legacy]` section gives positions of the scales to leave out, and
    defaults that the folder lacks. Nothing in the files is executed.

    Args:
        weights: The weights file, if several files could be it.
        config: The file of constructor arguments, if several files could be it.

    Raises:
        ArtefactError: Lists everything that is missing, malicious or inconsistent.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ArtefactError(
            f"{folder} must be a folder with the legacy system's weights and artefacts (it is not a folder)"
        )
    state = _ImportState()
    _read_all(state, folder, weights, config)
    _complete(state, market)
    state.findings += _inconsistencies(market, state.read)
    network = _network(state)
    refuse(state.findings, str(folder))
    assert network is not None
    cat_to_index, defaults, preprocessor = (state.read[name] for name in ENCODING)
    for note in state.notes:
        _log.warning("%s", note)
    market = legacy_market(market, defaults, network.config.age_cap_seconds)
    network = _with_histories(network, tuple(history.name for history in market.history))
    return Bundle(
        market=market,
        encoder=legacy_encoder(market, cat_to_index=cat_to_index, defaults=defaults, preprocessor=preprocessor),
        config=network.config,
        network=network,
        training={"imported": _account(state), "sampling_rate_genuine": None},
        calibration=_calibration(state),
    )


def _calibration(state: _ImportState) -> Calibration:
    percentile, probability = state.read.get(PERCENTILES), state.read.get(BSPLINE)
    return Calibration(percentile=percentile, probability=probability, reasons=state.reasons)


def _read_all(state: _ImportState, folder: Path, weights: Path | None, config: Path | None) -> None:
    noting: dict[str, Callable[[Path], Any]] = {
        PERCENTILES: partial(read_percentiles, notes=state.notes),
        BSPLINE: partial(read_bspline, notes=state.notes),
    }
    for name, reader in ARTEFACTS.items():
        if name in ABSENT and not (folder / name).exists():
            state.lacks(*ABSENT[name])
            continue
        state.take(name, folder / name, noting.get(name, reader))
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    other_files = [path for path in files if path.suffix.lower() == ".json" and path.name not in ARTEFACTS]
    if path := config or _only(
        state, "constructor arguments", "--config", "a .json file in addition to the artefacts", other_files
    ):
        state.take("config", path, read_table)
    candidates = [path for path in files if path.suffix.lower() in WEIGHTS]
    if path := weights or _only(state, "weights", "--weights", "a .pt, .pth, .bin or .safetensors file", candidates):
        state.take("weights", path, read_weights)
    if (table := state.read.get("preprocessor.pkl")) is not None and not isinstance(table, dict):
        state.findings.append(f"preprocessor.pkl must hold a dict (got {type(table).__name__})")
        del state.read["preprocessor.pkl"]


def _complete(state: _ImportState, market: Market) -> None:
    """Leave out the positions, and fill in the defaults, given in the market file."""
    settings = market.legacy or LegacyArtifacts()
    if (preprocessor := state.read.get("preprocessor.pkl")) is not None:
        for kind, names in SCALES.items():
            positions = getattr(settings.leave_out, kind)
            for name in names if positions else ():
                preprocessor = {**preprocessor, name: _without(state, name, kind, preprocessor.get(name), positions)}
        state.read["preprocessor.pkl"] = preprocessor
    if (defaults := state.read.get("default_value_dict.json")) is not None:
        wire = {} if market.wire is None else market.wire.defaults
        filled = {name: value for name, value in {**wire, **settings.defaults}.items() if defaults.get(name) is None}
        for name, own in settings.defaults.items():
            if name not in filled and str(defaults[name]) != own:
                rule = f"must be {truncate_repr(defaults[name], SHOWN)} as in default_value_dict, or be left out"
                state.findings.append(f"legacy.defaults.{name}: {rule} (got {own!r})")
        if filled:
            values = ", ".join(f"{name} {value!r}" for name, value in filled.items())
            state.notes.append(f"default_value_dict.json has no default of {values}: taken from the market file")
        state.read["default_value_dict.json"] = {**defaults, **filled}


def left_out(text: str) -> str:
    """`KIND=P,P` as an override of the market. Raises ConfigError for anything else."""
    kind, _, positions = text.partition("=")
    places = [place.strip() for place in positions.split(",")]
    if kind.strip() not in SCALES or not all(place.isdecimal() for place in places):
        raise ConfigError(f"--leave-out must be KIND=P,P with KIND one of {', '.join(SCALES)} (got {text!r})")
    return f"legacy.leave_out.{kind.strip()}=[{', '.join(places)}]"


def _without(state: _ImportState, name: str, kind: str, values: Any, positions: Sequence[int]) -> Any:
    """A list of the preprocessor without the positions. If it is not a list it is returned unchanged; other checks
    report that.
    """
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__"):
        return values
    if beyond := [at for at in positions if at >= len(values)]:
        rule = f"must be positions of {name}, which has {len(values)} numbers, counted from 0"
        state.findings.append(f"legacy.leave_out.{kind}: {rule} (got {beyond})")
        return values
    out = set(positions)
    state.notes.append(f"{name}: {len(out)} of {len(values)} numbers are left out, at {sorted(out)}")
    return [value for at, value in enumerate(values) if at not in out]


def _only(state: _ImportState, what: str, option: str, kind: str, paths: Sequence[Path]) -> Path | None:
    """The only file of a kind; otherwise an error is recorded."""
    if len(paths) == 1:
        return paths[0]
    names = ", ".join(path.name for path in paths)
    rule = f"must be one file, or be named by {option} (got {names})" if paths else f"{kind} is missing"
    state.findings.append(f"{what}: {rule}")
    return None


def _network(state: _ImportState) -> TSANetwork | None:
    """The legacy network; None if it cannot be made, with the errors recorded."""
    if "config" not in state.read or "weights" not in state.read:
        return None
    try:
        return reference_network(state.read["config"], state.read["weights"])
    except TSAError as error:
        name = state.paths["weights"].name
        state.findings += [f"{name}: {line}" for line in str(error).split("; ")]
        return None


def _with_histories(network: TSANetwork, names: tuple[str, ...]) -> TSANetwork:
    """The network with the market's history names. They are matched by name if they are the legacy system's, else by
    order, the customer's first.
    """
    if set(names) == set(network.config.histories):
        return network
    with torch.device("meta"):
        renamed = TSANetwork(network.config.replace(histories=names))
    renamed.load_state_dict(network.state_dict(), assign=True)
    return renamed.eval()


def _inconsistencies(market: Market, read: Mapping[str, Any]) -> list[str]:
    """Errors between files: each may be valid alone and still not fit the market file or the others."""
    cat_to_index, defaults, preprocessor = (read.get(name) for name in ENCODING)
    findings = encoder_findings(market, cat_to_index=cat_to_index, defaults=defaults, preprocessor=preprocessor)
    if "config" in read:
        config = {**ARGUMENTS, **read["config"]}
        findings += _count_findings(market, config)
        findings += _row_findings(market, cat_to_index or {}, config)
    if "weights" in read:
        findings += _history_findings(market, read["weights"])
    return findings


def _count_findings(market: Market, config: Mapping[str, Any]) -> Iterator[str]:
    for argument, kind in COUNTS.items():
        if (count := len(getattr(market.features, kind))) != _integer(config[argument]):
            yield f"features.{kind}: must be as many as {argument}={config[argument]} (got {count})"
    for history in market.history:
        if history.length != _integer(config["seq_len"]):
            rule = f"length must be seq_len={config['seq_len']}"
            yield f"history {history.name}: {rule} (got {history.length})"


def _row_findings(market: Market, cat_to_index: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """Rows beyond the categorical ones of the table: the rows after these belong to the numerical features."""
    size, others = _integer(config["n_embedding"]), _integer(config["n_num_features"])
    if size is None or others is None:
        return  # reported by another check
    last = size - others
    for feature in market.features.categorical:
        rows = cat_to_index.get(feature.name)
        items = rows.items() if isinstance(rows, dict) else ()
        beyond = [f"{value!r}: {row}" for value, row in items if _beyond(row, last)]
        if beyond:
            rule = f"rows of {feature.name!r} must be at most n_embedding - n_num_features = {last}"
            yield f"cat_to_index: {rule} (got {', '.join(beyond[:5])})"


def _integer(value: Any) -> int | None:
    """A constructor argument as an integer, since JSON may hold 160.0 or "160"; None if it is none."""
    try:
        return int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None


def _beyond(row: Any, last: int) -> bool:
    try:
        return int(row) > last
    except (TypeError, ValueError, OverflowError):
        return False  # reported by another check


def _history_findings(market: Market, state: Mapping[str, Any]) -> Iterator[str]:
    marks = ("order_attention_cid.", "gate_emb.")
    count = len(TWO) if any(name.startswith(marks) for name in without_prefixes(state)) else 1
    names = [history.name for history in market.history]
    if len(names) != count:
        yield f"history: the weights are of {count} histories, but the market has {', '.join(names)}"


def _account(state: _ImportState) -> dict[str, Any]:
    """The origin for the bundle: each file with its sha256, and the constructor arguments."""
    files = {path.name: sha256_of(path) for path in state.paths.values()}
    return {"files": files, "arguments": state.read["config"], "notes": list(state.notes)}
