"""Look up the embedding-table rows of all pieces of a request at once.

The lookup table is built in advance. It holds every text that the encoder knows, with the row that the encoder
assigned.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tsa.data.encoding.encoder import Encoder
from tsa.data.wire.event_pool import hash_multipliers, mixed
from tsa.data.wire.hash_table import HashTable
from tsa.data.wire.tokens import Index, Tokens, text_hashes
from tsa.data.wire.values import Values

MAX_CACHED = 1000
"""Cached texts with unusual spelling per feature. Finding the row of one costs as much as reading a request."""

REFUSED, LOST = -1, -2
"""Used instead of a row: the text has no row; the row is not known yet."""

Places = list[tuple[int, int]]


class VocabularyLookup:
    """The texts of C categorical features as they occur in requests: values, other spellings, missing markers."""

    def __init__(self, values: Values, encoder: Encoder) -> None:
        self._values, self._encoder = values, encoder
        names = values.layout.categorical
        self._mixers = hash_multipliers(len(names), 1)
        self._unknown = np.array([v.unknown_row for v in encoder.categorical_vocabularies], np.int32)
        self._with_spellings = [at for at, name in enumerate(names) if not values.is_plain(name)]
        self._cached: dict[int, dict[tuple[str, bool], int]] = {at: {} for at in self._with_spellings}
        keys, rows = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for at in range(len(names)):
            texts = [text for text in self._spellings(at) if not values.is_unreadable(names[at], text, in_history=True)]
            keys.append(mixed(text_hashes(texts), self._mixers[at]))
            rows.append(values.rows_of(texts, encoder, at).astype(np.int64))
        self._table = HashTable(np.concatenate(keys), np.concatenate(rows), slots_per_key=8)

    def _spellings(self, at: int) -> list[str]:
        known = self._encoder.categorical_vocabularies[at].values
        decimals = [f"{value}.0" for value in known if value.isdecimal()] if at in self._with_spellings else []
        return list(dict.fromkeys([*self._values.layout.wire.missing, *known, *decimals]))

    def rows(self, tokens: Tokens, pieces: Index, own: int) -> tuple[NDArray[np.int32], Places]:
        """The rows of pieces (m, C).

        A text that is not in the table is unknown, unless it may be a known value in an unusual spelling.

        Args:
            own: The first `own` of the m are the current payments, the others earlier ones.

        Returns:
            (m, C) rows; and, for the pieces without a row, which of the m and which feature.
        """
        hashes = tokens.hashes(pieces.ravel()).reshape(pieces.shape)
        looked_up = self._table.find(mixed(hashes, self._mixers).ravel()).reshape(pieces.shape)
        unknown, refused = looked_up < 0, list[tuple[int, int]]()
        rows = looked_up.astype(np.int32)
        if not unknown.any():
            return rows, refused
        np.copyto(rows, self._unknown, where=unknown)
        for at in self._with_spellings:
            where = np.flatnonzero(unknown[:, at])
            if len(where):
                rows[where, at] = self._rows_of_unusual(at, tokens.texts(pieces[where, at]), where >= own)
                refused += [(place, at) for place in where[rows[where, at] == REFUSED].tolist()]
        return rows, refused

    def _rows_of_unusual(self, at: int, texts: list[str], in_history: NDArray[np.bool_]) -> list[int]:
        """The rows of texts that may have an unusual spelling. Recent ones are cached."""
        known, queries = self._cached[at], list(zip(texts, in_history.tolist(), strict=True))
        row_of = {key: known.get(key, LOST) for key in queries}
        new = [key for key, row in row_of.items() if row == LOST]
        if new:
            rows = self._values.rows_of([text for text, _ in new], self._encoder, at).tolist()
            name = self._values.layout.categorical[at]
            new_rows = {
                key: REFUSED if self._values.is_unreadable(name, key[0], in_history=key[1]) else row
                for key, row in zip(new, rows, strict=True)
            }
            row_of |= new_rows
            self._cached[at] = new_rows if len(known) > MAX_CACHED else known | new_rows
        return [row_of[key] for key in queries]
