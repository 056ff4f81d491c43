"""What a history store says of itself: a store of an older version is refused, and says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsa.errors import HistoryError
from tsa.serving.history.base import WriteBatch
from tsa.serving.history.factory import open_history
from tsa.serving.history.metadata import OLD_PLACE, PLACE, read_metadata


@pytest.mark.parametrize(("place", "data"), [(OLD_PLACE, b"{}"), (PLACE, b'{"version": 1}')])
def test_an_older_store_is_refused(place: tuple[str, str], data: bytes, tmp_path: Path) -> None:
    with open_history(f"sqlite:///{tmp_path / 'histories.db'}") as store:
        assert read_metadata(store) is None
        assert store.commit(WriteBatch(expected_versions={place: None}, puts={place: data}))
        with pytest.raises(
            HistoryError, match=r"reads history stores of version 3.*; load a new one with tsa history load"
        ):
            read_metadata(store)
