"""Histories whose key is named by several columns: an account that is the sender here and the receiver there.

An event has a place in the history of each of its keys, one if several columns name the same key. Its role there is the
column that names the key. Roles are determined by comparing tokens (`tsa.data.raw_values`), in logs and single payments alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.config.market import HistoryConfig, HistoryView, Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.history import ComparedKeys, HistoryIndex, RoleEncoding, apply_retention, index_histories, without_asking
from tsa.data.raw_values import MISSING_TOKEN, key_token_columns

Array = NDArray[Any]

PARTNER = "partner"
"""The other key of an event in a history with two columns of keys, whichever of them it is in."""


def find_roles(own: Array, tokens: Array, column: Array | int) -> NDArray[np.int8]:
    """(m,) the role of events: the number of the column that names the key, or K if several do.

    Args:
        own: (m,) token of the key.
        tokens: (m, K) tokens of the columns that name keys.
        column: (m,) or one number: the role where the key is missing, or no column names it.
    """
    same = (tokens == own[:, None]) & (own != MISSING_TOKEN)[:, None]
    count = same.sum(axis=1)
    roles = np.where(count == 0, column, np.where(count == 1, same.argmax(axis=1), tokens.shape[1]))
    return roles.astype(np.int8)


def index_views(
    history: HistoryConfig,
    codes: Array,
    tokens: Array,
    time_seconds: Array,
    retention_seconds: float,
    length: int,
    asks: Array | None = None,
) -> dict[str, HistoryIndex]:
    """The index of each view of a history with several columns, by name, for a log of n events in time order.

    Args:
        codes: (n, K) codes of the keys, the same for a key in any column; negative for none.
        tokens: (n, K) their tokens.
        time_seconds: (n,)
        retention_seconds: Events older than this, seen from a payment, are not part of its history.
        length: Events that rows which only ask see of a key, themselves included.
        asks: (n,) which events only ask; None if there are none.
    """
    event, column, place = own_places(codes)
    index = index_histories(codes[event, column])
    if np.isfinite(retention_seconds):
        index = apply_retention(index, np.asarray(time_seconds)[event], retention_seconds)
    roles = find_roles(tokens[event, column], tokens[event], column)
    order, role = event[index.order], roles[index.order]
    views = {}
    for at, view in enumerate(history.views):
        own = HistoryIndex(order, index.position[place[:, at]], index.start[place[:, at]], role)
        views[view.name] = own if asks is None else without_asking(own, asks, length)
    return views


def own_places(codes: Array) -> tuple[Array, Array, Array]:
    """The places that n events have in the histories of their keys, one for each different key.

    Args:
        codes: (n, K) as for `index_views`.

    Returns:
        (m,) the event and the column of each place, in the order of the events, and (n, K) the place of each key.
    """
    first = first_columns(codes)
    is_own = first == np.arange(codes.shape[1])
    place = np.cumsum(is_own.ravel()).reshape(codes.shape) - 1
    event, column = np.nonzero(is_own)
    return event, column, np.take_along_axis(place, first, axis=1)


def first_columns(codes: Array) -> NDArray[np.int64]:
    """(n, K) the first column with the same key. An event has a place of its own only where that is the column itself.

    Args:
        codes: (n, K) as for `index_views`; events without a key have a place of their own.
    """
    first = np.empty(codes.shape, np.int64)
    for column in range(codes.shape[1]):
        same = (codes == codes[:, [column]]) & (codes[:, [column]] >= 0)
        same[:, column] = True
        first[:, column] = same.argmax(axis=1)
    return first


def token_places(market: Market, history: HistoryConfig) -> list[int]:
    """The columns of `EventArrays.tokens` with the keys of a history, in the order of its `columns`."""
    where = key_token_columns(market)
    return [where[view.name] for view in history.views]


def with_columns(market: Market, encoder: Encoder, histories: Mapping[str, HistoryIndex]) -> dict[str, HistoryIndex]:
    """The indices with the columns that a network reads of them: those of compared keys and of roles."""
    indices = dict(histories)
    if names := compared_keys(market):
        indices = {
            view.name: replace(histories[view.name], compared=ComparedKeys(names, _compared(market, view, len(names))))
            for view in market.views
        }
    for history in market.history:
        if history.keys is not None:
            encoding = role_encoding(encoder, history.role_name)
            indices |= {view.name: replace(indices[view.name], encoding=encoding) for view in history.views}
    return indices


def compared_keys(market: Market) -> tuple[str, ...]:
    """The keys by which earlier events are compared with the current one, by the name of their view of a history.

    Has this customer been at this merchant, has this sender paid this receiver? `PARTNER` is the other key of an event in a
    history with two columns of keys. Rows that carry their own history have no keys to compare.
    """
    if market.wire is not None:
        return ()
    keys = sorted(view.name for view in market.views if view.key is not None)
    if len(keys) == 1:  # all events of its history have it
        return ()
    return (*keys, PARTNER) if any(len(view.columns) == 2 for view in market.views if view.has_roles) else tuple(keys)


def _compared(market: Market, view: HistoryView, count: int) -> tuple[int | tuple[int, int] | None, ...]:
    """`ComparedKeys.columns` of `count` keys. The own key of a history is not compared, unless its events have roles."""
    where = key_token_columns(market)
    columns = [None if name == view.name and not view.has_roles else column for name, column in where.items()]
    if len(columns) == count:
        return tuple(columns)
    history = next(history for history in market.history if view in history.views)
    first, *others = token_places(market, history)
    return (*columns, (first, others[0]) if len(others) == 1 else None)


def role_encoding(encoder: Encoder, name: str) -> RoleEncoding:
    """Where the encoder puts the roles of one history."""
    vocabulary = next(vocabulary for vocabulary in encoder.role_vocabularies if vocabulary.name == name)
    return RoleEncoding(column=encoder.categorical_names.index(name), first_row=vocabulary.known_row)
