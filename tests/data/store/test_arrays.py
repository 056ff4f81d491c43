"""A small table is encoded in memory, and the store is the same to the bit as one by way of files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.history import EventArrays
from tsa.data.log.quarantine import Quarantine
from tsa.data.store import prepare as preparing
from tsa.data.store.arrays import FolderArrays, MemoryArrays
from tsa.data.store.manifest import ARRAYS, INDEX_ARRAYS
from tsa.data.store.prepare import encoded_log
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, DataError

SECRET = "a secret that is long enough for HMAC"


@pytest.fixture(scope="module")
def table(demo_log: Path) -> pl.DataFrame:
    return pl.read_parquet(demo_log).sort("paid_at", "payment_id").head(300)


def both(market: Market, table: pl.DataFrame, encoder: Encoder, **given: Any) -> None:
    """Check that the two ways give one store, or refuse with the same words."""
    errors = []
    with ExitStack() as stack:
        made = []
        for number, limit in enumerate((2**40, -1)):
            own = {name: value(number) if callable(value) else value for name, value in given.items()}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(preparing, "MAX_TABLE_BYTES", limit)
                try:
                    made.append(stack.enter_context(encoded_log(market, table, encoder, **own)))
                    errors.append("")
                except DataError as error:
                    errors.append(str(error))
        assert errors[0] == errors[1]
        if made:
            assert made[0].is_in_memory
            assert not made[1].is_in_memory
            assert_same(*made)


def assert_same(one: EventStore, other: EventStore) -> None:
    assert len(one) == len(other)
    for name in ARRAYS:
        assert_equal(getattr(one, name), getattr(other, name))
    for name in EventArrays.__dataclass_fields__:
        assert_equal(np.asarray(getattr(one.events, name)), np.asarray(getattr(other.events, name)))
    assert one.histories.keys() == other.histories.keys()
    for history, index in one.histories.items():
        for name in INDEX_ARRAYS:
            assert_equal(getattr(index, name), getattr(other.histories[history], name))
    assert one.clean.collect().equals(other.clean.collect())
    assert one.clean.collect_schema() == other.clean.collect_schema()
    for rows in (slice(None), slice(3, 7), slice(0, 0)):
        assert one.ids(rows).equals(other.ids(rows), check_dtypes=True, null_equal=True)
    reports = [{key: value for key, value in store.data_report.items() if key != "files"} for store in (one, other)]
    assert reports[0] == reports[1]
    with pytest.raises(ValueError, match="read-only"):
        one.label[:] = 0


def assert_equal(one: np.ndarray, other: np.ndarray) -> None:
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    assert np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()


def cast(column: str, kind: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    texts = kind == pl.Categorical
    return lambda frame: frame.with_columns((pl.col(column).cast(pl.String) if texts else pl.col(column)).cast(kind))


CHANGES: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "as it is": lambda frame: frame,
    "another order": lambda frame: frame.sample(fraction=1.0, shuffle=True, seed=3),
    "one row": lambda frame: frame.head(1),
    "no rows": lambda frame: frame.clear(),
    "a part of another": lambda frame: frame.slice(17, 90),
    "without outcomes": lambda frame: frame.drop("is_fraud"),
    "without a column": lambda frame: frame.drop("device"),
    "further columns": lambda frame: frame.with_columns(
        pl.lit(1.5).alias("more"), pl.lit(None).alias("nothing"), pl.struct("amount").alias("nested")
    ),
    "scores": lambda frame: frame.rename({"amount": "raw_score"}),
    "ids that repeat": lambda frame: pl.concat([frame, frame.head(3)]),
    "numbers that are none": lambda frame: frame.with_columns(pl.lit("much").alias("amount")),
    "an infinite number": lambda frame: frame.with_columns(
        pl.when(pl.int_range(pl.len()) < 2).then(float("inf")).otherwise("amount").alias("amount")
    ),
    "nulls": lambda frame: frame.with_columns(
        pl.when(pl.int_range(pl.len()) % 3 > 0).then(pl.col("customer_id", "channel", "amount")).name.keep()
    ),
    "only nulls": lambda frame: frame.with_columns(pl.lit(None).alias("device"), pl.lit(None).alias("terminal_id")),
    "NaN": lambda frame: frame.with_columns(
        pl.when(pl.int_range(pl.len()) % 2 > 0)
        .then(float("nan"))
        .otherwise("account_age_days")
        .alias("account_age_days")
    ),
    "the same times": lambda frame: frame.with_columns(pl.col("paid_at").dt.truncate("1d")),
    **{
        f"id as {kind}": cast("payment_id", kind)
        for kind in (pl.String, pl.Categorical, pl.UInt64, pl.Int32, pl.Int128)
    },
    **{f"key as {kind}": cast("customer_id", kind) for kind in (pl.String, pl.Categorical, pl.Int16, pl.Float64)},
    **{
        f"number as {kind}": cast("amount", kind)
        for kind in (pl.Float32, pl.String, pl.Int64, pl.Boolean, pl.Decimal(18, 2), pl.Duration)
    },
    **{
        f"time as {kind}": cast("paid_at", kind)
        for kind in (
            pl.Datetime("ms"),
            pl.Datetime("ns"),
            pl.Datetime("us", "Asia/Tokyo"),
            pl.Date,
            pl.String,
            pl.Int64,
        )
    },
    **{f"outcome as {kind}": cast("is_fraud", kind) for kind in (pl.Boolean, pl.Float64, pl.String, pl.UInt8)},
    "texts as Categorical": cast("merchant_category", pl.Categorical),
    "texts as Enum": lambda frame: frame.with_columns(
        pl.col("channel").cast(pl.Enum(frame["channel"].drop_nulls().unique().sort()))
    ),
    "number as list": lambda frame: frame.with_columns(pl.concat_list("amount").alias("amount")),
    "texts as bytes": cast("device", pl.Binary),
    "many chunks": lambda frame: pl.concat([frame.slice(at, 7) for at in range(0, len(frame), 7)], rechunk=False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_table_gives_the_store_that_its_file_gives(demo_store: EventStore, table: pl.DataFrame, change: str) -> None:
    """Whatever types its columns have, and with the same refusals. What is wrong with the table itself names it."""
    changed = CHANGES[change](table)
    if change == "scores":
        with (
            pytest.raises(DataError, match=r"^the table: holds scores that this program wrote"),
            encoded_log(demo_store.market, changed, demo_store.encoder),
        ):
            pass
        return
    both(demo_store.market, changed, demo_store.encoder)


def test_rows_that_break_a_rule_go_to_quarantine(demo_store: EventStore, table: pl.DataFrame, tmp_path: Path) -> None:
    bad = table.with_columns(
        pl.when(pl.int_range(pl.len()) % 50 == 0).then(float("inf")).otherwise("amount").alias("amount"),
        pl.when(pl.int_range(pl.len()) % 70 == 0).then(None).otherwise("payment_id").alias("payment_id"),
    )
    unscored = frozenset(map(str, bad["payment_id"].drop_nulls()[-4:]))

    def aside(number: int) -> Quarantine:
        return Quarantine(tmp_path / f"{number}.parquet", limit=1, unscored=unscored)

    both(demo_store.market, bad, demo_store.encoder, quarantine=aside)
    one, other = (pl.read_parquet(tmp_path / f"{number}.parquet") for number in (0, 1))
    assert one.equals(other)
    assert len(one) > 10
    both(demo_store.market, bad, demo_store.encoder, quarantine=lambda number: replace(aside(number), limit=0.01))
    with (
        pytest.raises(ConfigError, match=r"quarantine must end in \.parquet"),
        encoded_log(demo_store.market, table, demo_store.encoder, quarantine=tmp_path / "bad.csv"),
    ):
        pass


@pytest.mark.parametrize(
    "changes",
    [
        {"privacy": {"pseudonymise": ["customer_id", "device"], "secret_env": "SECRET_OF_TESTS"}},
        {"privacy": {"retention_days": 2}},
        {"input": {"duplicates": "last", "missing": ["web"]}},
        {"features": {"exclude": [{"column": "channel", "values": ["web", "pos"]}]}},
    ],
    ids=["pseudonyms", "retention", "duplicates", "excluded rows"],
)
def test_other_markets(
    demo_store: EventStore, table: pl.DataFrame, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_TESTS", SECRET)
    own = demo_store.market.to_dict()
    for name, value in changes.items():
        own[name] = {**(own.get(name) or {}), **value}
    both(Market.from_dict(own), pl.concat([table, table.head(5)]), demo_store.encoder)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.integers(0, 299), max_size=60),
    amounts=st.lists(st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)), min_size=60, max_size=60),
    channels=st.lists(
        st.one_of(st.none(), st.sampled_from(["web", "", " ", "NA", "étranger"])), min_size=60, max_size=60
    ),
)
def test_any_rows(
    demo_store: EventStore,
    table: pl.DataFrame,
    rows: list[int],
    amounts: list[float | None],
    channels: list[str | None],
) -> None:
    frame = table[rows].with_columns(
        pl.Series("amount", amounts[: len(rows)], dtype=pl.Float64),
        pl.Series("channel", channels[: len(rows)], dtype=pl.String),
    )
    both(demo_store.market, frame, demo_store.encoder)


def test_a_large_table_goes_by_way_of_files(
    demo_store: EventStore, table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, is_in_memory in ((table.estimated_size(), True), (table.estimated_size() - 1, False)):
        monkeypatch.setattr(preparing, "MAX_TABLE_BYTES", limit)
        with encoded_log(demo_store.market, table, demo_store.encoder) as store:
            assert store.is_in_memory is is_in_memory


def test_nothing_of_a_small_table_goes_to_disk(
    demo_store: EventStore, table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with encoded_log(demo_store.market, table, demo_store.encoder) as store:
        assert len(store) == len(table)


def test_arrays_take_pieces(tmp_path: Path) -> None:
    """In memory as in files: all rows, of the right shape."""
    for arrays in (FolderArrays(tmp_path), MemoryArrays()):
        with arrays.writer("a.npy", np.int64, (5, 2)) as writer:
            writer.append(np.arange(4).reshape(2, 2))
            writer.append(np.arange(6, dtype=np.float32).reshape(3, 2))
        assert arrays.array("a.npy").tolist() == [[0, 1], [2, 3], [0, 1], [2, 3], [4, 5]]
        assert arrays.array("a.npy").dtype == np.int64
        with pytest.raises(ValueError, match="takes rows of shape"), arrays.writer("b.npy", np.int8, (3,)) as writer:
            writer.append(np.zeros((2, 1)))
        with pytest.raises(ValueError, match="must get 3 rows"), arrays.writer("b.npy", np.int8, (3,)) as writer:
            writer.append(np.zeros(2))
