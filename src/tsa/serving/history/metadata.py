"""The metadata of a history store: of which market it is, what its histories are of, and under which secret keys are veiled.

A bundle may read a store if it asks for the same histories and for columns that the store has. It does not know engines.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.log.pseudonyms import Pseudonymizer
from tsa.errors import HistoryError
from tsa.serving.history.base import METADATA, HistoryStore, WriteBatch
from tsa.serving.history.reencode import encoder_hash

PLACE = (METADATA, "metadata")
VERSION = 2
OLD_PLACE = (METADATA, "charter")
"""Where version 1 kept it: a store that has something there is refused."""
_WORD = "metadata of a history store"


def read_metadata(store: HistoryStore) -> dict[str, Any] | None:
    """What the store says of itself; None for a new one. Raises HistoryError for another version."""
    places = store.read([PLACE, OLD_PLACE])
    if OLD_PLACE in places:
        raise HistoryError(
            f"this program reads history stores of version {VERSION} (got version=1); load a new one with tsa history load"
        )
    found = places.get(PLACE)
    if found is None:
        return None
    store_metadata: dict[str, Any] = orjson.loads(found.data)
    if store_metadata.get("version") != VERSION:
        rule = f"this program reads history stores of version {VERSION}"
        raise HistoryError(
            f"{rule} (got version={store_metadata.get('version')!r}); load a new one with tsa history load"
        )
    return store_metadata


def bind_store(store: HistoryStore, market: Market, encoder: Encoder) -> None:
    """Make the store one for this market and encoder, which it remembers.

    Raises HistoryError, with the differences, for a store whose histories are of other columns or shorter, whose payments
    lack columns that the market reads, or whose keys were veiled with another secret.
    """
    while True:
        found = store.read([PLACE]).get(PLACE)
        old = read_metadata(store)
        new = _store_metadata(market, encoder, old)
        if old is not None and (lines := list(_differences(old, new))):
            raise HistoryError("\n  ".join([f"the history store does not fit the bundle of {market.name}", *lines]))
        if new == old:
            return
        change = WriteBatch(
            expected_versions={PLACE: None if found is None else found.version}, puts={PLACE: orjson.dumps(new)}
        )
        if store.commit(change):
            return


def stored_market(store: HistoryStore) -> Market:
    """The market that the store was last used with. Raises HistoryError for a store that is empty."""
    store_metadata = read_metadata(store)
    if store_metadata is None:
        raise HistoryError("the history store must have been filled or served from, but it is new")
    return Market.from_dict(store_metadata["market"])


def pseudonymised(market: Market, column: str, value: str) -> str:
    """A value of a column as the store has it: a pseudonym where the market asks for one."""
    veil = Pseudonymizer.of(market)
    return veil.of_text(value) if veil is not None and column in veil.columns else value


def _store_metadata(market: Market, encoder: Encoder, old: dict[str, Any] | None) -> dict[str, Any]:
    veil = Pseudonymizer.of(market)
    columns = set(market.raw_columns)
    return {
        "version": VERSION,
        "market": market.to_dict(),
        "market_fingerprint": market.fingerprint,
        "encoding": encoder_hash(encoder).hex(),
        "histories": {history.name: [history.key_column, history.length] for history in market.history},
        "columns": sorted(columns if old is None else columns & set(old["columns"])),
        "veiled": sorted(veil.columns & columns) if veil else [],
        "secret": veil.of_text(_WORD) if veil else None,
    }


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """What keeps a bundle from reading the store."""
    for name in sorted({*old["histories"], *new["histories"]}):
        was, asked = old["histories"].get(name), new["histories"].get(name)
        if was is None or asked is None:
            yield f"history {name}: {'not in the store' if was is None else 'not in the bundle'}"
        elif was[0] != asked[0]:
            yield f"history {name}: its key is {was[0]!r} in the store, {asked[0]!r} in the bundle"
        elif was[1] < asked[1]:
            yield f"history {name}: holds {was[1]} events in the store, {asked[1]} in the bundle: load a store anew"
    features = Market.from_dict(new["market"]).features.names
    if lacking := sorted(set(features) - set(new["columns"])):
        yield f"columns {lacking}: the payments in the store do not have them"
    if old["veiled"] != new["veiled"]:
        yield f"pseudonyms: of {old['veiled']} in the store, of {new['veiled']} in the bundle"
    elif old["secret"] != new["secret"]:
        yield "pseudonyms: made with another secret"
