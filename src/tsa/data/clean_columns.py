"""Names of the columns that a clean log has in addition to the market's."""

from __future__ import annotations

TIME, LABEL, KNOWN_AT = "__time_seconds", "__label", "__known_at_seconds"
