"""Cutting texts, hashing and looking up pieces: against what Python does one by one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.wire_rows import encoder, market, row
from tsa.config.market import Numerical
from tsa.data.encoding.fit_scalers import fit_scalers
from tsa.data.encoding.scaler import ImportedScaler, Scaler, ScalerGroup
from tsa.data.encoding.training_rows import TrainingRows
from tsa.data.wire import WireReader
from tsa.data.wire import vocabulary_lookup as texts_
from tsa.data.wire.hash_table import HashTable
from tsa.data.wire.scales import VectorizedScaler
from tsa.data.wire.tokens import split_texts, text_hashes
from tsa.errors import DataError

SEPARATORS = ("~", ";SEP;", ";;", "aba", "ü", "\x1f")
pieces = st.text(alphabet="ab;SEP~ü0é\x00", max_size=30)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(pieces, max_size=6), uncut=st.lists(pieces, max_size=3), separator=st.sampled_from(SEPARATORS))
def test_texts_are_cut_as_split_cuts_them(texts: list[str], uncut: list[str], separator: str) -> None:
    tokens = split_texts(texts, separator, uncut)
    expected = [text.split(separator) for text in texts]
    found = tokens.texts(np.arange(len(tokens.start)))
    assert found == [piece for text in expected for piece in text] + uncut
    assert np.diff(tokens.first).tolist() == [len(text) for text in expected]
    assert tokens.are(["", "ab"]).tolist() == [piece in ("", "ab") for piece in found]
    hashes = tokens.hashes(np.arange(len(found)))
    assert hashes.tolist() == text_hashes(found).tolist()
    assert len(set(hashes.tolist())) == len(set(found))


def test_long_pieces_hash_by_all_their_letters() -> None:
    texts = ["x" * n for n in range(200)] + ["x" * n + "y" for n in range(200)] + ["\0" * n for n in range(1, 30)]
    assert len(set(text_hashes(texts).tolist())) == len(texts)


@settings(max_examples=200, deadline=None)
@given(
    texts=st.lists(
        st.one_of(
            st.floats().map(repr),
            st.integers().map(str),
            st.sampled_from(["", "1.", ".5", "+3", "1e5", "x", " 1", "1_0", "Infinity", "-", "0x1"]),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_numbers_are_the_nearest_float(texts: list[str]) -> None:
    tokens = split_texts(["~".join(texts)], "~")
    index = np.arange(len(texts))
    for text, value in zip(texts, tokens.numbers(index, tokens.are([""])), strict=True):
        if text == "":
            assert math.isnan(value)
        elif "_" in text or " " in text or "x" in text or (not text[-1:].isdigit() and text[-1:] != "."):
            assert math.isinf(value)
        else:
            assert value == float(text) or (math.isinf(value) and not math.isfinite(float(text)))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1).map(lambda key: key | 1), max_size=40), max_size=6), st.booleans())
def test_the_table_is_a_dict(rounds: list[list[int]], crowded: bool) -> None:
    """Also where all keys want the same slot."""
    table, known = HashTable(), {}
    for keys in rounds:
        own = [key >> 40 << 8 | 1 if crowded else key for key in keys]
        own = [key for key in dict.fromkeys(own) if key not in known]
        known.update(zip(own, range(len(known), len(known) + len(own)), strict=True))
        table.add(np.array(own, np.uint64), np.array([known[key] for key in own], np.int64))
    asked = [*known, 1, 3, 2**64 - 1]
    found = table.find(np.array(asked, np.uint64))
    assert found.tolist() == [known.get(key, -1) for key in asked]
    assert len(table) == len(known)


FEATURES = [
    Numerical(name=f"{transform} {scale} {gaps}", transform=transform, scale=scale)
    for transform in ("none", "log1p", "signed_log1p")
    for scale in ("minmax", "standard", "quantile")
    for gaps in ("whole", "gaps")
]
values = st.one_of(st.just(math.nan), st.floats(-0.9, 1e9), st.floats(-0.9, 3.0))


def _fit(feature: Numerical, training: Any) -> Scaler:
    (scaler,) = fit_scalers([feature], TrainingRows(pl.LazyFrame({feature.name: training})))
    return scaler


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["all", "quantile", "plain", "given"]))
def test_scaling_all_at_once_is_scaling_one_by_one(data: st.DataObject, kind: str) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    chosen = [f for f in FEATURES if kind == "all" or (f.scale == "quantile") == (kind == "quantile")]
    fitted = []
    for feature in chosen:
        training = rng.lognormal(size=50)
        training[: 5 if "gaps" in feature.name else 0] = np.nan
        fitted.append(_fit(feature, training))
    if kind == "given":
        fitted = [ImportedScaler(name=str(at), slope=0.1 * at, offset=at - 3, default=at) for at in range(4)]
    scaling = ScalerGroup(tuple(fitted))
    names = [scaler.name for scaler in fitted]
    rows = data.draw(st.lists(st.lists(values, min_size=len(names), max_size=len(names)), min_size=1, max_size=5))
    raw = np.array(rows, np.float64)
    found = VectorizedScaler(scaling, [math.nan] * len(names)).encode(raw)
    np.testing.assert_array_max_ulp(found, scaling.encode(pl.DataFrame(raw, schema=names)), maxulp=1)
    filled = VectorizedScaler(scaling, [2.0] * len(names)).encode(raw)
    given_two = pl.DataFrame(np.where(np.isnan(raw), 2.0, raw), schema=names)
    np.testing.assert_array_max_ulp(filled, scaling.encode(given_two), maxulp=1)


def test_oddly_spelled_texts_are_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of a text is the same whether it is met for the first time, again, or after it was forgotten."""
    monkeypatch.setattr(texts_, "MAX_CACHED", 3)
    of = market()
    reader = WireReader(of, encoder(of))
    for hours in [["3.00", "+12", "99", "noon"], ["1", "2", "4", "5"], ["3.00", "99", "+12", "6"]] * 2:
        past = tuple((str(at), 9 - at, "phone", hour, "1", "2") for at, hour in enumerate(hours))
        found = reader.read(row(past)).histories["cid"].categorical
        np.testing.assert_array_equal(found, WireReader(of, encoder(of)).read(row(past)).histories["cid"].categorical)
    assert max(map(len, reader._texts._cached.values())) <= 3 + 4


@pytest.mark.parametrize("slope", [2.0, -1e300, 1e-300, 0.0])
def test_a_given_scale_takes_what_float32_has_room_for(slope: float) -> None:
    scaler = ImportedScaler(name="big", slope=slope, offset=1.0, default=0.0)
    low, high = scaler.domain
    assert low < 0.0 < high
    for bound in (low, high):
        if math.isfinite(bound):
            assert np.isfinite(scaler.encode(np.array([bound * 0.999])).astype(np.float32)).all()
            with pytest.raises(DataError, match="must fit float32"):
                scaler.encode(np.array([bound * 1.001]))


def test_scaling_refuses_alike() -> None:
    scaler = _fit(Numerical(name="amount", transform="log1p"), np.array([1.0, 2.0]))
    with pytest.raises(DataError, match="'amount' must be above -1 for log1p"):
        VectorizedScaler(ScalerGroup((scaler,)), [math.nan]).encode(np.array([[-1.0]]))
    given_scaler = ImportedScaler(name="big", slope=1e300, offset=0.0, default=0.0)
    with pytest.raises(DataError, match="'big' must fit float32"):
        VectorizedScaler(ScalerGroup((given_scaler,)), [math.nan]).encode(np.array([[1e300]]))
