"""The client with values as Python, NumPy, pandas and Polars have them; one that cannot be sent costs its payment alone."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import polars as pl
import pytest

from support.endpoint import made_bundle, payment, server
from tsa.inference.scorer import Scorer
from tsa_client import Answer, Client, InvalidPaymentError, Problem
from tsa_client.values import sendable


class Channel(Enum):
    CHIP = "chip"


NUMBER = UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("value", "carried"),
    [
        (datetime(2025, 5, 1, 12, 30), "2025-05-01T12:30:00"),
        (datetime(2025, 5, 1, tzinfo=timezone(timedelta(hours=2))), "2025-05-01T00:00:00+02:00"),
        (date(2025, 5, 1), "2025-05-01"),
        (np.datetime64("2025-05-01T12:00:00.123456789"), "2025-05-01T12:00:00.123456"),
        (np.datetime64("NaT"), None),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.float64("nan"), None),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array(7), 7),
        (np.array([1, 2]), [1, 2]),
        (float("nan"), None),
        (Decimal("3.10"), 3.1),
        (Decimal("3.00"), 3),
        (Decimal("NaN"), None),
        (Decimal("0.1234567890123456789"), "0.1234567890123456789"),
        (Decimal(2**60 + 1), str(2**60 + 1)),
        (2**60 + 1, str(2**60 + 1)),
        (10**400, str(10**400)),
        (NUMBER, str(NUMBER)),
        (Channel.CHIP, "chip"),
        ("straße".encode(), "straße"),
        (pl.Series([1.5, None]), [1.5, None]),
        ([{"at": datetime(2025, 5, 1)}], [{"at": "2025-05-01T00:00:00"}]),
    ],
)
def test_what_is_carried(value: Any, carried: Any) -> None:
    found = sendable({"x": value})
    assert found == {"x": carried}
    assert json.loads(json.dumps(found, allow_nan=False)) == {"x": carried}


class Odd:
    dtype = "odd"

    def item(self) -> Any:
        raise RuntimeError("a value of its own")


RING: list[Any] = []
RING.append(RING)


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (math.inf, "infinite"),
        (np.float32("-inf"), "infinite"),
        (Decimal("Infinity"), "infinite"),
        (timedelta(1), "not_sendable"),
        (object(), "not_sendable"),
        (1j, "not_sendable"),
        ({1, 2}, "not_sendable"),
        (Odd(), "not_sendable"),
        (RING, "too_deep"),
        ({1: 2}, "not_an_object"),
        (b"\xff", "not_a_text"),
        ("\ud800", "not_a_text"),
    ],
)
def test_what_cannot_be_carried_is_a_problem(value: Any, rule: str) -> None:
    found = sendable({"x": value})
    assert isinstance(found, Problem)
    assert (found.status, found.rule, found.field) == (422, rule, "x")
    assert json.dumps(found.detail)


@pytest.mark.parametrize("row", [None, 3, "text", b"x", ["a"], {3: "x"}, {"\ud800": 1}])
def test_what_is_no_payment_is_a_problem(row: Any) -> None:
    assert isinstance(sendable(row), Problem)


def test_pandas_values() -> None:
    """Where pandas is not installed, values that look the same."""
    try:
        import pandas as pd
    except ImportError:
        kinds = {name: type(name, (), {})() for name in ("NaTType", "NAType")}
        assert [sendable({"x": value}) for value in kinds.values()] == [{"x": None}] * 2
        return
    assert sendable({"x": pd.NaT, "y": pd.NA, "z": pd.Timestamp("2025-05-01", tz="UTC")}) == {
        "x": None,
        "y": None,
        "z": "2025-05-01T00:00:00+00:00",
    }


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_bundle(tmp_path_factory.mktemp("values") / "bundle")


@pytest.fixture
def client(bundle: Path, tmp_path: Path) -> Iterator[Client]:
    with server(bundle, history=f"sqlite:///{tmp_path}/h.db") as (_, port), Client(f"http://127.0.0.1:{port}") as found:
        yield found


def test_scores_are_those_of_the_plain_values(client: Client, bundle: Path) -> None:
    plain = [payment("a", amount=3.5, customer_id="7"), payment("b", customer_id="8", amount=None)]
    rich = [
        payment("a", amount=Decimal("3.50"), customer_id=np.int64(7), at=datetime(2025, 4, 20, 12)),
        payment("b", amount=np.float32("nan"), customer_id=8, at=datetime(2025, 4, 20, 12, tzinfo=UTC)),
    ]
    offline = Scorer.load(bundle).score(plain)["raw_score"].to_list()
    found = client.score_many(rich)
    assert [answer.raw_score for answer in found if isinstance(answer, Answer)] == pytest.approx(offline, abs=1e-6)


def test_one_bad_value_costs_its_payment_alone(client: Client) -> None:
    rows = [payment("a"), payment("b", amount=math.inf), None, payment("c", amount="much"), payment("d")]
    found = client.score_many(rows)
    assert [row.id if isinstance(row, Answer) else row.rule for row in found] == [
        *("a", "infinite", "not_an_object", "not_a_number", "d")
    ]
    assert [row.rule for row in client.score_many([None]) if isinstance(row, Problem)] == ["not_an_object"]
    with pytest.raises(InvalidPaymentError, match="infinite: amount must be finite") as caught:
        client.score(payment("b", amount=math.inf))
    assert caught.value.problem is not None


def test_frames_are_lists_of_payments(client: Client) -> None:
    frame = pl.DataFrame([payment("a"), payment("b", amount=None)])
    assert [row.id for row in client.score_many(frame) if isinstance(row, Answer)] == ["a", "b"]
    assert client.score_many(frame.head(0)) == []
    for wrong in (payment("a"), "text", None):
        with pytest.raises(TypeError, match="payments must be a list"):
            client.score_many(wrong)


def test_outcomes_take_them_too(client: Client) -> None:
    client.score(payment(str(NUMBER)))
    client.outcome(NUMBER, fraud=np.bool_(True), at=datetime(2025, 4, 21))  # type: ignore[arg-type]
    client.score(payment("7"))
    client.outcome(np.int64(7), fraud=False, at=np.datetime64("2025-04-21"))  # type: ignore[arg-type]
    with pytest.raises(InvalidPaymentError, match="not_sendable: id must be"):
        client.outcome(object(), fraud=True)


def test_it_needs_none_of_these_libraries() -> None:
    source = str(Path(__file__).parents[2] / "clients" / "python" / "src")
    script = f"import sys\nsys.path.insert(0, {source!r})\nimport tsa_client\n"
    script += "print({'numpy', 'pandas', 'polars'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
