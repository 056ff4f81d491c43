"""The example markets of the package, and the pages that describe them: a log of each kind is prepared, checked and read."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tsa.config.market import Market
from tsa.config.toml import EXAMPLES
from tsa.data.check.log_check import check_log
from tsa.data.online.payments import PaymentReader
from tsa.data.store.store import EventStore, prepare
from tsa.errors import MarketError

ROOT = Path(__file__).parents[2]
N = 4_000
START = datetime(2025, 1, 6)


def rows(rng: np.random.Generator) -> dict[str, Any]:
    """Columns that several kinds of logs share."""
    fraud = rng.random(N) < 0.05
    return {
        "fraud": fraud,
        "times": [START + timedelta(minutes=40 * at + int(rng.integers(0, 30))) for at in range(N)],
        "amount": np.round(rng.lognormal(3, 1, N) * np.where(fraud, 4, 1), 2),
        "numbers": np.arange(N),
    }


def cards(rng: np.random.Generator) -> pl.DataFrame:
    base = rows(rng)
    message = rng.choice(["authorisation"] * 8 + ["reversal", "balance"], N)
    return pl.DataFrame(
        {
            "transaction_id": [f"t{at}" for at in range(N)],
            "authorised_at": [time.strftime("%Y-%m-%d 12:%M:%S") for time in base["times"]],
            "message": message,
            "amount": base["amount"],
            "card_token": [f"c{key}" for key in rng.integers(0, 200, N)],
            "terminal_id": [f"m{key}" for key in rng.integers(0, 80, N)],
            "card_bin": rng.choice(["45200011", "45200022", "51110033"], N),
            "card_country": rng.choice(["DE", "FR"], N),
            "terminal_country": rng.choice(["DE", "FR", "US"], N),
            "home_latitude": rng.uniform(47, 55, N),
            "home_longitude": rng.uniform(6, 15, N),
            "terminal_latitude": rng.uniform(47, 55, N),
            "terminal_longitude": rng.uniform(6, 15, N),
            "merchant_category": rng.choice(["5411", "5812"], N),
            "entry_mode": rng.choice(["chip", "web"], N),
            "response": rng.choice(["approved"] * 9 + ["declined"], N),
            "chargeback": np.where(message == "authorisation", base["fraud"].astype(int), None).tolist(),
            "chargeback_known_at": [(time + timedelta(days=20)).strftime("%Y-%m-%d") for time in base["times"]],
        },
        strict=False,
    )


def accounts(rng: np.random.Generator) -> pl.DataFrame:
    base = rows(rng)
    return pl.DataFrame(
        {
            "transfer_id": base["numbers"],
            "booked_at": base["times"],
            "sender": [f"DE{key:04d}" for key in rng.integers(0, 300, N)],
            "receiver": [f"DE{key:04d}" for key in rng.integers(0, 300, N)],
            "sender_bank": rng.choice(["A", "B"], N),
            "receiver_bank": rng.choice(["A", "B"], N),
            "amount": base["amount"],
            "balance": rng.uniform(1, 9_000, N),
            "channel": rng.choice(["app", "branch"], N),
            "purpose": rng.choice(["rent", "gift"], N),
            "device_id": [f"d{key}" for key in rng.integers(0, 400, N)],
            "status": [("confirmed_fraud" if one else ("settled", "")[at % 2]) for at, one in enumerate(base["fraud"])],
        }
    )


def orders(rng: np.random.Generator) -> pl.DataFrame:
    base = rows(rng)
    return pl.DataFrame(
        {
            "order_number": base["numbers"] // 2,
            "line_number": base["numbers"] % 2,
            "order_date": [time.strftime("%Y-%m-%d") for time in base["times"]],
            "order_time": [time.strftime("12:%M") for time in base["times"]],
            "customer_number": rng.integers(0, 300, N),
            "mail_address": [f"é{key}@{('a.fr', 'b.fr')[key % 2]}" for key in rng.integers(0, 300, N)],
            "billing_country": rng.choice(["FR", "BE"], N),
            "shipping_country": rng.choice(["FR", "BE"], N),
            "payment_method": rng.choice(["carte", "crédit"], N),
            "product_group": rng.choice(["vélo", "auto"], N),
            "total": [f"{value:.2f}".replace(".", ",") for value in base["amount"]],
            "quantity": rng.integers(1, 5, N),
            "order_day_number": 20_000 + base["numbers"] // 36,
            "registration_day_number": 19_000 + rng.integers(0, 900, N),
            "charged_back": np.where(base["fraud"], "oui", "non"),
        }
    )


def events(rng: np.random.Generator) -> pl.DataFrame:
    base = rows(rng)
    kind = rng.choice(["payment"] * 5 + ["login"] * 3 + ["change", "risk_check"], N)
    is_payment = kind == "payment"
    return pl.DataFrame(
        {
            "event_id": base["numbers"],
            "happened_at": [int(time.replace(tzinfo=UTC).timestamp() * 1000) for time in base["times"]],
            "kind": kind,
            "customer_id": rng.integers(0, 200, N),
            "ip_address": [f"10.0.0.{key}" for key in rng.integers(0, 250, N)],
            "device": rng.choice(["ios", "android"], N),
            "country": rng.choice(["DE", "FR"], N),
            "succeeded": rng.choice([True, False], N),
            "amount": np.where(is_payment, base["amount"], None).tolist(),
            "date_of_birth": rng.choice(["1980-05-17", "1999-12-31"], N),
            "fraud": np.where(is_payment, base["fraud"].astype(int), None).tolist(),
        },
        strict=False,
    )


LOGS = {"cards": cards, "accounts": accounts, "orders": orders, "events": events}


def written(name: str, log: pl.DataFrame, folder: Path) -> Path:
    if name != "orders":
        log.write_parquet(folder / "log.parquet")
        return folder / "log.parquet"
    (folder / "log.csv").write_bytes(log.write_csv(separator=";").encode("cp1252"))
    return folder / "log.csv"


@pytest.mark.parametrize("name", list(LOGS))
def test_a_log_of_each_kind(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSA_ACCOUNTS_SECRET", "a secret of thirty-two characters!")
    log = LOGS[name](np.random.default_rng(0))
    path, market = written(name, log, tmp_path), Market.load(Path(name))
    checked = check_log(market, [str(path)])
    assert (checked.rules, checked.report["rows_kept"], checked.unused) == ((), N, ())
    assert all(part.frauds > 0 for part in checked.ranges)
    store = prepare(market, path, tmp_path / "store")
    singles = PaymentReader(store.market, store.encoder).read_all(log.to_dicts(), outcomes=True)
    order = {id_: at for at, id_ in enumerate(store.ids().cast(pl.String).to_list())}
    at = [order[id_] for id_ in singles.ids]
    for part in ("time_seconds", "categorical", "numerical", "engineered", "label"):
        np.testing.assert_array_equal(getattr(singles, part), np.asarray(getattr(store, part))[at], err_msg=part)
    assert isinstance(EventStore.open(store.path, market), EventStore)


@pytest.mark.parametrize("name", list(LOGS))
def test_pages_show_the_file(name: str) -> None:
    page = (ROOT / "docs" / f"logs-{name}.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert block == (EXAMPLES / f"{name}.toml").read_text(encoding="utf-8")
    columns = set(re.findall(r"`(\w+)`", page.split("The market file")[0]))
    market = Market.load(Path(name))
    assert columns >= {*market.key_columns, market.label.column}


def test_examples_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Market.load("demo").fingerprint == Market.load(EXAMPLES / "demo.toml").fingerprint
    Path("mine.toml").write_text('extends = "cards"\nname = "mine"\n')
    assert Market.load("mine.toml").name == "mine"
    Path("demo").write_text((EXAMPLES / "cards.toml").read_text())
    assert Market.load("demo").name == "cards", "a file of that name goes first"
    with pytest.raises(MarketError, match="no such file"):
        Market.load("nothing")
    with pytest.raises(MarketError, match="no such file"):
        Market.load("handbook.toml")


def test_the_folder_of_the_repository_names_every_example() -> None:
    """Links to the files of the package, in a folder of its own: `markets/..` is the repository."""
    folder = Path(__file__).parents[2] / "markets"
    assert not folder.is_symlink()
    assert {path.name for path in folder.iterdir()} == {path.name for path in EXAMPLES.glob("*.toml")}
    assert all(path.resolve().parent == EXAMPLES.resolve() for path in folder.iterdir())
