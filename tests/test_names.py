"""Names of columns that the code uses itself, and names that are hard to write, do not meet the code's own.

Small pipelines, from the log to explanations and monitoring, with names drawn from those words.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tsa.config.market import Market
from tsa.errors import MarketError
from tsa.inference.scorer import Scorer

CODE = """
count code len value id time label key row rows at index raw raw_score percentile probability score reason
known_at answer record keys text name names column columns turn use use_ problem entity amount segment segments
literal other rest all null missing unknown n frauds start end window low high day hour calendar.hour
calendar.day_of_week one.gap_seconds one.count_1d one.count_all payment payments histories history instances
inputs parameters explain event feature features fraud customer hour_of_day month train test kind from to
select index_ with_columns struct field_0 column_1 duplicate_id:id null_id:id wire_row _time_seconds age padding
outcome categorical numerical engineered position order store market bundle
"""
WORDS = CODE.split()
ODD = (
    "a.b.c",
    "{braces}",
    "{0}",
    "%s %(name)s",
    "[brackets]",
    "[bold]markup[/bold]",
    'double "quotes"',
    "single 'quotes'",
    "back`ticks`",
    "two words",
    " blank before",
    "Betrag in €",
    "номер_карты",
    "金額",
    "back\\slash",
    "a/b",
    "a,b;c|d",
    "<b>html</b> & more",
    "^caret",
    "dollar$",
    "a*b",
    ".*",
    "^a.*b",
    "$0",
    "#hash",
    "-dash",
    "=1+1",
    "UPPER",
    "upper",
    "true",
    "None",
    "1",
)
HISTORIES = (
    "one",
    "count",
    "code",
    "order",
    "label",
    "events",
    "position",
    "value",
    "all",
    "payment",
    "history",
    "row",
)
SMALL = ("--set", "training.epochs=1", "--set", "training.batch_size=64", "--set", "model.width=8")
SMALL = (*SMALL, "--set", "model.n_ensemble=1")
ROLES = ("id", "time", "fraud", "known", "customer", "card", "channel", "device", "amount", "age", "risk", "country")
Tsa = Callable[..., Any]


def payments(n: int = 700) -> dict[str, list[Any]]:
    """The columns of a small log by role."""
    rng = random.Random(7)
    fraud = [int(rng.random() < 0.15) for _ in range(n)]
    time = [1_735_689_600 + 5000 * row for row in range(n)]
    return {
        "id": [f"p{row}" for row in range(n)],
        "time": time,
        "fraud": fraud,
        "known": [at + 3600 for at in time],
        "customer": [f"c{rng.randrange(40)}" for _ in range(n)],
        "card": [rng.randrange(60) for _ in range(n)],
        "channel": [rng.choice(["web", "pos"]) for _ in range(n)],
        "device": [rng.choice(["a", "b", "c", None]) for _ in range(n)],
        "amount": [round(rng.lognormvariate(3, 1), 2) * (1 + bad) for bad in fraud],
        "age": [float(rng.randrange(90)) if rng.random() < 0.9 else None for _ in range(n)],
        "risk": [rng.random() for _ in range(n)],
        "country": [rng.choice(["DE", "FR"]) for _ in range(n)],
    }


def full_market(name: dict[str, str], histories: tuple[str, str]) -> dict[str, Any]:
    return {
        "name": "names",
        "event": {"id": name["id"], "time": name["time"], "time_unit": "s", "amount": name["amount"]},
        "label": {"column": name["fraud"], "known_at": name["known"], "as_feature": True},
        "history": [
            {"name": histories[0], "key": name["customer"], "length": 5},
            {"name": histories[1], "key": name["card"], "length": 5},
        ],
        "features": {
            "calendar": ["hour_of_day"] if "hour_of_day" not in name.values() else [],
            "categorical": [{"name": name[role], "min_count": 1} for role in ("channel", "device", "country")],
            "numerical": [{"name": name["amount"], "transform": "log1p"}, {"name": name["age"]}],
            "engineered": [{"name": name["risk"], "scale": "minmax"}],
            "exclude": [{"column": name["country"], "values": ["XX"]}],
        },
        "split": {"fractions": [0.5, 0.15, 0.15, 0.2]},
        "evaluation": {"segments": [name["country"], name["amount"], name["customer"]]},
    }


def write_market(table: dict[str, Any], path: Path) -> Path:
    """A market as TOML: JSON's texts, numbers and lists are TOML too."""

    def lines(name: str, value: Any) -> str:
        if isinstance(value, dict):
            return "{ " + ", ".join(f"{json.dumps(key)} = {lines(key, inner)}" for key, inner in value.items()) + " }"
        if isinstance(value, list):
            return "[" + ", ".join(lines(name, inner) for inner in value) + "]"
        return json.dumps(value, ensure_ascii=False)

    path.write_text("".join(f"{name} = {lines(name, value)}\n" for name, value in table.items()), encoding="utf-8")
    return path


def whole_way(tsa: Tsa, table: dict[str, Any], frame: pl.DataFrame, folder: Path, *, suffix: str = ".parquet") -> None:
    """All commands on one log, and single payments beside it."""
    log, run = folder / f"log{suffix}", folder / "run"
    frame.write_csv(log) if suffix == ".csv" else frame.write_parquet(log)
    market = write_market(table, folder / "market.toml")
    has_amount = "amount" in table["event"]

    def done(*arguments: object, code: int = 0) -> Any:
        outcome = tsa(*arguments)
        assert outcome.code == code, (arguments, outcome.out, outcome.err)
        return outcome

    done("run", "-m", market, log, "--out", run, *SMALL)
    assert (run / "report.html").is_file()
    done("score", run / "bundle", log, "--out", folder / "scores.parquet")
    scores = pl.read_parquet(folder / "scores.parquet")
    assert len(scores) == len(frame)
    id_ = frame[table["event"]["id"]][-1]
    done("explain", run / "bundle", log, "--id", id_, "--out", folder / "why.json")
    done("thresholds", run, *(() if has_amount else ("--cost-fraud", "50")))
    day = "2025-01-30"
    watched = tsa("monitor", run / "bundle", log, "--from", day, "--reference-to", day, "--out", folder / "monitor")
    assert watched.code in (0, 3), watched.err
    done("history", "load", run / "bundle", log, "--history", f"sqlite:///{folder}/history.db")

    scorer = Scorer.load(run / "bundle")
    alone = scorer.score([frame.row(0, named=True)])
    first = scores.filter(pl.col("id") == frame[table["event"]["id"]][0])
    assert alone["raw_score"][0] == pytest.approx(first["raw_score"][0], abs=1e-5)


def named(seed: int) -> tuple[dict[str, str], tuple[str, str]]:
    """A name for each role, most of them drawn from the words the code uses, some of them odd; two history names."""
    rng = random.Random(seed)
    names = [*rng.sample(WORDS, 8), *rng.sample(ODD, 4)]
    rng.shuffle(names)
    one, other = rng.sample(HISTORIES, 2)
    return dict(zip(ROLES, names, strict=True)), (one, other)


@pytest.mark.parametrize("seed", range(40 if os.environ.get("TSA_LONG") else 2))
def test_words_of_the_code_and_odd_names_are_names_like_others(seed: int, tsa: Tsa, tmp_path: Path) -> None:
    names, histories = named(seed)
    frame = pl.DataFrame({names[role]: values for role, values in payments().items()})
    whole_way(tsa, full_market(names, histories), frame, tmp_path, suffix=(".parquet", ".csv")[seed % 2])


def test_a_market_without_any_table_that_may_be_left_out(tsa: Tsa, tmp_path: Path) -> None:
    """No amount, no segments, no split, no numbers, no calendar; one history and one feature, called `count`."""
    columns = payments()
    frame = pl.DataFrame({name: columns[name] for name in ("id", "time", "fraud", "customer")})
    frame = frame.with_columns(pl.Series("count", columns["channel"]))
    table = {
        "name": "least",
        "event": {"id": "id", "time": "time", "time_unit": "s"},
        "label": {"column": "fraud", "delay_days": 0},
        "history": [{"name": "code", "key": "customer"}],
        "features": {"categorical": ["count"]},
    }
    whole_way(tsa, table, frame, tmp_path)


@pytest.mark.parametrize("name", ["", "__time_seconds", "__x", "*", "^.*$", "^a$"])
def test_names_that_the_code_keeps_for_itself_are_refused(name: str) -> None:
    names, histories = named(0)
    with pytest.raises(MarketError, match="column name must not"):
        Market.from_dict(full_market({**names, "card": name}, histories))


def test_a_number_is_not_called_as_what_marks_missing_ones() -> None:
    names, histories = named(0)
    with pytest.raises(MarketError, match="is missing"):
        Market.from_dict(full_market({**names, "age": "amount is missing"}, histories))


ODD_ROLES: dict[str, dict[str, Any]] = {
    "the key is the amount": {"history": [{"name": "one", "key": "amount", "length": 5}]},
    "the key is the id": {"history": [{"name": "one", "key": "id", "length": 5}]},
    "two histories of one key": {"history": [{"name": "one", "key": "card"}, {"name": "two", "key": "card"}]},
    "the segment is the id": {"evaluation": {"segments": ["id"]}},
    "the key is a feature and a segment": {
        "features": {"categorical": [{"name": "customer", "min_count": 1}]},
        "evaluation": {"segments": ["customer", "age", "risk"]},
    },
    "no feature but the calendar": {"features": {"calendar": ["month"]}},
    "no feature but a number": {"features": {"numerical": ["age"]}},
}


@pytest.mark.skipif(not os.environ.get("TSA_LONG"), reason="takes half a minute")
@pytest.mark.parametrize("case", ODD_ROLES)
def test_one_column_may_be_several_things(case: str, tsa: Tsa, tmp_path: Path) -> None:
    table = full_market({role: role for role in ROLES}, ("one", "two"))
    whole_way(tsa, table | ODD_ROLES[case], pl.DataFrame(payments()), tmp_path)


@pytest.mark.parametrize("features", [{}, {"engineered": ["risk"]}])
def test_a_history_needs_something_to_tell(features: dict[str, Any], tsa: Tsa, tmp_path: Path) -> None:
    table = full_market({role: role for role in ROLES}, ("one", "two")) | {"features": features}
    pl.DataFrame(payments()).write_parquet(tmp_path / "log.parquet")
    market = write_market(table, tmp_path / "market.toml")
    made = tsa("run", "-m", market, tmp_path / "log.parquet", "--out", tmp_path / "run", *SMALL)
    assert made.code == 2
    assert "must name a categorical, calendar or numerical feature" in made.err


@pytest.mark.parametrize("role", ["id", "time"])
def test_an_amount_is_a_column_of_its_own(role: str) -> None:
    table = full_market({role: role for role in ROLES}, ("one", "two"))
    table["event"]["amount"] = role
    with pytest.raises(MarketError, match=f"event.amount: must be another column than event.{role}"):
        Market.from_dict(table)
