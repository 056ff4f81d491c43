"""Build an encoder from the legacy system's encoding artefacts, with their meaning unchanged.

There an unknown value has row 0, like padding, a missing one counts as the feature's default, and a number x becomes
x · scale + min.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tsa.config.market import Market, Numerical
from tsa.data.encoding.encoder import Encoder
from tsa.data.encoding.scaler import ImportedScaler, ScalerGroup
from tsa.data.encoding.vocabulary import ImportedVocabulary
from tsa.data.log.pseudonyms import Pseudonymizer
from tsa.errors import ArtefactError
from tsa.legacy.safe_pickle import SHOWN
from tsa.text import truncate_repr

_log = logging.getLogger(__name__)

SCALES = {"numerical": ("seq_num_scale_", "seq_num_min_"), "engineered": ("num_static_scale_", "num_static_min_")}
"""By kind of feature, the preprocessor's names of the factors and of the offsets."""


def legacy_encoder(
    market: Market,
    *,
    cat_to_index: Mapping[str, Mapping[str, int]],
    defaults: Mapping[str, str],
    preprocessor: Mapping[str, Sequence[float]],
) -> Encoder:
    """The encoder of an imported model, for a market with the legacy features in the legacy order.

    The market's transforms, scales and rare-value limits apply only to models trained here, and are ignored.

    Args:
        cat_to_index: Feature -> value -> row of the table.
        defaults: Feature -> value used for a missing one.
        preprocessor: `SCALES` names -> one number per feature.

    Raises:
        ArtefactError: Lists everything that is missing or inconsistent.
        ConfigError: If the market uses pseudonyms and the secret is not set.
    """
    refuse(
        encoder_findings(market, cat_to_index=cat_to_index, defaults=defaults, preprocessor=preprocessor),
        f"artefacts for market {market.name}",
    )
    integers, pseudonymizer = numeric_categoricals(market), Pseudonymizer.of(market)
    for feature in (*market.features.numerical, *market.features.engineered):
        if feature.transform != "none":
            _log.warning("%s: transform=%r is ignored: an imported model has none", feature.name, feature.transform)
    return Encoder(
        market_name=market.name,
        market_fingerprint=market.fingerprint,
        categorical_vocabularies=tuple(
            _vocabulary(
                feature.name,
                cat_to_index[feature.name],
                str(defaults[feature.name]),
                feature.name in integers,
                pseudonymizer,
            )
            for feature in market.features.categorical
        ),
        calendar_vocabularies=(),
        numerical_scaling=_scaling("numerical", market.features.numerical, defaults, preprocessor),
        engineered_scaling=_scaling("engineered", market.features.engineered, defaults, preprocessor),
    )


BATCHES = ("declr", "BillingAddrLatLongConfidence")
"""For rows with one history: one feature of each of the two batches of fields that the legacy handler checks."""
DECIMALS = ("fingerprintRiskValue",)
"""For rows with two histories: the features that its other handler reads as decimal numbers."""


def legacy_market(market: Market, defaults: Mapping[str, Any], age_cap_seconds: float) -> Market:
    """The market with the legacy rules for reading rows, under which the imported model was served.

    The market file's own `rules`, `batches` and `decimal_categorical` stay as they are. The cap of ages is the model's.
    Defaults of categorical features are the encoder's; those of times and ids come from default_value_dict.
    """
    if market.wire is None:
        return market
    table, names = market.to_dict(), {feature.name for feature in market.features.categorical}
    wire: dict[str, Any] = {"rules": "legacy", **table["wire"]}
    own = {"batches": BATCHES} if len(market.history) == 1 else {"decimal_categorical": DECIMALS}
    for key, features in own.items():
        if key not in wire and set(features) <= names:
            wire[key] = list(features)
    if market.wire.age_cap_seconds != age_cap_seconds:
        note = f"wire.age_cap_seconds: {market.wire.age_cap_seconds:g} is ignored"
        _log.warning("%s, the imported model uses ages up to %g s", note, age_cap_seconds)
    wire["age_cap_seconds"] = age_cap_seconds
    event = {name: defaults[name] for name in (market.event.time, market.event.id) if defaults.get(name) is not None}
    own_defaults = {name: value for name, value in table["wire"]["defaults"].items() if name not in names}
    wire["defaults"] = {**{name: str(value) for name, value in event.items()}, **own_defaults}
    return Market.from_dict({**table, "wire": wire})


def _vocabulary(
    name: str, rows: Mapping[str, int], default: str, integers: bool, pseudonymizer: Pseudonymizer | None
) -> ImportedVocabulary:
    """A pseudonymised feature is read as pseudonyms, so its known values must be pseudonyms too."""
    is_pseudonymised = pseudonymizer is not None and name in pseudonymizer.columns
    spelled = pseudonymizer.of_text if pseudonymizer is not None and is_pseudonymised else str
    return ImportedVocabulary(
        name=name,
        values=tuple(map(spelled, rows)),
        rows=tuple(map(int, rows.values())),
        default=spelled(default),
        integers=integers and not is_pseudonymised,
    )


def _scaling(
    kind: str, features: Sequence[Numerical], defaults: Mapping[str, str], preprocessor: Mapping[str, Sequence[float]]
) -> ScalerGroup:
    slopes, offsets = (preprocessor[name] for name in SCALES[kind])
    return ScalerGroup(
        tuple(
            ImportedScaler(name=f.name, slope=float(slope), offset=float(offset), default=float(defaults[f.name]))
            for f, slope, offset in zip(features, slopes, offsets, strict=True)
        )
    )


def numeric_categoricals(market: Market) -> frozenset[str]:
    """The categorical features that hold numbers and are read as integers, as [wire] says."""
    return frozenset() if market.wire is None else frozenset(market.wire.numeric_categorical)


def refuse(findings: Sequence[str], source: str) -> None:
    """Raise ArtefactError if there are findings; it lists all of them."""
    if findings:
        count = f"{len(findings)} findings" if len(findings) > 1 else "1 finding"
        raise ArtefactError("\n  ".join([f"{source}: {count}", *findings]))


def encoder_findings(
    market: Market,
    *,
    cat_to_index: Mapping[str, Any] | None,
    defaults: Mapping[str, Any] | None,
    preprocessor: Mapping[str, Any] | None,
) -> list[str]:
    """Everything that prevents an encoder for the market, one line each. None: the artefact is missing."""
    features = market.features
    findings = []
    if features.calendar:
        findings.append(f"features.calendar: an imported model has none (got {list(features.calendar)})")
    for feature in features.categorical:
        if cat_to_index is not None:
            findings += _map_findings(feature.name, cat_to_index.get(feature.name))
        default = None if defaults is None else defaults.get(feature.name)
        if defaults is not None and default is None:
            findings.append(_no_default(feature.name))
        elif not isinstance(default, str | None) and not _is_number(default):
            findings.append(f"default_value_dict: {feature.name!r} must be a text or a number (got {_shown(default)})")
    for kind, group in (("numerical", features.numerical), ("engineered", features.engineered)):
        if defaults is not None:
            findings += _default_findings(group, defaults)
        if preprocessor is not None:
            for name in SCALES[kind]:
                findings += _scale_findings(name, kind, len(group), preprocessor.get(name))
    return findings + list(_wire_findings(market, defaults or {}))


def _map_findings(name: str, rows: Any) -> Iterator[str]:
    if not isinstance(rows, Mapping):
        yield f"cat_to_index: {name!r} is required, with its values and rows (got {_shown(rows)})"
        return
    bad = [f"{_shown(value)}: {_shown(row)}" for value, row in rows.items() if not _is_row(row)]
    if bad:
        yield f"cat_to_index: rows of {name!r} must be integers from 0 (got {', '.join(bad[:5])})"


def _is_row(row: Any) -> bool:
    try:
        return not isinstance(row, bool) and int(row) == float(row) >= 0
    except (TypeError, ValueError, OverflowError):
        return False


def _no_default(name: str) -> str:
    rule = f"default_value_dict: {name!r} has no default"
    return f"{rule}: add the value for a missing one to [legacy.defaults] in the market file"


def _default_findings(features: Sequence[Numerical], defaults: Mapping[str, Any]) -> Iterator[str]:
    for feature in features:
        default = defaults.get(feature.name)
        if default is None:
            yield _no_default(feature.name)
        elif not _is_number(default):
            yield f"default_value_dict: {feature.name!r} must be a number (got {_shown(default)})"


def _wire_findings(market: Market, defaults: Mapping[str, Any]) -> Iterator[str]:
    """The market file's defaults are filled in when rows are read, so they must be those of the model's training."""
    declared = {} if market.wire is None else market.wire.defaults
    texts = {feature.name for feature in market.features.categorical} - numeric_categoricals(market)
    moment = defaults.get(market.event.time)
    if market.wire is not None and moment is not None and not _is_number(moment):
        yield f"default_value_dict: {market.event.time!r} must be a number (got {_shown(moment)})"
    for name in (*market.features.names, market.event.time):
        given, own = defaults.get(name), declared.get(name)
        if given is None or own is None or (isinstance(given, str | int | float) and str(given) == own):
            continue
        if name in texts or not (_is_number(given) and _is_number(own) and float(given) == float(own)):
            yield f"wire.defaults.{name}: must be {_shown(given)} as in default_value_dict (got {own!r})"


def _scale_findings(name: str, kind: str, length: int, values: Any) -> Iterator[str]:
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__"):
        yield f"preprocessor: {name} must be a list of numbers (got {_shown(values)})"
    elif len(values) != length:
        over = len(values) - length
        option = f"--leave-out {kind}=P,P or legacy.leave_out.{kind} in the market file"
        hint = f" ({over} too many): name the positions to leave out, counted from 0, with {option}" if over > 0 else ""
        yield f"preprocessor: {name} must have {length} numbers, one per {kind} feature (got {len(values)}{hint})"
    elif bad := [at for at, value in enumerate(values) if not _is_number(value)]:
        yield f"preprocessor: {name} must hold finite numbers (got {_shown(values[bad[0]])} at {bad[0]})"


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool | np.bool_) and math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def _shown(value: Any) -> str:
    return "nothing" if value is None else truncate_repr(value, SHOWN)
