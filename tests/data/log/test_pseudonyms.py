"""Pseudonyms, forbidden attributes and the retention limit: for logs and for rows that carry their own history."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.wire_rows import NOW, PAST, TABLE, encoder, gathered, row, single, stored, write
from tsa.config.market import Market
from tsa.data.history import apply_retention, gather, index_histories, within_retention
from tsa.data.log.quarantine import Quarantine
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError, DataError, MarketError

DAY = 86_400
SECRET = "a secret that is long enough for HMAC"
LOG = {key: value for key, value in TABLE.items() if key != "wire"}


def pseudonym(value: str) -> str:
    return hmac.new(SECRET.encode(), value.encode(), hashlib.sha256).hexdigest()[:32]


def market(table: dict[str, Any], **privacy: Any) -> Market:
    return Market.from_dict({**table, "privacy": privacy})


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_TESTS", SECRET)


VEIL = {"secret_env": "SECRET_OF_TESTS"}


def _contents(store: EventStore) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(store.path.iterdir()))


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_log_is_veiled_as_it_is_read(suffix: str, tmp_path: Path) -> None:
    """Keys keep their histories; nothing in the store shows a value or the secret; numbers and texts are veiled alike."""
    of = market(LOG, pseudonymise=["customer"], **VEIL)
    rows = [{**row(), "id": str(at), "at": NOW + at, "customer": (7001, 7002)[at % 2]} for at in range(6)]
    frame = pl.DataFrame(rows)
    log = tmp_path / f"log.{suffix}"
    frame = frame.with_columns(pl.col("amount", "items", "orders").cast(pl.Float64))
    {"parquet": frame.write_parquet, "csv": frame.write_csv, "jsonl": frame.write_ndjson}[suffix](log)
    store = prepare(of, log, tmp_path / "store", encoder=encoder(of))
    assert store.columns(["customer"])["customer"].to_list() == [pseudonym("7001"), pseudonym("7002")] * 3
    assert (~gathered(store).padding).sum(1).tolist() == [1, 1, 2, 2, 3, 3]
    assert [str(name) for name in store.ids()] == list("012345")
    contents = _contents(store)
    assert SECRET.encode() not in contents
    assert b"7001" not in contents


@pytest.mark.usefixtures("secret")
def test_wire_rows_are_veiled_as_they_are_read(tmp_path: Path) -> None:
    of = market(TABLE, pseudonymise=["customer", "id"], **VEIL)
    store = stored(of, [row(id="payment-1"), row(id="payment-2", at=str(NOW + 1))], tmp_path)
    assert store.ids().to_list() == [pseudonym("payment-1"), pseudonym("payment-2")]
    assert store.columns(["customer"])["customer"].to_list() == [pseudonym("ann")] * 2
    assert b"payment-1" not in _contents(store)
    np.testing.assert_array_equal(gathered(store).numerical[:1], single(of, row()).histories["cid"].numerical)
    assert single(of, row(id="payment-1")).ids == (pseudonym("payment-1"),)
    with pytest.raises(DataError, match=r"an object per payment [(]got str[)]$"):
        single(of, '["ann"]')
    with pytest.raises(DataError, match=f"payment '{pseudonym('payment-1')}': not_a_number:amount"):
        single(of, row(id="payment-1", amount="x"))
    for changes in ({"id": ["payment-1"]}, {"device": ["payment-1"]}, {"hist.device": ["payment-1"]}):
        with pytest.raises(DataError, match="not_a_text") as refused:
            single(of, row(**changes))
        assert "payment-1" not in str(refused.value)


@pytest.mark.usefixtures("secret")
def test_a_veiled_feature_is_known_by_its_pseudonym(tmp_path: Path) -> None:
    """In the row and inside its history, from a file and as a request."""
    of = market(TABLE, pseudonymise=["device"], **VEIL)
    clean = pl.DataFrame(
        {
            "device": [pseudonym("phone"), pseudonym("tablet")],
            "hour": ["3", "12"],
            "amount": [0.0, 1.0],
            "items": [0.0, 1.0],
            "orders": [0.0, 1.0],
        }
    )
    from tsa.data.encoding.encoder import Encoder
    from tsa.data.wire import WireReader

    veiled = Encoder.fit(of, clean)
    lines = [row(), row((("a", 9, "never seen", "3", "1", "1"),), id="p2", device="tablet")]
    store = prepare(of, write(lines, tmp_path / "rows.jsonl"), tmp_path / "store", encoder=veiled)
    vocabulary = veiled.categorical_vocabularies[0]
    known = [vocabulary.known_row + vocabulary.values.index(pseudonym(name)) for name in ("phone", "tablet")]
    found = gathered(store).categorical
    assert found[0, :, 0].tolist() == [0, known[0], known[1], vocabulary.missing_row, known[0]]
    assert found[1, 3:, 0].tolist() == [vocabulary.unknown_row, known[1]]
    np.testing.assert_array_equal(WireReader(of, veiled).read(lines).histories["cid"].categorical, found)


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize("table", [LOG, TABLE], ids=["log", "wire"])
def test_test_accounts_are_excluded_by_their_own_names(table: dict[str, Any], tmp_path: Path) -> None:
    features = {**table["features"], "exclude": [{"column": "customer", "values": ["tester", 7]}]}
    of = market({**table, "features": features}, pseudonymise=["customer"], **VEIL)
    rows = [row(id=str(at), customer=who) for at, who in enumerate(("tester", "7", "ann"))]
    store = prepare(of, write(rows, tmp_path / "rows.jsonl"), tmp_path / "store", encoder=encoder(of))
    assert store.data_report["rows_excluded"] == 2
    assert store.market.features.exclude[0].values == ("tester", 7)


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize("table", [LOG, TABLE], ids=["log", "wire"])
def test_quarantine_and_messages_are_veiled_too(table: dict[str, Any], tmp_path: Path) -> None:
    of = market(table, pseudonymise=["customer", "id"], **VEIL)
    path = write([row(id="good"), row(id="payment-9", amount="x")], tmp_path / "rows.jsonl")
    with pytest.raises(DataError) as caught:
        prepare(of, path, tmp_path / "store", encoder=encoder(of))
    assert f"id {pseudonym('payment-9')} ('x')" in str(caught.value)
    assert "payment-9" not in str(caught.value)
    prepare(of, path, tmp_path / "store", encoder=encoder(of), quarantine=Quarantine(tmp_path / "bad.parquet", limit=1))
    bad = pl.read_parquet(tmp_path / "bad.parquet")
    assert (bad["id"].to_list(), bad["customer"].to_list()) == ([pseudonym("payment-9")], [pseudonym("ann")])
    assert ("hist.amount" in bad.columns) == (table is TABLE)
    assert "hist.cat.id" not in bad.columns


SHIFTED = {
    "a field too many": lambda line: line.replace(",Xaver,", ",,Xaver,"),
    "a quote that is not closed": lambda line: line.replace("phone", '"phone'),
    "a quote within": lambda line: line.replace("phone", 'ph"one'),
}


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize("table", [LOG, TABLE], ids=["log", "wire"])
@pytest.mark.parametrize("name", SHIFTED)
def test_of_rows_that_are_shifted_nothing_is_told(
    table: dict[str, Any], name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is to be veiled may then stand in any field, or in what the reader of tables says of it."""
    of = market(table, pseudonymise=["customer"], **VEIL)
    rows = [row(id=f"p{at}", at=str(NOW + at), customer="Xaver") for at in range(4)]
    lines = [",".join(rows[0]), *(",".join(line.values()) for line in rows)]
    lines[2], lines[3] = SHIFTED[name](lines[2]), lines[3].replace("tablet", 'tablet"')
    log, bad = tmp_path / "log.csv", tmp_path / "bad.parquet"
    log.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as refused:
        prepare(of, log, tmp_path / "store", encoder=encoder(of))
    assert refused.value.__cause__ is None
    told = str(refused.value) + "".join(capfd.readouterr())
    with contextlib.suppress(DataError):  # where no row can be told from the others
        prepare(of, log, tmp_path / "store", encoder=encoder(of), quarantine=Quarantine(bad, limit=1))
        told += str(pl.read_parquet(bad).to_dicts()) + bad.read_bytes().decode("latin-1")
    assert "Xaver" not in told


@pytest.mark.parametrize("table", [LOG, TABLE], ids=["log", "wire"])
@pytest.mark.parametrize(
    ("value", "finding"), [(None, "it is not set"), ("short", "it has 5 bytes"), ("", "it is not set")]
)
def test_without_a_secret_nothing_is_read(
    table: dict[str, Any], value: str | None, finding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SECRET_OF_TESTS", raising=False)
    if value is not None:
        monkeypatch.setenv("SECRET_OF_TESTS", value)
    of = market(table, pseudonymise=["customer"], **VEIL)
    with pytest.raises(ConfigError, match=rf"SECRET_OF_TESTS must hold the secret.* [(]got {finding}") as caught:
        prepare(of, write([row()], tmp_path / "rows.jsonl"), tmp_path / "store", encoder=encoder(of))
    assert not value or value not in str(caught.value)
    if table is TABLE:
        with pytest.raises(ConfigError, match="SECRET_OF_TESTS"):
            single(of, row())


@pytest.mark.parametrize(
    ("table", "privacy", "finding"),
    [
        (LOG, {"forbidden": ["Device"]}, "features: must not be one of privacy.forbidden (got 'device'"),
        (LOG, {"forbidden": ["orders"]}, "features: must not be one of privacy.forbidden (got 'orders'"),
        (LOG, {"forbidden": ["fraud"]}, "label.column: must not be one of privacy.forbidden"),
        (
            {**LOG, "features": {**LOG["features"], "engineered": ["customer.Gender"]}},
            {"forbidden": ["gender"]},
            "features: must not be one of privacy.forbidden (got 'customer.Gender'",
        ),
        (
            {**LOG, "features": {**LOG["features"], "engineered": ["gender.code", " Gender "]}},
            {"forbidden": ["gender "]},
            "features: must not be one of privacy.forbidden (got ' Gender '",
        ),
        (
            {**LOG, "features": {**LOG["features"], "engineered": ["gender.code"]}},
            {"forbidden": ["gender"]},
            "features: must not be one of privacy.forbidden (got 'gender.code'",
        ),
        (
            {**TABLE, "wire": {**TABLE["wire"], "exceptions": {"device": "gender"}}},
            {"forbidden": ["gender"]},
            "wire: must not be one of privacy.forbidden (got 'gender'",
        ),
        (LOG, {"forbidden": ["CUSTOMER"]}, "history.cid.key: must not be one of privacy.forbidden"),
        (
            {**LOG, "evaluation": {"segments": ["gender"]}},
            {"forbidden": ["gender"]},
            "evaluation.segments: must not be one of privacy.forbidden (got 'gender'",
        ),
        (TABLE, {"forbidden": ["amount"]}, "event.amount: must not be one of privacy.forbidden"),
        (
            {**LOG, "features": {**LOG["features"], "exclude": [{"column": "faith", "values": ["x"]}]}},
            {"forbidden": ["faith"]},
            "features.exclude: must not be one of privacy.forbidden",
        ),
        (LOG, {"pseudonymise": ["customer"]}, "privacy: pseudonymise needs secret_env"),
        (LOG, {"pseudonymise": ["amount"], **VEIL}, "privacy.pseudonymise: must be the id, keys, categorical features"),
        (LOG, {"pseudonymise": ["at"], **VEIL}, "(got 'at'"),
        (LOG, {"pseudonymise": ["fraud"], **VEIL}, "(got 'fraud'"),
        (LOG, {"secret_env": "not a name"}, "privacy.secret_env"),
        (LOG, {"retention_days": 0}, "privacy.retention_days: must be above 0 (got 0"),
        (LOG, {"retention": 3}, "privacy.retention: unknown key; did you mean `retention_days`?"),
    ],
)
def test_what_a_market_must_not_say(table: dict[str, Any], privacy: dict[str, Any], finding: str) -> None:
    with pytest.raises(MarketError) as caught:
        market(table, **privacy)
    assert finding in str(caught.value)


def test_the_secret_is_no_part_of_a_market(monkeypatch: pytest.MonkeyPatch) -> None:
    of = market(LOG, pseudonymise=["customer"], **VEIL)
    before = of.fingerprint
    monkeypatch.setenv("SECRET_OF_TESTS", SECRET)
    assert market(LOG, pseudonymise=["customer"], **VEIL).fingerprint == before
    from tsa.data.log.pseudonyms import Pseudonymizer

    assert SECRET not in repr(Pseudonymizer.of(of))


times = st.lists(st.integers(0, 30), max_size=30).map(sorted)


@settings(max_examples=150, deadline=None)
@given(times=times, keys=st.randoms(use_true_random=False), limit=st.integers(1, 31))
def test_the_index_of_a_log_shows_nothing_older_than_the_limit(times: list[int], keys: Any, limit: int) -> None:
    """Against its definition, event by event; and all else is as it was."""
    time = np.array(times, np.float64) * 1000.25
    key = np.array([keys.randrange(-1, 3) for _ in times], np.int64)
    index = index_histories(key)
    cut = apply_retention(index, time, limit * 1000.25)
    for at in range(len(times)):
        seen = index.order[index.start[at] : index.position[at] + 1]
        expected = [row for row in seen.tolist() if time[row] >= time[at] - limit * 1000.25]
        assert cut.order[cut.start[at] : cut.position[at] + 1].tolist() == expected
        assert within_retention(time[expected], time[at], limit * 1000.25).all()
    np.testing.assert_array_equal(cut.order, index.order)
    np.testing.assert_array_equal(cut.position, index.position)


ages = st.lists(st.integers(0, 8 * DAY), min_size=1, max_size=8).map(lambda found: sorted(found, reverse=True))


@settings(max_examples=30, deadline=None)
@given(ages=ages, days=st.sampled_from([1, 2.5, 7]), wire=st.booleans())
def test_nothing_older_than_the_limit_reaches_a_model(ages: list[int], days: float, wire: bool) -> None:
    """Through a store of a log or of wire rows; a request of a wire market sees the same."""
    table = {**(TABLE if wire else LOG), "history": [{"name": "cid", "key": "customer", "length": 9}]}
    of = market(table, retention_days=days)
    kept = [age for age in ages if age <= days * DAY]
    past = [(str(at), age, "phone", "3", "1", "2") for at, age in enumerate(ages)]
    rows = [row(past)] if wire else [*({**row(), "id": i, "at": str(NOW - age)} for i, age, *_ in past), row(id="z")]
    with tempfile.TemporaryDirectory() as folder:
        store = stored(of, rows, Path(folder))
        history = gather(store.events, store.histories["cid"], np.array([len(store) - 1]), 9)
        found = history.age_seconds[0][~history.padding[0]].tolist()
        assert found == [float(np.float32(age)) for age in kept] + [0.0]
        if wire:
            alone = single(of, row(past)).histories["cid"]
            np.testing.assert_array_equal(alone.age_seconds, history.age_seconds)


def test_what_lies_beyond_the_limit_may_change_without_a_trace(tmp_path: Path) -> None:
    of = market(TABLE, retention_days=1)
    old = (("x", 2 * DAY, "phone", "3", "1", "2"), *PAST)
    other = (("x", 2 * DAY, "tablet", "12", "not even a number", "9"), *PAST)
    files = [stored(of, [row(past)], tmp_path / name).manifest["files"] for name, past in (("a", old), ("b", other))]
    for name in ("categorical.npy", "numerical.npy", "time_seconds.npy", "cid.order.npy"):
        assert files[0][name] == files[1][name]
