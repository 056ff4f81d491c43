"""A folder of the legacy TSA system, and payments for it."""

from __future__ import annotations

from support import legacy_folder

original = legacy_folder.original
payments = legacy_folder.payments
