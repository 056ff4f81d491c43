"""Stored histories under another bundle: encoded again from the payments' records, or refused where a record is gone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support.history_case import Case, random_rows, request
from tsa.data.encoding.encoder import Encoder
from tsa.data.online.histories import Key
from tsa.serving.history.base import PAYMENTS, HistoryStore, WriteBatch
from tsa.serving.history.blocks import HistoryBlock
from tsa.serving.history.factory import open_history
from tsa.serving.history.reencode import MissingRecordsError, encode_stale, encoder_hash, read_records, to_frame
from tsa.serving.scoring.scoring_service import ScoringService


@pytest.fixture(scope="module")
def filled(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HistoryStore]:
    with open_history(f"sqlite:///{tmp_path_factory.mktemp('encoding') / 'x.db'}") as store:
        ScoringService(case.scorer(), store).score([request(row) for row in random_rows(60, seed=3, cards=3, shops=2)])
        yield store


@pytest.fixture
def blocks(filled: HistoryStore) -> dict[Key, HistoryBlock]:
    keys = [("card", "c0"), ("card", "c1"), ("shop", "s1")]
    found = {key: HistoryBlock.unpack(one.data) for key, one in filled.read(keys).items()}
    assert len(found) == 3
    return found


def other_encoder(case: Case) -> Encoder:
    (vocabulary,) = case.bundle.encoder.categorical_vocabularies
    return replace(case.bundle.encoder, categorical_vocabularies=(replace(vocabulary, values=vocabulary.values[::-1]),))


def test_blocks_in_the_wanted_encoding_stay_as_they_are(
    case: Case, filled: HistoryStore, blocks: dict[Key, HistoryBlock]
) -> None:
    encoder = case.bundle.encoder
    found = encode_stale(filled, blocks, case.bundle.market, encoder, encoder_hash(encoder))
    assert all(found[key] is block for key, block in blocks.items())


def test_blocks_in_another_encoding_are_encoded_again(
    case: Case, filled: HistoryStore, blocks: dict[Key, HistoryBlock]
) -> None:
    market, encoder = case.bundle.market, other_encoder(case)
    mark = encoder_hash(encoder)
    mixed = {**blocks, ("card", "new"): replace(blocks["card", "c0"], encoder_hash=mark)}
    found = encode_stale(filled, mixed, market, encoder, mark)
    assert found.keys() == mixed.keys()
    assert found["card", "new"] is mixed["card", "new"]
    for key, block in blocks.items():
        records = read_records(filled, block.events.ids)
        times = block.events.time_seconds.tolist()
        frame = to_frame(market, [records[id_].raw for id_ in block.events.ids], times)
        assert np.array_equal(found[key].events.categorical, encoder.categorical(frame))
        assert np.array_equal(found[key].events.numerical, encoder.numerical(frame))
        assert found[key].encoder_hash == mark
        assert found[key].events.ids == block.events.ids
        assert found[key].complete_after_seconds == block.complete_after_seconds
    assert any(not np.array_equal(found[key].events.categorical, blocks[key].events.categorical) for key in blocks)


def test_a_record_that_is_gone_is_named(case: Case, blocks: dict[Key, HistoryBlock], tmp_path: Path) -> None:
    encoder, lost = other_encoder(case), blocks["card", "c0"].events.ids[0]
    with open_history(f"sqlite:///{tmp_path / 'y.db'}") as store:
        ScoringService(case.scorer(), store).score([request(row) for row in random_rows(60, seed=3, cards=3, shops=2)])
        stamp = store.read([(PAYMENTS, lost)])[PAYMENTS, lost].version
        assert store.commit(
            WriteBatch(expected_versions={(PAYMENTS, lost): stamp}, deletes=frozenset({(PAYMENTS, lost)}))
        )
        with pytest.raises(MissingRecordsError) as caught:
            encode_stale(store, blocks, case.bundle.market, encoder, encoder_hash(encoder))
        assert caught.value.ids == {lost}
        assert list(caught.value.keys) == list(blocks)
        assert read_records(store, [lost]) == {}


def test_no_ids_ask_nothing_of_the_store() -> None:
    assert read_records(None, []) == {}  # type: ignore[arg-type]
