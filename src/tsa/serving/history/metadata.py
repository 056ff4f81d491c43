"""The metadata of a history store: its market, histories, columns, and a check value of the pseudonym secret.

`bind_store` checks that a bundle fits: the same histories, and only columns that the store has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.log.pseudonyms import Pseudonymizer
from tsa.errors import HistoryError
from tsa.serving.history.base import METADATA, HistoryStore, WriteBatch
from tsa.serving.history.reencode import encoder_hash

PLACE = (METADATA, "metadata")
VERSION = 4
OLD_PLACE = (METADATA, "charter")
"""Key of the metadata in version 1: a store that has it is refused."""
_WORD = "metadata of a history store"


def read_metadata(store: HistoryStore) -> dict[str, Any] | None:
    """Read the metadata; None for a new store. Raises HistoryError for another version of the format."""
    places = store.read([PLACE, OLD_PLACE])
    if OLD_PLACE in places:
        raise HistoryError(
            f"this program reads history stores of version {VERSION} (got version=1); load a new one with tsa history load"
        )
    stored = places.get(PLACE)
    if stored is None:
        return None
    store_metadata: dict[str, Any] = orjson.loads(stored.data)
    if store_metadata.get("version") != VERSION:
        rule = f"this program reads history stores of version {VERSION}"
        raise HistoryError(
            f"{rule} (got version={store_metadata.get('version')!r}); load a new one with tsa history load"
        )
    return store_metadata


def bind_store(store: HistoryStore, market: Market, encoder: Encoder, lengths: Mapping[str, int]) -> dict[str, int]:
    """Check that the store fits this market and encoder, and store their metadata in it.

    Args:
        lengths: Events of each history that a score depends on (`Bundle.visible_lengths`).

    Returns:
        How many events of each history the store has to hold: `lengths`, or more if it was first used with a bundle that
        reads more, so that this bundle may be used again.

    Raises:
        HistoryError: with the differences: the histories have other columns or are shorter, the payments lack columns
            that the market reads, or the keys were pseudonymized with another secret.
    """
    while True:
        stored = store.read([PLACE]).get(PLACE)
        old = read_metadata(store)
        new = _store_metadata(market, encoder, lengths, old)
        if old is not None:
            _refuse_differences(old, new)
            new["histories"] = old["histories"]  # as long as they were, or longer than this bundle needs
        holds = {name: length for name, (_, length) in new["histories"].items()}
        if new == old:
            return holds
        change = WriteBatch(
            expected_versions={PLACE: None if stored is None else stored.version}, puts={PLACE: orjson.dumps(new)}
        )
        if store.commit(change):
            return holds


def check_store(store: HistoryStore, market: Market, encoder: Encoder, lengths: Mapping[str, int]) -> None:
    """As `bind_store`, but nothing is written; a new store fits."""
    if (old := read_metadata(store)) is not None:
        _refuse_differences(old, _store_metadata(market, encoder, lengths, old))


def stored_market(store: HistoryStore) -> Market:
    """The market that the store was last used with. Raises HistoryError for a new store."""
    store_metadata = read_metadata(store)
    if store_metadata is None:
        raise HistoryError(
            "the history store must have been used before (got a new store): load it with tsa history load"
        )
    return Market.from_dict(store_metadata["market"])


def pseudonymised(market: Market, column: str, value: str) -> str:
    """A value of a column as stored: pseudonymized where the market asks for it."""
    pseudonymizer = Pseudonymizer.of(market)
    return pseudonymizer.of_text(value) if pseudonymizer is not None and column in pseudonymizer.columns else value


def _store_metadata(
    market: Market, encoder: Encoder, lengths: Mapping[str, int], old: dict[str, Any] | None
) -> dict[str, Any]:
    pseudonymizer = Pseudonymizer.of(market)
    columns = set(market.raw_columns)
    return {
        "version": VERSION,
        "market": market.to_dict(),
        "market_fingerprint": market.fingerprint,
        "encoding": encoder_hash(encoder).hex(),
        "histories": {h.name: [h.key if h.keys is None else list(h.keys), lengths[h.name]] for h in market.history},
        "columns": sorted(columns if old is None else columns & set(old["columns"])),
        "pseudonymised": sorted(pseudonymizer.columns & columns) if pseudonymizer else [],
        "secret": pseudonymizer.of_text(_WORD) if pseudonymizer else None,
    }


def _derivations(market: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """How each derived feature of a market is computed."""
    return {feature["name"]: feature for feature in market["features"].get("derived", ())}


def _refuse_differences(old: dict[str, Any], new: dict[str, Any]) -> None:
    if lines := list(_differences(old, new)):
        name = new["market"]["name"]
        raise HistoryError("\n  ".join([f"the history store does not fit the bundle of {name}", *lines]))


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """The differences that prevent a bundle from reading the store."""
    for name in sorted({*old["histories"], *new["histories"]}):
        was, asked = old["histories"].get(name), new["histories"].get(name)
        if was is None or asked is None:
            yield f"history {name}: {'not in the store' if was is None else 'not in the bundle'}"
        elif was[0] != asked[0]:
            yield f"history {name}: its key is {was[0]!r} in the store, {asked[0]!r} in the bundle"
        elif was[1] < asked[1]:
            yield f"history {name}: holds {was[1]} events in the store, {asked[1]} in the bundle: load a new store"
    was_derived, derived = (_derivations(metadata["market"]) for metadata in (old, new))
    for name in sorted(derived.keys() & set(old["columns"])):
        if was_derived.get(name) != derived[name]:
            yield f"features.derived.{name}: computed from {was_derived.get(name)} in the store, {derived[name]} in the bundle"
    features = Market.from_dict(new["market"]).features.names
    if missing := sorted(set(features) - set(new["columns"])):
        yield f"columns {missing}: the payments in the store do not have them"
    if old["pseudonymised"] != new["pseudonymised"]:
        yield f"pseudonymized columns: {old['pseudonymised']} in the store, {new['pseudonymised']} in the bundle"
    elif old["secret"] != new["secret"]:
        yield "pseudonyms: the store was written with another secret"
