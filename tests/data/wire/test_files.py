"""Stores of wire rows: every format, every payment kept once, refusals and quarantine, and the same arrays as one by one."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.wire_rows import (
    ENGINEERED,
    FIELDS,
    NOW,
    NUMERICAL,
    PAST,
    TABLE,
    TWO,
    TWO_FIELDS,
    encoder,
    gathered,
    market,
    row,
    single,
    stored,
    told,
    write,
)
from tsa.data.log.quarantine import Quarantine
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.data.wire import event_segments, reader
from tsa.data.wire.layout import FieldLayout
from tsa.errors import DataError, StoreError, TSAError

DAY = 86_400
texts = st.sampled_from(["phone", "tablet", "", "My Text String", "never seen", "3.0", "ü"])
hours = st.sampled_from(["3", "3.0", "12", "", "noon", "99", "3.9", "My Text String"])
numbers = st.sampled_from(["0", "1.5", "-3", "", "My Text String", "1e3", "1234567.25", "100", "0.1"])
odd_numbers = st.sampled_from(["nan", "1e999", "5 ", "x", "-Infinity", "1,5", "³"])
ids = st.sampled_from(["a", "b", "c", "d", "e", "ä", "", "x" * 20])
ages = st.one_of(st.integers(0, 400), st.sampled_from([9_999_999, 10_000_001, 400_000_000]))
event = st.tuples(ids, ages, texts, hours, numbers, numbers)
pasts = st.lists(event, max_size=8, unique_by=lambda one: one[1]).map(
    lambda found: tuple(sorted(found, key=lambda one: -one[1]))
)
"""Ids may repeat or be missing, there may be more events than the history holds, and some are older than an age counts."""


@st.composite
def lines(draw: st.DrawFn) -> dict[str, Any]:
    """A row of the small market; its parts may differ in ids, lengths and order. Numbers may be numbers of JSON."""
    kinds = {"device": texts, "hour": hours, "amount": numbers, "items": numbers}
    own: dict[str, Any] = {name: draw(kind) for name, kind in kinds.items()}
    own |= draw(st.sampled_from([{}, {}, {"amount": 5, "hour": 3, "orders": 2.5}, {"at": float(NOW), "hour": True}]))
    past = draw(pasts)
    kept = past if draw(st.booleans()) else tuple(draw(st.permutations(past))[: draw(st.integers(0, 8))])
    first = {one[0]: one for one in reversed(past)}
    if any(first[one[0]] != one for one in past):
        kept = past  # of a repeated id, another one could be matched: at another time, which is refused
    return {**row(()), **told(past, numerical=kept), **own}


@st.composite
def wrong_lines(draw: st.DrawFn) -> dict[str, Any]:
    """A row that breaks one rule."""
    kinds = {"device": texts, "hour": hours, "amount": numbers, "items": numbers}
    past = draw(pasts.filter(lambda found: bool(told(found)["hist.cat.id"])))
    line = {**row(past), **{name: draw(kind) for name, kind in kinds.items()}}
    name = draw(st.sampled_from([name for name in line if name not in ("customer", "fraud", "id")]))
    number = name in (*NUMERICAL, *ENGINEERED, "at")
    faults: list[Any] = [None, ["x"], {"x": 1}]
    if name.startswith("hist.") and not name.endswith(".id"):
        faults += [line[name] + "~1", 3.5, True]
        if name in ("hist.amount", "hist.items"):
            faults += [f"{line[name]}~".partition("~")[2] + "no number"] if len(past) < 5 else []
        if name.endswith(".at"):
            times = [*(NOW - ago for _, ago, *_ in past[1:]), draw(st.sampled_from([NOW + 1, "soon", "", "inf"]))]
            return {**line, **dict.fromkeys(("hist.cat.at", "hist.num.at"), "~".join(map(str, times)))}
    elif number:
        faults += [draw(odd_numbers)]
    return {**line, name: draw(st.sampled_from(faults))}


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(lines(), min_size=1, max_size=6), mode=st.sampled_from(["align", "drop"]), defaults=st.booleans())
def test_a_store_holds_what_requests_give(rows: list[dict[str, Any]], mode: str, defaults: bool) -> None:
    of = market({"mismatched": mode} | ({"defaults": {"device": "phone", "items": 3, "at": 0}} if defaults else {}))
    rows = [{**line, "id": f"p{at}"} for at, line in enumerate(rows)]
    with tempfile.TemporaryDirectory() as folder:
        store, alone = stored(of, rows, Path(folder)), single(of, rows)
        many = gathered(store)
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(many, name), getattr(alone.histories["cid"], name), err_msg=name)
        np.testing.assert_array_equal(store.engineered[:], alone.engineered)
        one = [single(of, line).histories["cid"].numerical[0] for line in rows]
        np.testing.assert_array_equal(np.stack(one), many.numerical)


@settings(max_examples=60, deadline=None)
@given(line=wrong_lines())
def test_what_a_request_refuses_a_store_refuses(line: dict[str, Any]) -> None:
    """With the same rule, field and value."""
    of, refusals = market(), []
    with tempfile.TemporaryDirectory() as folder:
        for attempt in (lambda: single(of, line), lambda: stored(of, [line], Path(folder))):
            try:
                attempt()
                refusals.append("")
            except DataError as error:
                refusals.append(str(error))
    who, name, text = refusals[0].split(": ", 2)
    assert who == "payment 'p1'"
    expected, value = text.removesuffix(")").split(" (got ")
    assert f"  {name}: {expected}: 1 rows; the first: id p1 ({value})" in refusals[1]


def _log(n: int = 40, seed: int = 0) -> list[dict[str, Any]]:
    """Payments of three customers over 60 days, each row with what came before it."""
    rng = np.random.default_rng(seed)
    rows, known = [], {name: [] for name in ("ann", "bob", "cyd")}
    for at in range(n):
        who, now = str(rng.choice(list(known))), NOW + at // 2 * (120 * DAY // n)  # two at a time
        own = {"device": str(rng.choice(["phone", "tablet", ""])), "hour": str(rng.integers(0, 5)), "items": "1"}
        own |= {
            "amount": f"{rng.lognormal():.2f}",
            "id": f"p{at}",
            "at": str(now),
            "customer": who,
            "fraud": str(at % 4 // 3),
        }
        past = tuple((i, now - t, *rest) for i, t, *rest in known[who][-4:])
        rows.append({**row(), **told(past, now=now), **own})
        known[who].append((own["id"], now, own["device"], own["hour"], own["amount"], own["items"]))
    return rows


SPLIT = {"split": {"fractions": [0.4, 0.2, 0.2, 0.2]}}


def test_each_payment_is_kept_once(tmp_path: Path) -> None:
    store = prepare(market(**SPLIT), write(_log(), tmp_path / "rows.jsonl"), tmp_path / "store")
    assert len(store) == 40
    assert store.manifest["n_stored"] == len(store.events.label) <= 40 + 39
    assert len(store.histories["cid"].order) > 40 * 4
    assert store.events.label[40:].tolist() == [-1] * (len(store.events.label) - 40)
    assert np.isinf(store.events.known_at_seconds[40:]).all()
    assert (np.diff(store.time_seconds) >= 0).all()
    assert (np.diff(store.events.time_seconds[40:]) >= 0).all()
    assert set(np.unique(gathered(store).outcome)) == {0, 1}
    whole = EventStore.open(tmp_path / "store", verify=True)
    assert (len(whole.label), len(whole.engineered), len(whole.categorical)) == (40, 40, 40)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "store"]
    assert not [path for path in (tmp_path / "store").iterdir() if path.name.startswith(".")]


def test_the_order_of_rows_and_the_size_of_chunks_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, of = _log(), market(**SPLIT)
    manifest = prepare(of, write(rows, tmp_path / "rows.jsonl"), tmp_path / "store").manifest
    shuffled = [rows[at] for at in np.random.default_rng(1).permutation(len(rows))]
    monkeypatch.setattr(reader, "CHUNK_ROWS", 3)
    monkeypatch.setattr(reader, "STAGED_ROWS", 7)
    monkeypatch.setattr(event_segments, "CHUNK_ROWS", 11)
    assert prepare(of, write(shuffled, tmp_path / "rows.jsonl"), tmp_path / "again").manifest == manifest


def _tabular(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows).rename(lambda name: name.replace(".", "__DOT__"))


def test_every_format_gives_the_same_store(tmp_path: Path) -> None:
    rows, of = _log(), market(**SPLIT)
    expected = prepare(of, write(rows, tmp_path / "rows.jsonl"), tmp_path / "store").manifest["files"]
    frame, text = _tabular(rows), pl.DataFrame(rows)
    frame.write_csv(tmp_path / "a.csv")
    frame.write_csv(tmp_path / "a.tsv", separator="\t")
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress((tmp_path / "a.tsv").read_bytes()))
    (tmp_path / "called.csv.gz").write_bytes((tmp_path / "b.tsv.gz").read_bytes())
    (tmp_path / "called.tsv").write_bytes((tmp_path / "a.csv").read_bytes())
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "rows.jsonl").read_bytes()))
    text.write_parquet(tmp_path / "a.parquet")
    frame.with_columns(pl.col("at").cast(pl.Int64), pl.col("amount").cast(pl.Float64)).write_parquet(
        tmp_path / "b.parquet"
    )
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for name in (
        "a.csv",
        "a.tsv",
        "b.tsv.gz",
        "called.csv.gz",
        "called.tsv",
        "b.jsonl.gz",
        "a.parquet",
        "b.parquet",
        "a.json",
    ):
        found = prepare(of, tmp_path / name, tmp_path / "other").manifest["files"]
        for file in found:
            if file != "data_report.json":
                assert found[file] == expected[file], (name, file)
    half = [write(rows[:20], tmp_path / "1.jsonl"), tmp_path / "2.csv"]
    _tabular(rows[20:]).write_csv(half[1])
    joined = prepare(of, half, tmp_path / "other")
    assert joined.manifest["files"]["numerical.npy"] == expected["numerical.npy"]
    assert joined.data_report["files"] == list(map(str, half))


def test_one_json_object_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    for text in (json.dumps(row()), json.dumps(row(), indent=1), json.dumps([row()])):
        path.write_text(text, encoding="utf-8")
        assert len(prepare(market(), path, tmp_path / "store", encoder=encoder(market()))) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": 1}\n{"id', "line 2 is not JSON: the line is cut off; copy the file again"),
        ('{"id": 1}\n{"id": NaN}\n', "line 2 is not JSON: NaN is no JSON value; write null"),
        ('\ufeff{"id": 1}\n', "line 1 is not JSON: it begins with a byte order mark"),
        ('{"id": 1}\n3\n', r"line 2 must hold a JSON object [(]got int"),
        ("[1, 2]", "must hold JSON objects"),
        ("", "at least one row"),
        ("id\tat", "line 1 is not JSON"),
    ],
)
def test_files_that_are_no_json_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        prepare(market(), path, tmp_path / "store", encoder=encoder(market()))
    assert not (tmp_path / "store").exists()


def test_columns_that_a_table_lacks_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    _tabular([row()]).drop("hist__DOT__hour").rename({"device": "devise"}).write_csv(path)
    with pytest.raises(DataError, match="columns do not fit the market") as caught:
        prepare(market(), path, tmp_path / "store", encoder=encoder(market()))
    assert "device: missing; did you mean `devise`?" in str(caught.value)
    assert "hist.hour: missing" in str(caught.value)
    pl.DataFrame([row()]).with_columns(pl.lit(3).alias("hist.hour")).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"hist\.hour: must be a text [(]got Int32"):
        prepare(market(), tmp_path / "rows.parquet", tmp_path / "store", encoder=encoder(market()))
    twice = pl.DataFrame([row()]).with_columns(pl.lit("").alias("hist__DOT__hour"))
    twice.write_csv(path)
    with pytest.raises(DataError, match="a column must occur once"):
        prepare(market(), path, tmp_path / "store", encoder=encoder(market()))


def test_a_header_is_not_shown_field_by_field(tmp_path: Path) -> None:
    """EU has 738 fields and a header of 27,000 letters: it was shown 738 times."""
    wide = market(features={**TABLE["features"], "engineered": [f"engineered_{at:04}" for at in range(700)]})
    path = tmp_path / "rows.csv"
    header = "~".join([*FieldLayout(wide).current, *FieldLayout(wide).others, *FieldLayout(wide).history_fields])
    path.write_text(f"{header}\n{header}\n")
    with pytest.raises(DataError) as error:
        prepare(wide, path, tmp_path / "store")
    message = str(error.value)
    assert "engineered_0001: missing" not in message
    assert (
        "the first line holds one column alone: fields must be separated by commas, tabs, semicolons or bars" in message
    )
    assert len(message) < 500
    path.write_text("amount,beside\n1,2\n")
    with pytest.raises(DataError, match="device: missing; columns of the log that the market does not use: beside\n"):
        prepare(market(), path, tmp_path / "store")


@pytest.mark.parametrize(("suffix", "separator"), [("tsv", "\t"), ("csv", ",")])
def test_a_file_whose_writing_was_broken_off_is_refused(suffix: str, separator: str, tmp_path: Path) -> None:
    """Its last line would be a payment without what was yet to come."""
    path = tmp_path / f"rows.{suffix}"
    _tabular([row(id="p1"), row(id="p2")]).write_csv(path, separator=separator)
    whole = path.read_text()
    assert len(prepare(market(), path, tmp_path / "store", encoder=encoder(market()))) == 2
    lines = whole.splitlines()
    path.write_text("\n".join([*lines[:-1], separator.join(lines[-1].split(separator)[:8])]))
    with pytest.raises(DataError, match=r"first line has \d+ fields, .*line 3 has 8"):
        prepare(market(), path, tmp_path / "other", encoder=encoder(market()))
    path.write_text(whole.rstrip("\n"))
    assert len(prepare(market(), path, tmp_path / "store", encoder=encoder(market()))) == 2


def test_the_time_of_the_payment_itself_has_no_default(tmp_path: Path) -> None:
    """That of an earlier one has: one file and one request say the same."""
    of = market({"defaults": {"at": 0}})
    with pytest.raises(DataError, match="null_time"):
        stored(of, [row(at="")], tmp_path)
    with pytest.raises(DataError, match="null_time"):
        single(of, row(at=""))


def test_a_row_with_more_fields_than_the_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    _tabular([row(id="p1"), row(id="p2")]).write_csv(path, separator="\t")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2] + "\tmore"]) + "\n")
    with pytest.raises(
        DataError, match="extra_field:row: must not have more fields than the header: 1 rows; the first: id p2"
    ):
        prepare(market(), path, tmp_path / "store", encoder=encoder(market()))


@pytest.mark.parametrize(("suffix", "separator"), [("tsv", "\t"), ("csv", ",")])
def test_a_quote_swallows_no_payment(suffix: str, separator: str, tmp_path: Path) -> None:
    """With tabs it is a letter; with commas the file is refused, since it makes one row of two."""
    of = market()
    rows = [row(id=f"p{at}", amount=str(10 * at)) for at in range(4)]
    rows[1]["device"], rows[2]["device"] = '"phone', 'x"'
    path = tmp_path / f"rows.{suffix}"
    lines = [separator.join(rows[0]), *(separator.join(line.values()) for line in rows)]
    path.write_text("\n".join(line.replace(".", "__DOT__") if not at else line for at, line in enumerate(lines)) + "\n")
    if suffix == "csv":
        with pytest.raises(DataError, match=r"rows.csv: line 3: a quote is not closed before line 4"):
            prepare(of, path, tmp_path / "store", encoder=encoder(of))
        return
    store = prepare(of, path, tmp_path / "store", encoder=encoder(of))
    assert store.columns(["id", "amount"]).rows() == [("p0", 0.0), ("p1", 10.0), ("p2", 20.0), ("p3", 30.0)]


def test_a_table_to_score_needs_no_outcome(tmp_path: Path) -> None:
    for name in ("rows.csv", "rows.jsonl"):
        path = tmp_path / name
        rows = [row(fraud=None)]
        write(rows, path) if name.endswith("jsonl") else _tabular(rows).write_csv(path)
        assert prepare(market(), path, tmp_path / "store", encoder=encoder(market())).label.tolist() == [-1]
        with pytest.raises(DataError, match="fraud: missing"):
            prepare(market(**SPLIT), path, tmp_path / "store")


BAD = {
    "number": row(id="b1", amount="five"),
    "inside": row((PAST[0], ("z", 50, "phone", "3", "x", "1")), id="b2"),
    "later": row((("z", -5, "phone", "3", "1", "1"),), id="b3"),
    "gone": row(id="b4", **{"hist.device": None}),
}


def test_bad_rows_are_told_of_with_counts_and_ids(tmp_path: Path) -> None:
    rows = [row(id="p1"), *BAD.values(), *({**BAD["number"], "id": f"n{at}"} for at in range(6))]
    with pytest.raises(DataError) as caught:
        stored(market(), rows, tmp_path)
    message = str(caught.value)
    assert message.startswith("log: 10 of 11 rows break a rule")
    assert "not_a_number:amount: must be a finite number: 7 rows; the first: id b1 ('five'), id n0" in message
    assert "id n3" in message
    assert "id n4" not in message
    assert "not_a_number:hist.amount: must be a finite number: 1 rows; the first: id b2 ('x')" in message
    assert f"id b3 ('{NOW + 5} and {NOW}')" in message
    assert "missing_field:hist.device: is required: 1 rows; the first: id b4 ('')" in message
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_quarantine_takes_bad_rows_as_they_stand(suffix: str, tmp_path: Path) -> None:
    bad = {name: line for name, line in BAD.items() if name != "gone" or suffix == "jsonl"}
    rows, path, of = [row(id="p1"), *bad.values(), row(id="p2")], tmp_path / f"rows.{suffix}", market()
    if suffix == "jsonl":
        write(rows, path)
    else:
        frame = _tabular(rows)
        frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path)
    store = prepare(
        of, path, tmp_path / "store", encoder=encoder(of), quarantine=Quarantine(tmp_path / "bad.parquet", limit=1)
    )
    found = pl.read_parquet(tmp_path / "bad.parquet")
    assert store.ids().to_list() == ["p1", "p2"]
    assert store.data_report["rows_quarantined"] == len(bad)
    assert found["id"].to_list() == [line["id"] for line in bad.values()]
    names = [name for name in row() if name in found.columns]
    assert set(names) == set(row())
    for line, kept in zip(bad.values(), found.iter_rows(named=True), strict=True):
        assert {name: kept[name] for name in line} == line
    assert found["__reason"].to_list()[:3] == [
        "not_a_number:amount",
        "not_a_number:hist.amount",
        "negative_age:hist.cat.at",
    ]
    good = prepare(of, write([rows[0], rows[-1]], tmp_path / "good.jsonl"), tmp_path / "good", encoder=encoder(of))
    for name in ("categorical.npy", "numerical.npy", "cid.order.npy"):
        assert store.manifest["files"][name] == good.manifest["files"][name]


def test_of_equal_ids_and_excluded_rows_the_right_history_is_kept(tmp_path: Path) -> None:
    """An excluded row with the same id stands before the row that is kept."""
    features = {**TABLE["features"], "exclude": [{"column": "customer", "values": ["test"]}]}
    of = market(features=features)
    rows = [row((), id="p1", customer="test"), row(PAST, id="p1"), row(PAST[:1], id="p2", at=str(NOW + 1))]
    store = stored(of, rows, tmp_path)
    assert (~gathered(store).padding).sum(1).tolist() == [4, 2]
    assert store.data_report["rows_excluded"] == 1
    with pytest.raises(DataError, match="duplicate_id:id"):
        stored(of, [*rows, row((), id="p1")], tmp_path)


def test_two_histories_share_the_payments_they_tell_of(tmp_path: Path) -> None:
    of, line = market(TWO_FIELDS, history=TWO), row()
    for history in ("cid", "ccid"):
        line |= {name.replace("hist", history): value for name, value in told(PAST).items()}
    store = stored(of, [line], tmp_path)
    assert store.manifest["n_stored"] == 1 + len(PAST)
    assert gathered(store, "ccid").age_seconds.tolist() == [[300, 200, 100, 0]]


def test_a_store_that_does_not_fit_its_manifest_is_refused(tmp_path: Path) -> None:
    store = stored(market(), [row()], tmp_path)
    path = store.path / "manifest.json"
    good = json.loads(path.read_text())
    for key, value in (("n_stored", 9), ("n_events", 2)):
        path.write_text(json.dumps({**good, key: value}))
        with pytest.raises(StoreError, match="must have shape"):
            EventStore.open(store.path)


def test_a_killed_reading_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reader, "clean_log", killed)
    with pytest.raises(KeyboardInterrupt):
        stored(market(), [row()], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_calendar_features_are_of_each_payments_own_time(tmp_path: Path) -> None:
    of = market(features={**TABLE["features"], "calendar": ["hour_of_day"]})
    line = row((("a", 7200, "phone", "3", "1", "2"),))
    many, alone = gathered(stored(of, [line], tmp_path)), single(of, line).histories["cid"]
    np.testing.assert_array_equal(many.categorical, alone.categorical)
    hours = many.categorical[0, 3:, 2] - encoder(of).calendar_vocabularies[0].known_row
    assert hours.tolist() == [NOW % DAY // 3600 - 2, NOW % DAY // 3600]


def test_wire_errors_are_ours(tmp_path: Path) -> None:
    with pytest.raises(TSAError):
        prepare(market(), tmp_path / "none.jsonl", tmp_path / "store")
