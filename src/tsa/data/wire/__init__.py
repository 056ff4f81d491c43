"""Rows that carry their own history, the wire format: docs/wire-format.md.

The rooms: `fields` names, `tokens` and `hashtable` the kernel, `values` what a value is, `histories` what a row tells of
earlier payments, `problems` what is wrong with rows; `source`, `pool`, `reading`, `carried` and `quarantine` the way from
files to a store; `texts`, `scales` and `request` the way of a single request.
"""

from __future__ import annotations

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.wire.request import Payload, Requests, WireReader

__all__ = ["Payload", "Requests", "WireReader", "read_request"]


def read_request(market: Market, encoder: Encoder, payload: Payload) -> Requests:
    """Read one request. Where there are many, make a `WireReader` once and keep it."""
    return WireReader(market, encoder).read(payload)
