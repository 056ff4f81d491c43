"""The easy store, made once."""

from __future__ import annotations
