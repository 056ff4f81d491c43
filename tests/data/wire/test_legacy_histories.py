"""Rows as the legacy system's handlers read them: each rule with its outcome, the same for a single row and for files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.wire_rows import NOW, PAST, TABLE, row, told, write
from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.history import HistoryArrays, gather
from tsa.data.log.quarantine import Quarantine
from tsa.data.store.prepare import prepare
from tsa.data.wire import WireReader
from tsa.errors import DataError, MarketError
from tsa.legacy.encoder import legacy_encoder

MAPS = {
    "device": {"phone": 1, "tablet": 2, "true": 3, "None": 4},
    "hour": {"0": 5, "1": 6, "3": 7, "12": 8, "false": 9, "-1.0": 10},
    "risk": {"0": 11, "0.95": 12, "1.0": 13, "0.4285": 14},
}
DEFAULTS: dict[str, Any] = {"device": "phone", "hour": "-1.0", "risk": 0.0, "amount": 2, "items": "1", "orders": 0.5}
SCALES = {
    "seq_num_scale_": [0.5, 0.25],
    "seq_num_min_": [0.0, 1.0],
    "num_static_scale_": [2.0],
    "num_static_min_": [-1.0],
}
FIELDS = ("categorical", "numerical", "age_seconds", "padding")
WIRE = {"numeric_categorical": ["hour"], "decimal_categorical": ["risk"], "rules": "legacy", "age_cap_seconds": 2e7}


def market(**wire: Any) -> Market:
    features = {"categorical": ["device", "hour", "risk"], "numerical": ["amount", "items"], "engineered": ["orders"]}
    return Market.from_dict({**TABLE, "features": features, "wire": {**TABLE["wire"], **WIRE, **wire}})


def encoder(of: Market) -> Encoder:
    return legacy_encoder(of, cat_to_index=MAPS, defaults=DEFAULTS, preprocessor=SCALES)


def line(past: Any = PAST, **changes: Any) -> dict[str, Any]:
    """A row of this market: every earlier payment has the risk 0.95."""
    own = {"risk": "0.95", "hist.risk": "~".join("0.95" for _ in past)}
    return row(past, **{**own, **changes})


def in_files(of: Market, rows: list[dict[str, Any]], folder: Path, quarantine: bool = False) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    aside = Quarantine(folder / "quarantine.parquet", 1.0) if quarantine else None
    log = write(rows, folder / "rows.jsonl")
    return prepare(of, log, folder / "store", encoder=encoder(of), quarantine=aside)


def both(of: Market, one: dict[str, Any], folder: Path) -> HistoryArrays:
    """The arrays of a row, which both ways must agree on."""
    alone = WireReader(of, encoder(of)).read(json.dumps(one)).histories["cid"]
    store = in_files(of, [one], folder)
    many = gather(store.events, store.histories["cid"], np.arange(1), of.history[0].length)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(many, name), getattr(alone, name), err_msg=name)
    return alone


def refused(of: Market, one: dict[str, Any], folder: Path) -> str:
    """Why a row is refused; among others it alone is set aside, for the same reason."""
    with pytest.raises(DataError) as alone:
        WireReader(of, encoder(of)).read(json.dumps(one))
    store = in_files(of, [line(id="good"), one], folder, quarantine=True)
    assert store.ids().to_list() == ["good"]
    name = ":".join(str(alone.value).split(": ")[1:2])
    assert name in pl.read_parquet(folder / "quarantine.parquet")["__reason"][0]
    return name


def known(found: HistoryArrays, place: int) -> list[int]:
    rows: list[int] = found.categorical[0, place].tolist()
    return rows


@pytest.mark.parametrize(
    ("value", "row_"),
    [
        ("3", 7),
        ("3.0", 7),
        (" 3 ", 7),
        ("3.7", 7),
        ("-0.4", 5),
        ("1_2", 8),
        ("1e0", 6),
        ("007", 0),
        ("false", 9),
        ("", 10),
        ("My Text String", 10),
        ("-1.0", 0),
        ("99", 0),
        ("1e300", 0),
        (True, 6),
        (False, 5),
        (3, 7),
        (3.9, 7),
    ],
)
def test_numbers_of_a_category(value: Any, row_: int, tmp_path: Path) -> None:
    """Through an integer as Python reads it; the default stands as it is, and so does the word false."""
    assert known(both(market(), line(hour=value), tmp_path), 4)[1] == row_


@pytest.mark.parametrize("value", ["0x1", "1E400", "inf", "nan", "False", "true", "", " ", None, [1]])
def test_what_is_no_number_of_a_category_is_refused(value: Any, tmp_path: Path) -> None:
    if value != "":
        change = {"hour": value} if value is not None else {}
        one = {**line(**change), "hour": value}
        name = refused(market(), one, tmp_path / "own")
        assert name in ("not_a_number:hour", "missing_field:hour", "not_a_text:hour")
    texts = [value] if isinstance(value, str) and value else ["My Text String", "false"]
    for at, text in enumerate(texts):
        told_ = line(**{"hist.hour": f"3~{text}~12"})
        assert refused(market(), told_, tmp_path / str(at)) == "not_a_number:hist.hour"


@pytest.mark.parametrize(
    ("value", "row_"),
    [
        (".95", 12),
        ("0.950", 12),
        ("0.42850", 14),
        ("0.0", 11),
        ("0.00", 11),
        ("-0.0", 11),
        ("1", 13),
        ("1.0", 13),
        (" 0.95 ", 12),
        ("nan", 0),
        ("", 0),
        (True, 13),
        (False, 11),
        (0.95, 12),
    ],
)
def test_numbers_with_a_fraction(value: Any, row_: int, tmp_path: Path) -> None:
    """The default, 0.0 here, is looked up as it stands: it is not known."""
    assert known(both(market(), line(risk=value), tmp_path / "own"), 4)[2] == row_
    if isinstance(value, str):
        told_ = {"hist.risk": f"0.95~{value}~0.95"}
        assert known(both(market(), line(**told_), tmp_path / "told"), 2)[2] == row_


def test_a_market_of_its_own_may_name_decimals_too(tmp_path: Path) -> None:
    of = market(rules="own")
    assert known(both(of, line(risk=".950", hour="noon"), tmp_path), 4)[1:] == [0, 12]


def test_truth_and_null_of_a_plain_category(tmp_path: Path) -> None:
    assert known(both(market(), line(device=True), tmp_path / "true"), 4)[0] == 3
    assert known(both(market(), {**line(), "device": None}, tmp_path / "null"), 4)[0] == 0
    of = market(refuse=["null_category"])
    assert refused(of, {**line(), "device": None}, tmp_path / "refused") == "missing_field:device"
    assert refused(market(), {**line(), "amount": None}, tmp_path / "number") == "missing_field:amount"


@pytest.mark.parametrize(("value", "number"), [(" 12 ", 6.0), ("1_0", 5.0), ("+7", 3.5), (".5", 0.25), ("١", 0.5)])
def test_numbers_in_any_spelling(value: str, number: float, tmp_path: Path) -> None:
    told_ = {"hist.amount": f"1~{value}~3"}
    found = both(market(), line(amount=value, orders=value, **told_), tmp_path / "scored")
    assert found.numerical[0, [2, 4], 0].tolist() == [number, number]
    of = market(refuse=["loose_number"])
    if value in (" 12 ", "1_0"):
        assert refused(of, line(amount=value), tmp_path / "own") == "not_a_number:amount"
        assert refused(of, line(orders=value), tmp_path / "engineered") == "not_a_number:orders"
        assert refused(of, line(**told_), tmp_path / "told") == "not_a_number:hist.amount"


@pytest.mark.parametrize("value", ["inf", "nan", "1e300", "abc", "0x10", "1__0", " ", True])
def test_what_the_network_has_no_number_for_is_refused(value: Any, tmp_path: Path) -> None:
    """The legacy system went on, and answered that a payment of `nan` is the safest of all."""
    assert refused(market(), line(amount=value), tmp_path / "own").split(":")[1] == "amount"
    if isinstance(value, str):
        assert refused(market(), line(**{"hist.items": f"1~{value}~3"}), tmp_path / "told").endswith("hist.items")


def test_ages_between_the_caps_are_true_and_older_ones_refused(tmp_path: Path) -> None:
    past = (("a", 19_000_000, "phone", "3", "1", "2"), ("b", 20_000_000, "phone", "3", "1", "2"), *PAST[1:])
    assert both(market(), line(past), tmp_path / "in").age_seconds.tolist() == [[2e7, 1.9e7, 200, 100, 0]]
    past = (("a", 20_000_001, "phone", "3", "1", "2"), *PAST[1:])
    assert refused(market(), line(past), tmp_path / "out") == "too_old:hist.num.at"


def test_a_later_payment_has_a_negative_age(tmp_path: Path) -> None:
    past = (*PAST[:2], ("c", -3600, "phone", "3", "1", "2"))
    assert both(market(), line(past), tmp_path / "scored").age_seconds.tolist() == [[0, 300, 200, -3600, 0]]
    assert refused(market(refuse=["later_payment"]), line(past), tmp_path / "no") == "negative_age:hist.num.at"
    past = (*PAST[:2], ("c", -61_000_000, "phone", "3", "1", "2"))
    assert refused(market(), line(past), tmp_path / "far") == "negative_age:hist.num.at"


def test_the_payment_may_be_of_any_time(tmp_path: Path) -> None:
    for at in ("0", "-5", "17.25", " 17 "):
        both(market(), line((), at=at, **empty()), tmp_path / at.strip())
    for at in ("1e18", "-1e12"):
        assert refused(market(), line((), at=at, **empty()), tmp_path / at) == "absurd_time:at"
    assert refused(market(), line(at="0"), tmp_path / "history").startswith("negative_age")
    assert refused(market(), line((), at="", **empty()), tmp_path / "none") == "null_time:at"
    both(market(defaults={"at": -1.0}), line((), at="", **empty()), tmp_path / "default")
    of = market(refuse=["implausible_time"], defaults={"at": -1.0})
    assert refused(of, line((), at="0", **empty()), tmp_path / "0") == "absurd_time:at"
    assert refused(of, line((), at="", **empty()), tmp_path / "gone") == "null_time:at"


def empty() -> dict[str, str]:
    return dict.fromkeys((*told(()), "hist.risk"), "")


def test_more_payments_than_there_is_room_for(tmp_path: Path) -> None:
    past = tuple((f"e{at}", 900 - at, "phone", "3", "1", "2") for at in range(5))
    assert both(market(), line(past[1:]), tmp_path / "full").padding.tolist() == [[False] * 5]
    assert refused(market(), line(past), tmp_path / "over") == "too_many_payments:hist.num.id"


OTHERS = (PAST[2], ("x", 150, "phone", "3", "4", "4"), PAST[0])


def parts(categorical: Any, numerical: Any) -> dict[str, str]:
    both_ = told(categorical, numerical=numerical)
    values = told(numerical)
    return {**both_, "hist.amount": values["hist.amount"], "hist.items": values["hist.items"]}


def test_parts_of_one_length_belong_together_by_place(tmp_path: Path) -> None:
    """Whatever their ids: in another order, missing, or of other payments. The numerical part says when."""
    fields = parts(PAST, OTHERS)
    found = both(market(defaults={"id": "-1"}), line(**fields), tmp_path / "scored")
    assert found.age_seconds.tolist() == [[0, 300, 150, 100, 0]]
    assert found.categorical[0, 1:4, 0].tolist() == [
        1,
        2,
        1,
    ]  # the last, the second and the first of the categorical part
    assert refused(market(refuse=["unlike_ids"]), line(**fields), tmp_path / "ids") == "mismatched_history:hist.num.id"
    assert refused(market(refuse=["unlike_times"]), line(**fields), tmp_path / "times") == "time_mismatch:hist.num.at"


def test_parts_of_other_lengths_belong_together_by_id(tmp_path: Path) -> None:
    fields = parts(PAST, (PAST[2], PAST[0]))
    found = both(market(), line(**fields), tmp_path / "two")
    assert found.age_seconds.tolist() == [[0, 0, 300, 100, 0]]
    twice = (PAST[0], PAST[0], PAST[1])  # which of the two is meant, no request to the legacy system shows
    more = (PAST[0], PAST[1], PAST[1], PAST[2])
    for name, fields_ in (("cat", parts(twice, PAST[:2])), ("num", parts(PAST, more))):
        assert refused(market(), line(**fields_), tmp_path / name) == f"mismatched_history:hist.{name}.id"
    assert both(market(), line(**parts(twice, twice)), tmp_path / "equal").padding.sum() == 1
    none = both(market(), line(**parts(PAST, (("y", 5, "phone", "3", "1", "1"),))), tmp_path / "none")
    assert none.padding.tolist() == [[True] * 4 + [False]]
    of = market(mismatched="refuse")
    assert refused(of, line(**fields), tmp_path / "no") == "mismatched_history:hist.num.id"
    assert both(market(mismatched="drop"), line(**fields), tmp_path / "drop").padding.sum() == 4


def test_a_missing_id_or_time_needs_a_default(tmp_path: Path) -> None:
    gap = {"hist.num.id": "a~~c"}
    assert refused(market(), line(**gap), tmp_path / "id") == "missing_id:hist.num.id"
    both(market(defaults={"id": "-1"}), line(**gap), tmp_path / "default")
    assert (
        refused(market(), line(**{"hist.cat.at": f"{NOW - 9}~~{NOW}"}), tmp_path / "at") == "missing_time:hist.cat.at"
    )
    odd = both(market(), line(**{"hist.cat.at": "soon~x~y"}), tmp_path / "unread")
    assert odd.age_seconds.tolist() == [[0, 300, 200, 100, 0]]
    assert refused(market(), line(**{"hist.num.at": "soon~x~y"}), tmp_path / "bad") == "bad_time:hist.num.at"


@pytest.mark.parametrize("marker", ["", "My Text String"])
def test_a_history_is_empty_by_the_ids_of_its_first_part(marker: str, tmp_path: Path) -> None:
    """What else stands in its fields is not looked at, not even whether it is a text."""
    one = {**line(**{"hist.cat.id": marker, "hist.hour": "x"}), "hist.amount": None, "hist.items": [1]}
    assert both(market(), one, tmp_path / "cat").padding.sum() == 4
    assert refused(market(), line(**{"hist.num.id": marker}), tmp_path / "num") == "history_length:hist.amount"


BATCHED: dict[str, Any] = {"batches": ["device", "risk"], "defaults": {"id": "-1"}}


def test_batches_that_have_not_come_equally_far(tmp_path: Path) -> None:
    """The last values that all fields have are kept, of a field that is shorter than that the row is refused."""
    late = {name: text.split("~", 1)[1] for name, text in line().items() if name in ("hist.risk", "hist.num.id")}
    late |= {name: line()[name].split("~", 1)[1] for name in ("hist.amount", "hist.items", "hist.num.at")}
    found = both(market(**BATCHED), line(**late), tmp_path / "kept")
    assert found.age_seconds.tolist() == [[0, 0, 200, 100, 0]]
    assert found.categorical[0, 2:4, 0].tolist() == [2, 1]
    short = {**late, "hist.hour": "3"}
    assert refused(market(**BATCHED), line(**short), tmp_path / "short") == "history_length:hist.hour"
    of = market(**BATCHED, refuse=["unlike_batches"])
    assert refused(of, line(**late), tmp_path / "no") == "unlike_batches:hist.risk"
    # where the batches are equally long, nothing is left out of other fields
    assert refused(market(**BATCHED), line(**{"hist.hour": "3~12"}), tmp_path / "hour") == "history_length:hist.hour"
    assert refused(market(), line(**{"hist.hour": "1~3~12~"}), tmp_path / "more") == "history_length:hist.hour"


@pytest.mark.parametrize("field", ["hist.device", "hist.risk"])
def test_a_batch_that_is_missing_alone_is_no_history(field: str, tmp_path: Path) -> None:
    for marker in ("", "My Text String"):
        found = both(market(**BATCHED), line(**{field: marker}), tmp_path / (marker or "none"))
        assert found.padding.sum() == 4
    several = both(
        market(**BATCHED), line(**{field: line()[field].replace(line()[field].split("~")[0], "", 1)}), tmp_path
    )
    assert several.padding.sum() == 1
    ids = both(market(**BATCHED), line(PAST[:1], **{"hist.cat.id": ""}), tmp_path / "ids")
    assert ids.padding.sum() == 3


def test_what_a_market_says_of_these_rules_is_checked() -> None:
    for wire, text in (
        ({"decimal_categorical": ["nowhere"]}, "wire.decimal_categorical: must be categorical features"),
        (
            {"decimal_categorical": ["hour"]},
            "wire.decimal_categorical: must not be in numeric_categorical as well",
        ),
        ({"batches": ["orders"]}, "wire.batches: must be categorical or numerical features"),
        ({"refuse": ["rain"]}, "wire.refuse"),
    ):
        with pytest.raises(MarketError, match=text.replace(".", r"\.")):
            market(**wire)


spelled = st.sampled_from(["3", "3.0", " 1 ", "1_2", "0.95", ".950", "", "My Text String", "false", "x", "-1.0", "1e2"])
numbers = st.sampled_from(["1", " 2 ", "1_0", "", "3.5", "My Text String", "-1", "1e300", "abc"])
event = st.tuples(
    st.sampled_from(["a", "b", "c", ""]),
    st.sampled_from([100, 200, -3600, 19_000_000, 21_000_000]),
    st.sampled_from(["phone", "tablet", "", "never"]),
    spelled,
    numbers,
    numbers,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.lists(event, max_size=5), st.lists(event, max_size=5), st.booleans(), spelled, numbers, st.integers(0, 5)
        ),
        min_size=1,
        max_size=6,
    ),
    batches=st.booleans(),
)
def test_any_row_is_read_alike_alone_and_in_a_file(rows: list[Any], batches: bool, tmp_path_factory: Any) -> None:
    """Scored with the same arrays, or refused: whichever of the two, in both ways."""
    of = market(defaults={"id": "-1"}, **({"batches": ["device", "risk"]} if batches else {}))
    lines = []
    for at, (past, other, same, text, number, cut) in enumerate(rows):
        fields = parts(past, past if same else other)
        risk = "~".join(event[3] for event in past[cut:])
        own = {
            "hour": text,
            "risk": text,
            "amount": number,
            "hist.risk": risk if batches else "~".join(e[3] for e in past),
        }
        lines.append({**row((), id=f"p{at}", at=str(NOW + at)), **fields, **own})
    reader, alone = WireReader(of, encoder(of)), {}
    for one in lines:
        try:
            alone[one["id"]] = reader.read(json.dumps(one))
        except DataError:
            continue
    folder = tmp_path_factory.mktemp("rows")
    if not alone:
        with pytest.raises(DataError, match="must hold at least one row to use"):
            in_files(of, lines, folder, quarantine=True)
        return
    store = in_files(of, lines, folder, quarantine=True)
    assert store.ids().to_list() == list(alone)
    many = gather(store.events, store.histories["cid"], np.arange(len(store)), 5)
    for at, found in enumerate(alone.values()):
        for name in FIELDS:
            np.testing.assert_array_equal(
                getattr(many, name)[at], getattr(found.histories["cid"], name)[0], err_msg=name
            )
        np.testing.assert_array_equal(store.engineered[at], found.engineered[0])
