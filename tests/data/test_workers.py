"""Stores that are made of parts of the rows are those that are made in one piece, to the byte."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tsa.config.market import Market
from tsa.data.log import pieces
from tsa.data.log.quarantine import Quarantine
from tsa.data.store.prepare import prepare
from tsa.data.workers import GROUP_ROWS, Workers
from tsa.errors import ClusterError, TSAError

START, HOUR = 1_525_651_200, 3600
KINDS = ["payment", "login", "question"]
PLAIN: dict[str, Any] = {
    "name": "parts",
    "event": {"id": "id", "time": "time", "time_unit": "s", "amount": "amount"},
    "label": {"column": "fraud", "delay_days": 0.1},
    "history": [{"name": "account", "key": "sender"}, {"name": "kind", "key": "kind", "length": 3}],
    "features": {
        "calendar": ["hour_of_day"],
        "categorical": [{"name": "kind", "min_count": 2}],
        "numerical": [{"name": "amount", "scale": "standard"}, {"name": "share", "scale": "quantile"}],
    },
    "split": {"fractions": [0.4, 0.2, 0.2, 0.2]},
}
ROLES = {
    **PLAIN,
    "event": {
        **PLAIN["event"],
        "scored": {"column": "kind", "values": ["payment", "question"]},
        "asks": {"column": "kind", "values": ["question"]},
    },
    "history": [{"name": "account", "keys": ["sender", "receiver"], "length": 3}],
    "input": {"duplicates": "last"},
}
LIMIT = {"privacy": {"retention_days": 0.5}}
MARKETS = [PLAIN, {**PLAIN, **LIMIT}, ROLES, {**ROLES, **LIMIT}]
SCHEMA: dict[str, Any] = {
    "id": pl.String,
    "time": pl.Float64,
    "fraud": pl.Int64,
    "sender": pl.String,
    "receiver": pl.String,
    "kind": pl.String,
    "amount": pl.Float64,
    "share": pl.Float64,
}
key = st.sampled_from([None, "a", "b", "c", "d"])
event = st.tuples(
    st.integers(0, 60),
    st.sampled_from([None, 0, 1]),
    key,
    key,
    st.sampled_from(KINDS),
    st.one_of(st.none(), st.floats(-1e6, 1e6)),
    st.one_of(st.floats(0, 1), st.just(math.inf)),  # which no scaler takes
)
ALWAYS = [(at, at // 20 % 2, "a", "b", "payment", 1.0, 0.5) for at in range(0, 61, 4)]
"""Every range of the split has payments with both outcomes."""


@pytest.mark.parametrize("n", [0, 1, 5, 1000, 3 * GROUP_ROWS + 5, 20 * GROUP_ROWS])
@pytest.mark.parametrize("workers", [Workers(), Workers(least=2), Workers(least=7)])
@pytest.mark.parametrize("most", [100, GROUP_ROWS, 4 * GROUP_ROWS])
def test_parts_have_each_row_once(n: int, workers: Workers, most: int) -> None:
    parts = workers.parts(n, most)
    assert (parts[0][0], parts[-1][1]) == (0, n)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(parts))
    assert len(parts) >= min(workers.least, n, 1 + n // GROUP_ROWS)
    assert max(last - first for first, last in parts) <= most + GROUP_ROWS * (n >= GROUP_ROWS and most >= GROUP_ROWS)
    assert workers.least > 1 or len(parts) == max(1, -(-n // most))
    assert n == 0 or min(last - first for first, last in parts) > 0


def test_workers_must_see_the_folder(tmp_path: Path) -> None:
    assert list(Workers(folder=tmp_path).call(pow, 2, [1, 2, 3])) == [2, 4, 8]
    with pytest.raises(
        ClusterError, match=r"each node of the cluster must see the folder of the store \(got no .*gone"
    ):
        list(Workers(folder=tmp_path / "gone").call(pow, 2, [1]))


def _log(events: Sequence[tuple[Any, ...]], repeated: Sequence[tuple[int, bool]], prefix: str) -> pl.DataFrame:
    """The log; some rows occur again, with their outcome or another one."""
    rows = [[f"{prefix}{at}", START + hour * HOUR, *rest] for at, (hour, *rest) in enumerate([*ALWAYS, *events])]
    for at, has_other_outcome in repeated:
        row = list(rows[at % len(rows)])
        rows.append([*row[:2], None if has_other_outcome else row[2], *row[3:]])
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _made(market: Market, logs: list[Path], out: Path, workers: Workers) -> dict[str, bytes] | str:
    """The files of the store and the quarantine, or the error."""
    quarantine = out.parent / "quarantine.parquet"
    try:
        prepare(market, logs, out, workers=workers, quarantine=Quarantine(quarantine, 0.3))
    except TSAError as error:
        return str(error)
    return {**_files(out), "quarantine": quarantine.read_bytes()}


def sent(work: Any, shared: Any, items: Sequence[Any]) -> Iterator[Any]:
    """Calls as a cluster makes them, in another folder, with copies of what is sent."""
    call = pickle.dumps((work, shared))
    for item in items:
        with contextlib.chdir("/"):
            there, given = pickle.loads(call)
            made = pickle.dumps(there(given, pickle.loads(pickle.dumps(item))))
        yield pickle.loads(made)


@pytest.mark.usefixtures("small_pieces")
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=st.sampled_from(MARKETS),
    events=st.lists(event, max_size=40),
    repeated=st.lists(st.tuples(st.integers(0, 55), st.booleans()), max_size=3),
    cuts=st.lists(st.integers(0, 55), max_size=3),
    count=st.integers(2, 5),
    kind=st.sampled_from(["parquet", "csv", "utf-16"]),
)
def test_the_store_does_not_depend_on_the_parts(
    table: dict[str, Any],
    events: list[Any],
    repeated: list[Any],
    cuts: list[int],
    count: int,
    kind: str,
) -> None:
    log = _log(events, repeated, "p" if kind == "parquet" else "").sample(fraction=1, shuffle=True, seed=count)
    with tempfile.TemporaryDirectory() as name:
        folder, logs, market = Path(name), [], Market.from_dict(table)
        for number, (first, last) in enumerate(itertools.pairwise([0, *sorted(cuts), len(log)])):
            if first < last:
                logs.append(Path(os.path.relpath(folder)) / f"{number}.{'parquet' if kind == 'parquet' else 'csv'}")
                getattr(log[first:last], f"write_{logs[-1].suffix[1:]}")(logs[-1])
                if kind == "utf-16":
                    logs[-1].write_text(logs[-1].read_text(), "utf-16")
        expected = _made(market, logs, folder / "here", Workers())
        assert _made(market, logs, folder / "there", Workers(run=sent, least=count, by_file=True)) == expected
        assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "SLICE_ROWS", 7)
    monkeypatch.setattr(pieces, "SAMPLE", 3)
    monkeypatch.setattr(pieces, "GROUP_ROWS", 3)
