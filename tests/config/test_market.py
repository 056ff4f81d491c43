"""Market files: what is read, what is refused and how, and what the fingerprint stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tsa.config.market import Market, Split
from tsa.config.toml import suggest
from tsa.errors import DataError, MarketError
from tsa.times import DAY_SECONDS

MARKETS = Path(__file__).parents[2] / "markets"
SMALL = """
name = "small"
[event]
id = "id"
time = "at"
amount = "amount"
[label]
column = "fraud"
delay_days = 7
[[history]]
name = "card"
key = "card"
[features]
categorical = ["country", { name = "shop", min_count = 3 }]
numerical = [{ name = "amount", transform = "log1p" }]
engineered = ["risk"]
[split]
train = ["2024-01-01", "2024-02-01"]
validation = ["2024-02-01", "2024-02-08"]
calibration = ["2024-02-08", "2024-02-15"]
test = ["2024-02-22", "2024-03-01"]
"""
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str = SMALL, name: str = "small.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(MarketError) as caught:
        Market.load(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize("mark", ["\ufeff", "\ufeff\ufeff"])
def test_byte_order_marks_are_no_part_of_a_market(mark: str, write: Write) -> None:
    assert Market.load(write(mark + SMALL)) == Market.load(write(name="other.toml"))


def test_a_market_in_another_encoding(tmp_path: Path) -> None:
    for name in ("utf-16", "latin-1"):
        path = tmp_path / f"{name}.toml"
        path.write_bytes(SMALL.replace("small", "café").encode(name))
        assert refused(path) == f"{path}: is not in UTF-8; save it as UTF-8"
    assert refused(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


def test_no_more_than_a_hundred_letters_of_a_key_are_told(write: Write) -> None:
    text = SMALL.replace("[split]", "[split]\n" + "k" * 4000 + " = 1")
    assert len(refused(write(text))) < 400
    assert len(refused(write(), "label.delay_days=" + "x" * 4000)) < 600
    assert len(refused(write(), "x" * 4000)) < 300


def test_a_long_name_is_suggested_too(write: Write) -> None:
    """Names of up to 100 letters are."""
    assert "did you mean `retention_days`?" in refused(write(SMALL + "[privacy]\nretention_day = 3\n"))
    assert "did you mean `pseudonymise`?" in refused(write(SMALL + "[privacy]\npseudonymize = ['x']\n"))
    assert suggest("early_stoping_patience", ["early_stopping_patience"]) == "; did you mean `early_stopping_patience`?"


def test_the_handbook_market_is_as_the_issue_writes_it() -> None:
    market = Market.load(MARKETS / "handbook.toml")
    assert (market.event.id, market.event.time, market.event.amount) == ("TRANSACTION_ID", "TX_DATETIME", "TX_AMOUNT")
    assert market.label.gap_seconds == 7 * DAY_SECONDS
    assert market.label.as_feature
    assert [(h.name, h.key, h.length) for h in market.history] == [
        ("customer", "CUSTOMER_ID", 51),
        ("terminal", "TERMINAL_ID", 51),
    ]
    assert market.entity.name == "customer"
    assert market.features.calendar == ("hour_of_day", "day_of_week")
    assert market.features.numerical[0].scale == "standard"
    ranges = market.split.resolve(0.0, 0.0, 0.0)
    assert ranges["test"] == (1529798400.0, 1530403200.0)
    assert market.raw_columns == ("TRANSACTION_ID", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT")


def test_defaults_and_short_forms(write: Write) -> None:
    market = Market.load(write())
    assert [(c.name, c.min_count, c.max_values) for c in market.features.categorical] == [
        ("country", 10, 10_000),
        ("shop", 3, 10_000),
    ]
    assert market.features.names == ("country", "shop", "amount", "risk")
    assert market.history[0].length == 51
    assert not market.label.as_feature
    assert (market.evaluation.top_k, market.evaluation.entity, market.entity.name) == (None, None, "card")


def test_extends_merges_tables_and_replaces_arrays(write: Write) -> None:
    write(SMALL, "base.toml")
    upper = 'extends = "base.toml"\nname = "upper"\n[label]\nas_feature = true\n[features]\ncategorical = ["mcc"]\n'
    market = Market.load(write(upper, "upper.toml"))
    assert (market.name, market.label.delay_days, market.label.as_feature) == ("upper", 7, True)
    assert market.features.names == ("mcc", "amount", "risk")


def test_one_form_of_split_replaces_the_other(write: Write) -> None:
    path = write()
    market = Market.load(path, ["split.fractions=[0.7, 0.1, 0.1, 0.1]"])
    assert market.split.train is None
    write(SMALL.split("[split]")[0] + "[split]\nfractions = [0.4, 0.2, 0.2, 0.2]\n", "base.toml")
    dated = Market.load(write('extends = "base.toml"\n[split]' + SMALL.split("[split]")[1], "dated.toml"))
    assert dated.fingerprint == Market.load(path).fingerprint


@pytest.mark.parametrize("parent", ["b.toml", "a.toml"])
def test_circles_are_refused(write: Write, parent: str) -> None:
    write('extends = "a.toml"\n', "b.toml")
    assert "circle" in refused(write(f'extends = "{parent}"\n', "a.toml"))


def test_missing_files_and_bad_toml_are_named(write: Write, tmp_path: Path) -> None:
    assert "none.toml: no such file" in refused(tmp_path / "none.toml")
    assert "gone.toml, which" in refused(write('extends = "gone.toml"\n'))
    assert "not valid TOML" in refused(write("name = \n"))
    assert "extends must be the name of a file (got 3" in refused(write("extends = 3\n"))


def test_overrides_are_toml_values_or_bare_words(write: Write) -> None:
    overrides = [
        "name=other",
        'split.train=["2024-01-05", "2024-02-01"]',
        "split.validation=[2024-02-01, 2024-02-07T00:00:00]",
        "history.0.length=20",
        "label.as_feature=true",
    ]
    market = Market.load(write(), overrides)
    assert (market.name, market.history[0].length, market.history[0].key) == ("other", 20, "card")
    assert market.label.as_feature
    assert market.split.train is not None
    assert market.split.train[0].isoformat() == "2024-01-05T00:00:00+00:00"


@pytest.mark.parametrize("text", ["name", "=3", "a..b=1", "history.x.length=3", "history.4.length=3"])
def test_overrides_that_make_no_sense_are_refused(write: Write, text: str) -> None:
    assert text in refused(write(), text)


def test_unknown_keys_get_a_hint_and_all_findings_are_listed(write: Write) -> None:
    path = write(SMALL.replace("delay_days", "delay_day").replace('key = "card"', 'key = "card"\nlenght = 3'))
    message = refused(path, "label.delay_days=-1", "oddity=1")
    assert message.startswith(f"{path}: 4 findings")
    assert "[[history]] 'card': lenght: unknown key; did you mean `length`?" in message
    assert "label.delay_day: unknown key; did you mean `delay_days`?" in message
    assert "label.delay_days: must be at least 0 (got -1, from --set label.delay_days=-1)" in message
    assert "oddity: unknown key; the names here are name, event" in message


def test_a_finding_names_the_file_that_it_comes_from(write: Write) -> None:
    base = write(SMALL.replace("delay_days = 7", 'delay_days = "soon"'), "base.toml")
    assert f"(got 'soon', from {base})" in refused(write('extends = "base.toml"\n', "upper.toml"))


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ('name = "card"\nkey', 'name = "a card"\nkey', "[[history]] 'a card': name"),
        ("[features]", '[[history]]\nname = "card"\nkey = "x"\n[features]', "history: names must be unique"),
        (
            "[features]",
            '[[history]]\nname = "x"\nkey = "fraud"\n[features]',
            "history.x.key: must not be label.column",
        ),
        (
            'key = "card"',
            'key = "card"\nlength = 1',
            "[[history]] 'card': length: must be at least 2 (got 1",
        ),
        ('engineered = ["risk"]', 'engineered = ["amount"]', "names must be unique over all kinds of features"),
        ('engineered = ["risk"]', 'engineered = ["fraud"]', "features: must not be label.column"),
        ('engineered = ["risk"]', 'engineered = ["id"]', "features: must not be event.id"),
        ('engineered = ["risk"]', 'engineered = ["at"]', "features: must not be event.time"),
        ('engineered = ["risk"]', 'engineered = ["__label"]', "[[features.engineered]] '__label': name"),
        ('engineered = ["risk"]', 'calendar = ["hour"]', "features.calendar, entry 1: must be hour_of_day"),
        ('"country", {', '"amount", {', "event.amount: must be a number"),
        ('time = "at"', 'time = "id"', "event.time: must be another column than event.id"),
        ("delay_days = 7", "", "label: needs delay_days or known_at"),
        ("delay_days = 7", 'known_at = "risk"', "features: must not be label.known_at"),
        (
            "[split]",
            '[evaluation]\nentity = "shop"\n[split]',
            "evaluation.entity: must be one of the histories ['card']",
        ),
        ("[split]", "[split]\nfractions = [0.7, 0.1, 0.1, 0.1]", "got both"),
        ('test = ["2024-02-22", "2024-03-01"]', "", "split: needs four time ranges, or fractions (missing: test)"),
    ],
)
def test_rules(write: Write, old: str, new: str, finding: str) -> None:
    assert old in SMALL
    assert finding in refused(write(SMALL.replace(old, new)))


def test_no_history_is_refused(write: Write) -> None:
    assert "history" in refused(write(), "history=[]")
    assert "history: is required" in refused(write(SMALL.replace('[[history]]\nname = "card"\nkey = "card"', "")))


@pytest.mark.parametrize(
    ("override", "finding"),
    [
        ("split.test=['2024-02-21', '2024-03-01']", "not before 2024-02-22T00:00:00+00:00"),
        ("split.test=['2024-02-10', '2024-03-01']", "not before 2024-02-22T00:00:00+00:00"),
        ("label.delay_days=9.5", "not before 2024-02-24T12:00:00+00:00 (got 2024-02-22T00:00:00+00:00"),
        ("split.validation=['2024-01-31', '2024-02-08']", "split.validation: must not start before train ends"),
        ("split.train=['2024-02-01', '2024-02-01']", "split.train: must start before it ends"),
        ("split.train=['2024-02-01', 'soon']", "split.train, end: must be a date or a time"),
        ("split.train=[1, 2]", "split.train, start: must be a date or a time like 2018-05-07T12:00:00Z (got 1)"),
        ("split.train=['2024-02-01']", "split.train"),
        ("split.fractions=[0.7, 0.1, 0.1, 0.2]", "must add up to 1"),
        ("split.fractions=[1.0, 0.0, 0.0, 0.0]", "split.fractions, entry 2: must be above 0"),
        ("split.fractions=[0.5, 0.5]", "split.fractions"),
    ],
)
def test_splits_that_are_refused(write: Write, override: str, finding: str) -> None:
    assert finding in refused(write(), override)


def test_known_at_needs_no_gap(write: Write) -> None:
    text = SMALL.replace("delay_days = 7", 'known_at = "told"').replace('["2024-02-22"', '["2024-02-15"')
    market = Market.load(write(text))
    assert (market.label.known_at, market.label.gap_seconds) == ("told", 0.0)
    assert "not before 2024-02-16" in refused(write(text), "label.delay_days=1")


def test_fractions_leave_the_delay_out_before_the_test_range() -> None:
    ranges = Split(fractions=(0.7, 0.1, 0.1, 0.1)).resolve(1000.0, 2100.0, 100.0)
    expected = {"train": (1000, 1700), "validation": (1700, 1800), "calibration": (1800, 1900), "test": (2000, 2100)}
    for name, pair in expected.items():
        assert ranges[name] == pytest.approx(pair)
    assert ranges["train"][1] == ranges["validation"][0]
    assert ranges["test"][1] > 2100.0  # the last event is in
    with pytest.raises(DataError, match="longer than the label delay"):
        Split(fractions=(0.7, 0.1, 0.1, 0.1)).resolve(0.0, 10.0, 10.0)


def test_round_trip_and_frozen(write: Write) -> None:
    market = Market.load(write(), ["split.train=['2024-01-01T06:30:00+01:00', '2024-02-01']"])
    again = Market.from_dict(market.to_dict())
    assert again == market
    assert again.fingerprint == market.fingerprint
    assert market.to_dict()["split"]["train"][0] == "2024-01-01T05:30:00Z"
    with pytest.raises(ValueError, match="frozen"):
        market.name = "other"
    with pytest.raises(MarketError, match="oddity: unknown key"):
        Market.from_dict({**market.to_dict(), "oddity": 1})


def test_the_fingerprint_is_of_the_meaning(write: Write) -> None:
    mark = Market.load(write()).fingerprint
    assert len(mark) == 64
    same = SMALL.replace('["2024-01-01", "2024-02-01"]', "[2024-01-01, 2024-01-31T23:00:00-01:00]  # a comment")
    same = same.replace("delay_days = 7", "delay_days = 7.0\nas_feature = false")
    same = same.replace('id = "id"\ntime = "at"', 'time = "at"\nid = "id"')
    assert Market.load(write(same)).fingerprint == mark
    write(SMALL, "base.toml")
    assert Market.load(write('extends = "base.toml"\n', "upper.toml")).fingerprint == mark
    for override in ("name=x", "label.delay_days=6", "history.0.length=50", "features.engineered=[]"):
        assert Market.load(write(), [override]).fingerprint != mark


def test_a_changed_copy_has_the_histories_of_the_copy() -> None:
    """What the market has computed of its histories is not copied."""
    market = Market.load(MARKETS / "handbook.toml")
    assert len(market.views) == len(market.history) > 1
    assert len(market.model_copy(update={"history": market.history[:1]}).views) == 1
    assert market.model_copy() == market
