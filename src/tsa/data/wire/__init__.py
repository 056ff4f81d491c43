"""Rows that carry their own history: the inline-history format of docs/reference/wire-format.md.

`layout` names the fields; `tokens` and `hash_table` are the parsing kernel; `reader` reads files into a store and
`request` single requests.
"""

from __future__ import annotations

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.wire.request import Payload, WireReader
from tsa.data.wire.request_arrays import Requests

__all__ = ["Payload", "Requests", "WireReader", "read_request"]


def read_request(market: Market, encoder: Encoder, payload: Payload) -> Requests:
    """Read one request. To read many, make one `WireReader` and reuse it."""
    return WireReader(market, encoder).read(payload)
