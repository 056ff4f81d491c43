"""The example market files of the package: those of each page on a kind of log read a log as the page describes it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tsa.config.examples import example_markets, example_text
from tsa.config.market import Market
from tsa.data.check.log_check import check_log
from tsa.data.online.payments import PaymentReader
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError

ROOT = Path(__file__).parents[2]
N = 600
START = datetime(2026, 1, 10, 8)
TIMES = [START + timedelta(minutes=170 * at) for at in range(N)]


def test_each_says_what_it_is_for() -> None:
    found = {market.name: market for market in example_markets()}
    assert found["demo"].histories == ("customer", "terminal")
    assert found["base"].histories == ()
    assert all(len(market.about) > 20 for market in found.values())


def test_the_text_is_that_of_the_file() -> None:
    assert 'name = "cards"' in example_text("cards")
    with pytest.raises(ConfigError, match="must be one of accounts, base"):
        example_text("../config")


def some(rng: np.random.Generator, *values: Any) -> list[Any]:
    return [values[at] for at in rng.integers(0, len(values), N)]


def card_log(rng: np.random.Generator) -> pl.DataFrame:
    fraud = rng.random(N) < 0.2
    known = [time + timedelta(days=2) if one else None for time, one in zip(TIMES, fraud, strict=True)]
    return pl.DataFrame(
        {
            "transaction_id": [f"t{at}" for at in range(N)],
            "authorised_at": [f"{time:%Y-%m-%d %H:%M:%S}" for time in TIMES],
            "message": some(rng, "authorisation", "authorisation", "reversal", "balance"),
            "amount": rng.gamma(2.0, 20.0, N).round(2),
            "card_token": some(rng, *(f"c{at}" for at in range(40))),
            "terminal_id": some(rng, *(f"s{at}" for at in range(20))),
            "card_bin": some(rng, "45567890", "41112233"),
            "card_country": some(rng, "DE", "FR"),
            "terminal_country": some(rng, "DE", "FR", None),
            **{
                f"{who}_{what}": rng.uniform(-40, 50, N)
                for who in ("home", "terminal")
                for what in ("latitude", "longitude")
            },
            "merchant_category": some(rng, "5411", "5812"),
            "entry_mode": some(rng, "chip", "web"),
            "response": some(rng, "approved", "approved", "approved", "declined"),
            "chargeback": fraud.astype(int),
            "chargeback_known_at": [None if time is None else f"{time:%Y-%m-%d %H:%M:%S}" for time in known],
        }
    )


def transfer_log(rng: np.random.Generator) -> pl.DataFrame:
    names = [f"DE{at:03d}" for at in range(30)]
    return pl.DataFrame(
        {
            "transfer_id": [f"t{at}" for at in range(N)],
            "booked_at": TIMES,
            "sender": some(rng, *names),
            "receiver": some(rng, *names),
            "sender_bank": some(rng, "A", "B"),
            "receiver_bank": some(rng, "A", "B"),
            "amount": rng.gamma(2.0, 200.0, N).round(2),
            "balance": rng.gamma(2.0, 2000.0, N).round(2),
            "channel": some(rng, "app", "branch"),
            "purpose": some(rng, "rent", "gift", None),
            "device_id": some(rng, *(f"d{at}" for at in range(50))),
            "status": some(rng, "confirmed_fraud", "settled", "settled", None),
        }
    )


def order_log(rng: np.random.Generator) -> pl.DataFrame:
    def with_comma(number: float) -> str:
        return f"{number:,.2f}".replace(",", "_").replace(".", ",").replace("_", ".")

    return pl.DataFrame(
        {
            "order_number": [at // 2 for at in range(N)],
            "line_number": [at % 2 for at in range(N)],
            "order_date": [f"{time:%Y-%m-%d}" for time in TIMES],
            "order_time": [f"{time:%H:%M}" for time in TIMES],
            "customer_number": some(rng, *(f"c{at}" for at in range(40))),
            "mail_address": some(rng, *(f"m{at}@exemple.fr" for at in range(40))),
            "billing_country": some(rng, "FR", "BE"),
            "shipping_country": some(rng, "FR", "BE"),
            "payment_method": some(rng, "carte", "chèque"),
            "product_group": some(rng, "téléphone", "livre"),
            "total": [with_comma(number) for number in rng.gamma(2.0, 700.0, N)],
            "quantity": rng.integers(1, 5, N),
            "order_day_number": [20_000 + at // 8 for at in range(N)],
            "registration_day_number": rng.integers(18_000, 20_000, N),
            "charged_back": some(rng, "oui", "non", "non", "non"),
        }
    )


def event_log(rng: np.random.Generator) -> pl.DataFrame:
    kind = np.array(some(rng, "payment", "login", "change", "risk_check"))
    has_outcome = np.isin(kind, ("payment", "risk_check"))
    return pl.DataFrame(
        {
            "event_id": [f"e{at}" for at in range(N)],
            "happened_at": [int(time.timestamp() * 1000) for time in TIMES],
            "kind": kind,
            "customer_id": some(rng, *(f"c{at}" for at in range(30))),
            "ip_address": some(rng, *(f"10.0.0.{at}" for at in range(30))),
            "device": some(rng, "phone", "browser"),
            "country": some(rng, "DE", "FR"),
            "succeeded": some(rng, True, False),
            "amount": [float(at % 90 + 1) if one == "payment" else None for at, one in enumerate(kind)],
            "date_of_birth": some(rng, "1980-05-17", "1955-12-01", None),
            "fraud": [int(rng.random() < 0.3) if one else None for one in has_outcome],
        }
    )


def written(log: pl.DataFrame, name: str, folder: Path) -> Path:
    """As a shop exports it; as Parquet the others."""
    path = folder / ("log.csv" if name == "orders" else "log.parquet")
    if name == "orders":
        path.write_bytes(log.write_csv(separator=";").encode("cp1252"))
    else:
        log.write_parquet(path)
    return path


LOGS: dict[str, tuple[Callable[[np.random.Generator], pl.DataFrame], dict[str, list[str]]]] = {
    "cards": (card_log, {"card": ["issuer", "kilometres"], "terminal": []}),
    "accounts": (transfer_log, {"account_sender": ["account role"], "account_receiver": [], "device": []}),
    "orders": (order_log, {"customer": ["mail_domain", "customer_days"], "mail": []}),
    "events": (event_log, {"customer": ["customer_age"], "address": []}),
}


@pytest.mark.parametrize("name", LOGS)
def test_the_market_file_of_a_page_reads_such_a_log(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page has the file as it is; no row breaks a rule; single payments are read as the log."""
    page = (ROOT / "docs" / "how-to" / f"logs-{name}.md").read_text(encoding="utf-8")
    assert example_text(name).strip() in [text.strip() for text in re.findall(r"```toml\n(.*?)```", page, re.DOTALL)]
    monkeypatch.setenv("TSA_ACCOUNTS_SECRET", "s" * 32)
    make, features = LOGS[name]
    log, market = make(np.random.default_rng(0)), Market.load(ROOT / "markets" / f"{name}.toml")
    path = written(log, name, tmp_path)
    checked = check_log(market, [str(path)])
    assert checked.rules == ()
    assert checked.report["rows_kept"] == N
    store = prepare(market, path, tmp_path / "store")
    assert all(len(store.labelled(part)) for part in ("train", "validation", "calibration", "test"))
    assert set(store.histories) == set(features)
    columns = {column for names in store.encoder.columns.values() for column in names}
    assert {feature for each in features.values() for feature in each} <= columns
    assert_read_alike(store, log)


def assert_read_alike(store: EventStore, log: pl.DataFrame) -> None:
    reader = PaymentReader(store.market, store.encoder)
    payments = reader.read_all(log.to_dicts(), outcomes=True)
    order = np.argsort([str(id_) for id_ in payments.ids])
    stored = np.argsort([str(id_) for id_ in store.ids().to_list()])
    assert np.array(payments.ids)[order].tolist() == np.array([str(id_) for id_ in store.ids()])[stored].tolist()
    for part in ("time_seconds", "categorical", "numerical", "engineered", "label"):
        np.testing.assert_array_equal(
            np.asarray(getattr(payments, part))[order], np.asarray(getattr(store, part))[stored], err_msg=part
        )


def test_a_folder_of_that_name_is_not_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make demo` makes a folder called demo."""
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Market.load("demo").name == "demo"
