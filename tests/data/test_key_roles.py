"""Histories of accounts, which are senders here and receivers there: by definition, offline as online, point in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.past_events import past_of
from tsa.config.market import Market
from tsa.data.aggregates.compute import compute_aggregates
from tsa.data.aggregates.spec import AggregateSpec
from tsa.data.history import gather
from tsa.data.key_roles import PARTNER, compared_keys, find_roles
from tsa.data.online.encoded import tie_break_key
from tsa.data.online.histories import event_histories, gather_histories
from tsa.data.online.payments import PaymentReader
from tsa.data.store.prepare import encoded_log, prepare
from tsa.data.store.store import EventStore
from tsa.errors import DataError, MarketError

START = 1_525_651_200
TABLE: dict[str, Any] = {
    "name": "transfers",
    "event": {"id": "id", "time": "time", "time_unit": "s", "asks": {"column": "kind", "values": ["question"]}},
    "label": {"column": "fraud", "known_at": "known", "as_feature": True},
    "history": [
        {"name": "account", "keys": ["sender", "receiver"], "length": 4},
        {"name": "bank", "key": "bank", "length": 3},
    ],
    "features": {"categorical": [{"name": "kind", "min_count": 1}], "numerical": ["amount"], "calendar": ["month"]},
    "split": {"fractions": [0.4, 0.2, 0.2, 0.2]},
    "trees": {"history_length": 5, "windows": ["1h", "1d"]},
}
SCHEMA = {
    "id": pl.String(),
    "time": pl.Float64(),
    "sender": pl.String(),
    "receiver": pl.Int64(),
    "bank": pl.String(),
    "kind": pl.String(),
    "amount": pl.Float64(),
    "fraud": pl.Int64(),
    "known": pl.Float64(),
}
Row = dict[str, Any]
KEYS = ("account_receiver", "account_sender", "bank", PARTNER)
LIMITED = Market.from_dict({**TABLE, "privacy": {"retention_days": 0.2}})


def random_rows(seed: int, n: int = 60) -> list[Row]:
    """Transfers in (time, id) order among few accounts: at equal times, to oneself, and without one of the accounts."""
    rng = np.random.default_rng(seed)
    rows = []
    for at in rng.permutation(n).tolist():
        time = float(START + 1800 * int(rng.integers(0, 40)))
        fraud = [0, 1, None][int(rng.integers(0, 3))]
        rows.append(
            {
                "id": f"t{at}",
                "time": time,
                "sender": str(rng.integers(1, 6)) if rng.random() > 0.1 else None,
                "receiver": int(rng.integers(1, 6)) if rng.random() > 0.1 else None,
                "bank": f"b{rng.integers(0, 2)}",
                "kind": ("wire", "card", "question")[int(rng.integers(0, 3))],
                "amount": float(rng.integers(-50, 50)),
                "fraud": fraud,
                "known": None if fraud is None else time + 1800.0 * int(rng.integers(0, 20)),
            }
        )
    return sorted(rows, key=lambda row: (row["time"], tie_break_key(row["id"])))


def frame(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    folder = tmp_path_factory.mktemp("transfers")
    frame(random_rows(0, 300)).write_parquet(folder / "log.parquet")
    return prepare(Market.from_dict(TABLE), folder / "log.parquet", folder / "store")


@pytest.fixture(scope="module")
def spec(trained: EventStore) -> AggregateSpec:
    return AggregateSpec.of(trained, np.arange(200), history_length="market")


def account(row: Row, column: str) -> str | None:
    return None if row[column] is None else str(row[column])


def key_of(row: Row, name: str, own: str | None) -> str | None:
    """The key of an event that is compared; own: that of the history."""
    if name == PARTNER:
        return account(row, "sender" if account(row, "receiver") == own else "receiver")
    return account(row, name.removeprefix("account_"))


def role_in(row: Row, key: str) -> str:
    roles = [column for column in ("sender", "receiver") if account(row, column) == key]
    return "both" if len(roles) == 2 else roles[0]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), limited=st.booleans())
def test_histories_are_their_definition(trained: EventStore, seed: int, limited: bool) -> None:
    rows = random_rows(seed)
    market = LIMITED if limited else trained.market
    with encoded_log(market, frame(rows), trained.encoder) as store:
        roles = trained.encoder.role_vocabularies[0]
        assert (roles.name, roles.values) == ("account role", ("sender", "receiver", "both"))
        for column in ("sender", "receiver"):
            index = store.histories[f"account_{column}"]
            found = gather(store.events, index, np.arange(len(rows)), 4)
            for at, row in enumerate(rows):
                key = account(row, column)
                before = [
                    other
                    for other in rows[:at]
                    if key is not None and key in (account(other, "sender"), account(other, "receiver"))
                    if other["kind"] != "question" and other["time"] >= row["time"] - market.retention_seconds
                ][-3:]
                expected = [role_in(other, str(key)) for other in before]
                expected.append(column if key is None else role_in(row, key))
                of_role = found.categorical[at, :, trained.encoder.categorical_names.index("account role")]
                shown = [roles.values[code - roles.known_row] for code in of_role[~found.padding[at]].tolist()]
                assert shown == expected, (at, column)
                ages = [row["time"] - other["time"] for other in before]
                assert found.age_seconds[at][~found.padding[at]].tolist() == [*ages, 0.0]
                assert not of_role[found.padding[at]].any()
                if key is not None:
                    pairs = [[(key_of(other, name, key), key_of(row, name, key)) for name in KEYS] for other in before]
                    same = [[one == now and now is not None for one, now in pair] for pair in pairs]
                    assert found.same_key[at][~found.padding[at]][:-1].tolist() == same, (at, column)
                assert not found.same_key[at][found.padding[at]].any()
        bank = gather(store.events, store.histories["bank"], np.arange(len(rows)), 3)
        assert not bank.categorical[..., -1].any(), "no role in a history with one key"
        assert not bank.same_key[..., KEYS.index("bank")].any(), "all events of its history have the same bank"
        assert not bank.same_key[..., KEYS.index(PARTNER)].any(), "a bank has no partner"


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    cut=st.integers(0, 59),
    size=st.integers(1, 20),
    mixed=st.booleans(),
    limited=st.booleans(),
)
def test_single_payments_as_in_a_log(
    trained: EventStore, spec: AggregateSpec, seed: int, cut: int, size: int, mixed: bool, limited: bool
) -> None:
    """Any payments of a log together, in any order, with the others known: as the log has them, aggregates to the bit."""
    market, rows = LIMITED if limited else trained.market, random_rows(seed)
    reader = PaymentReader(market, trained.encoder)
    current = list(range(cut, min(cut + size, len(rows))))
    others = [row for at, row in enumerate(rows) if at not in current and (mixed or at < cut)]
    past = past_of(reader.read_all(others, outcomes=True), market)
    order = np.random.default_rng(seed).permutation(len(current))
    payments = reader.read_all([rows[current[at]] for at in order])
    seen = event_histories(market, payments, past)
    found = gather_histories(market, trained.encoder, seen)
    with encoded_log(market, frame(rows), trained.encoder) as log:
        for view in market.views:
            wanted = gather(log.events, log.histories[view.name], np.asarray(current)[order], view.length)
            for name in ("categorical", "numerical", "age_seconds", "padding", "same_key"):
                np.testing.assert_array_equal(
                    getattr(found[view.name], name), getattr(wanted, name), err_msg=f"{view.name} {name}"
                )
        if size == 1:
            wanted_aggregates = compute_aggregates(spec, log, np.asarray(current))
            got = compute_aggregates(spec, seen)
            wrong = (got.view(np.uint32) != wanted_aggregates.view(np.uint32)).any(axis=0)
            assert not wrong.any(), [spec.names[at] for at in np.flatnonzero(wrong)]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), cut=st.integers(0, 59), shuffle=st.randoms(use_true_random=False))
def test_later_events_and_the_order_of_rows_change_nothing(
    trained: EventStore, spec: AggregateSpec, seed: int, cut: int, shuffle: Any
) -> None:
    rows = random_rows(seed)
    with encoded_log(trained.market, frame(rows), trained.encoder) as log:
        before = compute_aggregates(spec, log)[: cut + 1]
    now = rows[cut]["time"]
    seen = [dict(row) for row in rows[: cut + 1]]
    for row in seen:
        if row["known"] is not None and row["known"] > now:
            row["fraud"] = 1 - row["fraud"]
    shuffle.shuffle(seen)
    later = [{**row, "id": f"later{row['id']}", "time": now + 1 + row["time"] - START} for row in random_rows(seed + 1)]
    later = [{**row, "known": None if row["known"] is None else row["time"] + 60.0} for row in later]
    with encoded_log(trained.market, frame([*later, *seen]), trained.encoder) as log:
        after = compute_aggregates(spec, log)[: cut + 1]
    np.testing.assert_array_equal(after.view(np.uint32)[cut], before.view(np.uint32)[cut])


def test_aggregates_of_roles(trained: EventStore) -> None:
    """Of each role only its events, and the other account of an event in whichever column it is."""
    start = START
    pairs = [("1", 2), ("2", 1), ("3", 1), ("1", 1), ("1", 2)]
    rows = [
        {**row, "time": start + 60.0 * at, "sender": sender, "receiver": receiver, "kind": "wire"}
        | {"id": f"t{at}", "fraud": at % 2, "known": start + 60.0 * at, "amount": 10.0 * at}
        for at, (row, (sender, receiver)) in enumerate(zip(random_rows(1), pairs, strict=False))
    ]
    spec = AggregateSpec.of(trained, np.arange(200), history_length=None)
    with encoded_log(trained.market, frame(rows), trained.encoder) as log:
        values = compute_aggregates(spec, log, np.array([4]))[0]
    found = dict(zip(spec.names, values.tolist(), strict=True))
    assert found["account_sender/events/count_all"] == 4
    assert found["account_sender/as sender/events/count_all"] == 2  # the first, and that to itself
    assert found["account_sender/as receiver/events/count_all"] == 3
    assert found["account_receiver/as sender/events/count_all"] == 1
    assert found["account_sender/key/partner/count_all"] == 2, "account 2 as receiver, and as sender"
    assert found["account_sender/key/account_receiver/count_all"] == 1
    assert found["account_sender/as sender/outcome/fraud_all"] == 1
    assert found["account_sender/as receiver/outcome/known_all"] == 3
    assert found["account_sender/as receiver/number/amount/total_all"] == pytest.approx(60.0, rel=1e-4)
    assert found["account_sender/as sender/gap/last_seconds_all"] == 60.0
    assert not any(name.startswith("bank/as ") or name.startswith("bank/key/partner") for name in spec.names)
    assert AggregateSpec.from_dict(spec.to_dict()) == spec


def test_three_columns_have_a_role_for_several(tmp_path: Path) -> None:
    history = [{"name": "party", "keys": ["a", "b b", "c"], "length": 5}]
    market = Market.from_dict(
        {**TABLE, "event": {"id": "id", "time": "time", "time_unit": "s"}, "history": history, "trees": {}}
    )
    assert [view.name for view in market.views] == ["party_a", "party_b_b", "party_c"]
    rows = frame(random_rows(2, 90)).with_columns(
        a=pl.int_range(90) % 4, **{"b b": pl.int_range(90) % 3}, c=pl.int_range(90) % 2
    )
    rows.write_parquet(tmp_path / "log.parquet")
    store = prepare(market, tmp_path / "log.parquet", tmp_path / "store")
    table = rows.sort("time", maintain_order=True)
    assert store.encoder.role_vocabularies[0].values == ("a", "b b", "c", "several")
    columns = ["a", "b b", "c"]
    values = store.columns(columns).to_numpy()
    index = EventStore.open(store.path).histories["party_b_b"]
    for row in range(len(table)):
        seen = np.asarray(index.order[int(index.start[row]) : int(index.position[row]) + 1])
        assert seen.tolist() == [at for at in range(row + 1) if values[row, 1] in values[at]]
        same = values[row] == values[row, 1]
        assert index.role is not None
        assert index.role[index.position[row]] == (3 if same.sum() > 1 else 1)


def test_compared_keys() -> None:
    assert compared_keys(Market.from_dict(TABLE)) == KEYS
    one_key = {**TABLE, "history": [{"name": "bank", "key": "bank", "length": 3}]}
    assert compared_keys(Market.from_dict(one_key)) == (), "all events of a history have its key"


def test_find_roles() -> None:
    tokens = np.array([[5, 6], [6, 5], [5, 5], [1, 2], [0, 0]], np.uint32)
    assert find_roles(np.array([5, 5, 5, 5, 0], np.uint32), tokens, np.array([0, 0, 0, 1, 1])).tolist() == [
        0,
        1,
        2,
        1,
        1,
    ]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"history": [{"name": "a", "keys": ["x"]}]}, "must have at least 2 entries"),
        ({"history": [{"name": "a", "keys": ["x", "x"]}]}, "must be different columns"),
        ({"history": [{"name": "a", "key": "x", "keys": ["x", "y"]}]}, r"takes key, or keys \(got both\)"),
        ({"history": [{"name": "a", "keys": ["x", "y"]}, {"name": "a_x", "key": "z"}]}, "'a_x' occurs twice"),
        ({"history": [{"name": "a", "keys": ["x ", "x-"]}]}, "'a_x_' occurs twice"),
        ({"features": {"categorical": ["account role"]}}, "'account role' occurs twice"),
        (
            {"privacy": {"pseudonymise": ["sender"], "secret_env": "X"}},
            r"must name all or none of history\.account\.keys",
        ),
        ({"evaluation": {"entity": "account"}}, "must be one of the histories"),
    ],
)
def test_markets_that_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(MarketError, match=match):
        Market.from_dict({**TABLE, **changes})


def test_a_log_without_one_of_the_columns_is_refused(tmp_path: Path) -> None:
    frame(random_rows(1)).drop("receiver").write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match="receiver"):
        prepare(Market.from_dict(TABLE), tmp_path / "log.parquet", tmp_path / "store")
