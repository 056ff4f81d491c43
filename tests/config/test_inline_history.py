"""The wire table of a market file: names of fields, what is refused and how, and the worked examples."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tsa.config.market import Market
from tsa.data.wire.layout import FieldLayout
from tsa.errors import MarketError

MARKETS = Path(__file__).parents[2] / "markets"
TABLE: dict[str, Any] = {
    "name": "small",
    "event": {"id": "id", "time": "at", "time_unit": "s"},
    "label": {"column": "fraud", "delay_days": 0},
    "history": [{"name": "cid", "key": "customer"}, {"name": "ccid"}],
    "features": {"categorical": ["device"], "numerical": ["amount"], "engineered": ["risk"]},
    "wire": {
        "separator": "~",
        "history_field": "{history}.{feature}",
        "event_field": "{history}.{part}.{feature}",
    },
}
FINGERPRINTS = {
    "demo": "710acbceb5c4ded0efcc50a50482d1862dc8af9d4d96d5e2365eed8e49940483",
    "handbook": "29013c4852251261a899563ad062f3b38b07c34eeaffa1454b7517bbb763094c",
}


def market(wire: dict[str, Any] | None = None, **changes: Any) -> Market:
    return Market.from_dict({**TABLE, **changes, "wire": {**TABLE["wire"], **(wire or {})}})


def refused(wire: dict[str, Any] | None = None, **changes: Any) -> str:
    with pytest.raises(MarketError) as caught:
        market(wire, **changes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "sizes", "separator", "fields"),
    [
        ("eu", (108, 51, 413), ";SEP;", 108 + 51 + 4),
        ("na", (109, 67, 297), "~", 2 * (109 + 67 + 4)),
    ],
)
def test_the_worked_examples_have_the_originals_sizes(
    name: str, sizes: tuple[int, ...], separator: str, fields: int
) -> None:
    of = Market.load(MARKETS / f"{name}.toml")
    layout = FieldLayout(of)
    assert (len(layout.categorical), len(layout.numerical), len(layout.engineered)) == sizes
    assert {history.length for history in of.history} == {51}
    assert layout.wire.separator == separator
    assert len(set(layout.history_fields)) == len(layout.history_fields) == fields
    assert Market.from_dict(of.to_dict()).fingerprint == of.fingerprint


def test_eu_carries_what_the_law_asks_for() -> None:
    privacy = Market.load(MARKETS / "eu.toml").privacy
    assert privacy is not None
    assert privacy.pseudonymise == ("customer_id",)
    assert privacy.retention_days == 365
    assert "religion" in privacy.forbidden
    for key in ("features.engineered", "evaluation.segments"):
        with pytest.raises(MarketError, match=r"privacy\.forbidden [(]got 'Religion'"):
            Market.load(MARKETS / "eu.toml", [f'{key}=["Religion"]'])


@pytest.mark.parametrize("name", list(FINGERPRINTS))
def test_markets_of_logs_are_as_they_were(name: str) -> None:
    assert Market.load(MARKETS / f"{name}.toml").fingerprint == FINGERPRINTS[name]


def test_fields_follow_patterns_exceptions_and_a_historys_own() -> None:
    own = {"ccid": {"history_field": "card {feature}", "exceptions": {"num.id": "odd", "device": "{feature}"}}}
    layout = FieldLayout(
        market({"exceptions": {"amount": "money", "cat.at": "when"}, "histories": own}, history=TABLE["history"][1:])
    )
    assert layout.history_fields == ("{feature}", "when", "ccid.cat.id", "money", "ccid.num.at", "odd")
    layout = FieldLayout(market())
    cid = ("cid.device", "cid.cat.at", "cid.cat.id", "cid.amount", "cid.num.at", "cid.num.id")
    assert layout.history_fields == (*cid, *(field.replace("cid", "ccid", 1) for field in cid))
    assert layout.current == ("device", "amount", "risk", "at", "id")
    assert layout.others == ("customer", "fraud")


def test_patterns_fill_in_the_part_lower_case_and_what_stands_for_a_prefix() -> None:
    features = {"categorical": ["Risk.Sign_NA.Device.OS", "{part}"], "numerical": ["Risk.Amount"], "engineered": []}
    pattern = "{part} by {history}: {feature_lower} {feature} {other}"
    wire = {"history_field": pattern, "event_field": "{part} {history} {feature_lower}"}
    names = {"Risk.": "", "Risk.Sign_NA.": "Sign.", "at": "AT.x"}
    layout = FieldLayout(market({**wire, "prefixes": names}, history=TABLE["history"][1:], features=features))
    assert layout.history_fields == (
        "cat by ccid: sign_device_os Sign.Device.OS {other}",
        "cat by ccid: {part} {part} {other}",
        *("cat ccid at_x", "cat ccid id"),
        "num by ccid: amount Amount {other}",
        *("num ccid at_x", "num ccid id"),
    )
    kept = Market.from_dict(json.loads(json.dumps(layout.market.to_dict(), sort_keys=True)))
    assert FieldLayout(kept).history_fields == layout.history_fields
    assert "prefixes" not in market().to_dict()["wire"], "fingerprints of markets without them are as they were"


SHORTER = {
    "eu": ("bfs_order", {"BFS.Signin_Age_NA.": "BFS.Signin_Age."}),
    "na": (
        "retail_order",
        {
            "BFS.Signin_Age_NA.": "BFS.Signin_Age.",
            "payment_risk.cross_border_indicators.b_": "",
            "payment_risk.global_highest_leo_finance_segmentation_by_customerid.c_": "",
            "payment_risk.leo_finance_segmentation_by_customerid_na.n_": "",
        },
    ),
}


@pytest.mark.parametrize("name", list(SHORTER))
def test_one_pattern_names_all_history_fields_of_the_original(name: str) -> None:
    path = Path(__file__).parents[3] / f"shared/golden/legacy_{name}/market.toml"
    if not path.is_file():
        pytest.skip("needs ../shared")
    table, (source, prefixes) = tomllib.loads(path.read_text()), SHORTER[name]
    listed = Market.from_dict(table)
    pattern = f"payment_risk.{source}_{{part}}_seq_by_{{history}}.c_{{feature_lower}}_seq"
    wire = {key: value for key, value in table["wire"].items() if key not in ("exceptions", "histories")}
    wire |= {"history_field": pattern, "event_field": pattern, "prefixes": prefixes}
    ruled = Market.from_dict({**table, "wire": wire})
    assert FieldLayout(ruled).history_fields == FieldLayout(listed).history_fields
    assert len(FieldLayout(ruled).history_fields) == {"eu": 163, "na": 360}[name]


@pytest.mark.parametrize(
    ("wire", "finding"),
    [
        ({"separator": ""}, "wire: separator must be 1 to 8 bytes"),
        ({"separator": "123456789"}, "(got '123456789'"),
        ({"separator": "\t"}, "without tabs"),
        ({"missing": ["", "no~thing"]}, "missing: a marker must not contain the separator (got 'no~thing'"),
        ({"parts": ["cat", "cat"]}, "parts: must be two different names"),
        ({"age_cap_seconds": 0}, "wire.age_cap_seconds: must be above 0 (got 0"),
        ({"mismatched": "keep"}, "wire.mismatched: must be align, drop or refuse (got 'keep'"),
        (
            {"numeric_categorical": ["amount"]},
            "wire.numeric_categorical: must be categorical features (got 'amount'",
        ),
        (
            {"defaults": {"price": 1}},
            "wire.defaults: must be of features, event.time or event.id (got 'price'",
        ),
        ({"defaults": {"amount": "none"}}, "wire.defaults.amount: must be a finite number (got 'none'"),
        ({"defaults": {"risk": "nan"}}, "wire.defaults.risk: must be a finite number"),
        ({"defaults": {"amount": True}}, "wire.defaults.amount"),
        (
            {"histories": {"card": {}}},
            "wire.histories: must be of the histories ['ccid', 'cid'] (got 'card'",
        ),
        ({"exceptions": {"risk": "x"}}, "wire.exceptions: must be a categorical or numerical feature"),
        (
            {"histories": {"cid": {"exceptions": {"cat.price": "x"}}}},
            "wire.histories.cid.exceptions: must be",
        ),
        ({"history_field": "hist.{feature}"}, "wire: field names must be unique"),
        ({"history_field": "{history}.hist"}, "but 'cid.hist' occurs twice"),
        ({"exceptions": {"device": "risk"}}, "but 'risk' occurs twice"),
        (
            {"prefixes": {"devise": ""}},
            "wire.prefixes: must begin a feature, event.time or event.id (got 'devise')",
        ),
        ({"history_field": "{history}.{feature}", "prefixes": {"": "x"}}, "wire.prefixes"),
        ({"seperator": "~"}, "wire.seperator: unknown key; did you mean `separator`?"),
    ],
)
def test_rules(wire: dict[str, Any], finding: str) -> None:
    assert finding in refused(wire)


def test_rules_with_other_tables() -> None:
    assert "event.time_unit: is required" in refused(event={"id": "id", "time": "at"})
    label = {"column": "fraud", "delay_days": 0, "as_feature": True}
    assert "label.as_feature: must be false with a [wire] section" in refused(label=label)
    assert "features: histories need categorical or numerical features" in refused(features={"engineered": ["risk"]})
    with pytest.raises(MarketError, match=r"history\.ccid\.key: is required unless rows carry their own history"):
        Market.from_dict({key: value for key, value in TABLE.items() if key != "wire"})
