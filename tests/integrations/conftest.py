"""Tests of the integrations run with one thread, as those of the endpoint do."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _single_thread(one_thread: None) -> None:
    """A score does not depend on how many cores are free."""
