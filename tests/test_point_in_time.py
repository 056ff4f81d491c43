"""Nothing that comes after a payment, and no outcome that is not known yet, moves its tensors or its score by a bit.

Random logs with several keys, ties and nulls; then the log is changed behind a payment, and every payment up to it must
come out as before: through the store, through the Scorer, and in batches that earlier and changed payments share.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tsa.bundle.bundle import Bundle
from tsa.config.market import Market
from tsa.data.online.payments import PaymentReader
from tsa.data.store.prepare import prepare
from tsa.data.store.store import EventStore
from tsa.data.tree_columns import TreeColumns
from tsa.errors import DataError
from tsa.inference.score_parts import BATCH_SIZE
from tsa.inference.scorer import Scorer
from tsa.model import Batch, History, TSANetwork
from tsa.model.boosted_trees import BoostedTrees
from tsa.model.collate import gather_batch
from tsa.model.network_and_trees import ALONE, Joining
from tsa.model.tree_model import TreeModel
from tsa.training.train_model import network_settings

START = 1_525_651_200  # 2018-05-07
HOUR, DAY = 3600, 86_400
LENGTH = 4
SMALL_BATCH = 8
KINDS = ("a day", "at once", "column")
"""When an outcome becomes known: a day later, at once, or at the time in a column."""
TRAIN = (2 * DAY, 4 * DAY)


def market(kind: str, length: int = LENGTH) -> Market:
    label: dict[str, Any] = {"column": "fraud", "delay_days": 0 if kind == "at once" else 1, "as_feature": True}
    number = {"name": "amount", "transform": "signed_log1p", "scale": "standard"}
    return Market.from_dict(
        {
            "name": "random",
            "event": {"id": "id", "time": "time", "time_unit": "s", "amount": "amount"},
            "label": label | ({"known_at": "known_at"} if kind == "column" else {}),
            "history": [
                {"name": "customer", "key": "customer", "length": length},
                {"name": "terminal", "key": "terminal", "length": length + 1},
            ],
            "features": {
                "calendar": ["hour_of_day"],
                "categorical": [{"name": "category", "min_count": 2}],
                "numerical": [number],
                "engineered": [{"name": "gap", "scale": "quantile"}],
            },
            "split": {
                "train": ["2018-05-09", "2018-05-11"],
                "validation": ["2018-05-11", "2018-05-12"],
                "calibration": ["2018-05-12", "2018-05-13"],
                "test": ["2018-05-14", "2018-05-17"],
            },
        }
    )


@dataclass(frozen=True)
class Row:
    time: int
    id: int
    fraud: int | None
    known_at: int | None
    customer: str | None
    terminal: int | None
    category: str | None
    amount: float | None
    gap: float | None

    def __post_init__(self) -> None:
        if self.known_at is not None:  # a log in which an outcome is known before its payment is refused
            object.__setattr__(self, "known_at", max(self.time, self.known_at))

    @property
    def place(self) -> tuple[int, int]:
        return self.time, self.id

    def known_from(self, kind: str) -> float:
        if self.fraud in (None, -1) or (kind == "column" and self.known_at is None):
            return float("inf")
        return {"a day": self.time + DAY, "at once": self.time, "column": self.known_at or 0}[kind]


SCHEMA = {
    "time": pl.Int64,
    "id": pl.Int64,
    "fraud": pl.Int8,
    "known_at": pl.Int64,
    "customer": pl.String,
    "terminal": pl.Int64,
    "category": pl.String,
    "amount": pl.Float64,
    "gap": pl.Float64,
}
times = st.integers(0, 40).map(lambda at: START + at * 6 * HOUR)
labels = st.sampled_from([None, -1, 0, 0, 1])
known = st.one_of(st.none(), times)
number = st.one_of(st.none(), st.floats(-1e6, 1e6))


def rows(ids: st.SearchStrategy[int], at: st.SearchStrategy[int] = times) -> st.SearchStrategy[Row]:
    return st.builds(
        Row,
        time=at,
        id=ids,
        fraud=labels,
        known_at=known,
        customer=st.sampled_from([None, "ann", "ann", "bob"]),
        terminal=st.sampled_from([None, 1, 1, 2]),
        category=st.sampled_from([None, "x", "y", "never seen"]),
        amount=number,
        gap=number,
    )


def logs(least: int = 2, most: int = 24) -> st.SearchStrategy[list[Row]]:
    """In no order; ids are even, so that there is room for new ones anywhere."""
    even = st.integers(1, 500).map(lambda value: 2 * value)
    return st.lists(rows(even), min_size=least, max_size=most, unique_by=lambda row: row.id)


def frame(log: Sequence[Row]) -> pl.DataFrame:
    return pl.DataFrame([dataclasses.astuple(row) for row in log], schema=SCHEMA, orient="row")


def training_log() -> list[Row]:
    """What the encoder is fitted on: a row an hour, for nine days."""
    return [
        Row(START + at * HOUR, 2 * at, at % 5 == 0, None, "ann", 1, ("x", "y")[at % 2], float(at % 13), at / 7)
        for at in range(9 * 24)
    ]


@contextmanager
def stored(log: pl.DataFrame, which: Market, **settings: Any) -> Iterator[EventStore]:
    with tempfile.TemporaryDirectory() as folder:
        log.write_parquet(f"{folder}/log.parquet")
        yield prepare(which, [f"{folder}/log.parquet"], Path(folder) / "store", **settings)


def randomised(store: EventStore, preset: str = "default", seed: int = 1, **changes: Any) -> TSANetwork:
    """A network whose every part matters to its scores, as after training: with fresh weights some hardly do."""
    torch.manual_seed(seed)
    network = TSANetwork(network_settings(store, preset, changes))
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(0.1 * torch.randn_like(weights))
    return network.eval()


@pytest.fixture(scope="module")
def scorers() -> dict[str, Scorer]:
    """For each kind of market, a scorer of network and trees with the same encoder and weights."""
    made = {}
    for kind in KINDS:
        with stored(frame(training_log()), market(kind)) as store:
            network = randomised(store, width=8, n_heads=2, feedforward_width=16, classifier_width=16)
            parts = {"network": network, "trees": overfitted(store), "joining": Joining(network=0.5, trees=0.5)}
            made[kind] = Scorer(
                Bundle(market=store.market, encoder=store.encoder, config=network.config, training={}, **parts)
            )
    return made


def overfitted(store: EventStore) -> TreeModel:
    """Trees that learned a random log by heart, so that every column matters to them."""
    rng = np.random.default_rng(3)
    log = []
    for at, time in enumerate(np.sort(rng.integers(0, 40, 300)).tolist()):
        moment = START + time * 6 * HOUR
        log.append(
            Row(
                moment,
                2 * at,
                [None, 0, 1][int(rng.integers(3))],
                moment + int(rng.integers(0, 4)) * 12 * HOUR,
                f"c{rng.integers(60)}",
                int(rng.integers(60)),
                [None, "x", "y", "never seen"][int(rng.integers(4))],
                float(rng.normal() * 10.0 ** int(rng.integers(0, 6))),
                float(rng.normal()),
            )
        )
    with stored(frame(log), store.market, encoder=store.encoder) as other:
        columns = TreeColumns.of(store, store.labelled("train"))
        values = columns.of_store(other, np.arange(len(other)))
    settings_ = {"objective": "regression", "num_leaves": 31, "min_child_samples": 1, "min_data_in_bin": 1, "seed": 0}
    settings_ |= {"feature_fraction": 0.1, "verbosity": -1, "num_threads": 1, "learning_rate": 0.05}
    data = lightgbm.Dataset(values, rng.normal(size=len(values)), categorical_feature=columns.codes)
    text = lightgbm.train(settings_, data, 300).model_to_string()
    return TreeModel(columns=columns, trees=BoostedTrees(text=text, names=columns.names))


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    found = {
        f"{name}.{field.name}": getattr(history, field.name)
        for name, history in batch.histories.items()
        for field in dataclasses.fields(History)
    }
    return found | ({"engineered": batch.engineered} if batch.engineered is not None else {})


def assert_same_tensors(left: Batch, right: Batch) -> None:
    expected, found = tensors(left), tensors(right)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def assert_same_up_to(scorer: Scorer, before: pl.DataFrame, after: pl.DataFrame, n: int) -> None:
    """The first n payments: tensors, scores of the whole log in one batch, and scores in batches of a few."""
    with (
        stored(before, scorer.bundle.market, encoder=scorer.bundle.encoder) as left,
        stored(after, scorer.bundle.market, encoder=scorer.bundle.encoder) as right,
    ):
        assert left.ids()[:n].to_list() == right.ids()[:n].to_list()
        first = np.arange(n)
        assert_same_tensors(gather_batch(left, first), gather_batch(right, first))
        for batch_size in (BATCH_SIZE, SMALL_BATCH):
            one, other = (
                scorer.score_rows(store, np.arange(len(store)), batch_size=batch_size)[:n] for store in (left, right)
            )
            np.testing.assert_array_equal(one, other)
            assert np.isfinite(one).all()


@dataclass(frozen=True)
class Change:
    """A log, and the same with everything behind `log[at]` different, as far as that payment must not notice."""

    kind: str
    log: list[Row]
    at: int
    changed: list[Row]


@st.composite
def changes(draw: Callable[..., Any]) -> Change:
    kind = draw(st.sampled_from(KINDS))
    log = sorted(draw(logs()), key=lambda row: row.place)
    at = draw(st.integers(0, len(log) - 1))
    now = log[at]
    changed = [_unknown_yet(draw, row, now, kind, current=row is now) for row in log[: at + 1]]
    for row in log[at + 1 :]:
        what = draw(st.sampled_from(["keep", "drop", "change", "change"]))
        later = draw(rows(st.just(row.id), st.integers(0, 10).map(lambda by, row=row: row.time + by * 6 * HOUR)))
        changed += {"keep": [row], "drop": [], "change": [later]}[what]
    odd = st.integers(0, 500).map(lambda value: 2 * value + 1)
    added = draw(st.lists(rows(odd), max_size=6, unique_by=lambda row: row.id))
    changed += [row for row in added if row.place > now.place]
    return Change(kind, log, at, changed)


def _unknown_yet(draw: Callable[..., Any], row: Row, now: Row, kind: str, *, current: bool) -> Row:
    """The same payment; with another outcome, and another time of learning it, where nobody could know either."""
    if not current and row.known_from(kind) <= now.time:
        return row
    other = dataclasses.replace(row, fraud=draw(labels), known_at=draw(known))
    return other if current or other.known_from(kind) > now.time else row


@settings(max_examples=60, deadline=None)
@given(change=changes())
def test_what_comes_later_changes_nothing(scorers: dict[str, Scorer], change: Change) -> None:
    assert_same_up_to(scorers[change.kind], frame(change.log), frame(change.changed), change.at + 1)


@settings(max_examples=10, deadline=None)
@given(log=logs(least=9), data=st.data())
def test_what_is_still_to_come_need_not_exist(scorers: dict[str, Scorer], log: list[Row], data: st.DataObject) -> None:
    """As when each payment is scored the moment it arrives: the log ends with it."""
    log = sorted(log, key=lambda row: row.place)
    n = data.draw(st.integers(1, len(log)))
    assert_same_up_to(scorers["a day"], frame(log), frame(log[:n]), n)
    whole, part = (scorers["a day"].score(frame(rows_)) for rows_ in (log, log[:n]))
    assert whole.head(n).equals(part)


@pytest.mark.parametrize("part", ["network", "trees", "both"])
def test_the_test_would_notice(scorers: dict[str, Scorer], part: str) -> None:
    """Earlier events and known outcomes do move a score, of each part and of both."""
    both = scorers["a day"].bundle
    scorer = Scorer(dataclasses.replace(both, joining=ALONE[part]) if part in ALONE else both)
    rng = np.random.default_rng(0)
    bases = [  # trees have steps: a change must move the score of one of several logs
        [
            Row(START + at * DAY, 2 * at, int(at == 0), START, "ann", None, "x", float(10 ** rng.integers(0, 5)), 1.0)
            for at in range(LENGTH)
        ]
        for _ in range(8)
    ]
    changes_ = ({"fraud": 0}, {"amount": 5e5}, {"time": START + 6 * HOUR}, {"category": "y"}, {"customer": "bob"})
    for change in changes_:
        pairs = [(base, [dataclasses.replace(base[0], **change), *base[1:]]) for base in bases]
        last = ([scorer.score(frame(log))["raw_score"][-1] for log in pair] for pair in pairs)
        assert any(one != other for one, other in last), change


@settings(max_examples=10, deadline=None)
@given(log=logs(), data=st.data())
def test_shuffled_rows_change_nothing(scorers: dict[str, Scorer], log: list[Row], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(log))
    assert_same_up_to(scorers["column"], frame(log), frame(shuffled), len(log))


@settings(max_examples=25, deadline=None)
@given(log=logs(), extra=st.integers(1, 9))
def test_more_padding_changes_no_score(scorers: dict[str, Scorer], log: list[Row], extra: int) -> None:
    bundle = scorers["a day"].bundle
    with stored(frame(log), bundle.market, encoder=bundle.encoder) as store, torch.inference_mode():
        batch = gather_batch(store, np.arange(len(store)))
        scores = [
            bundle.network(wanted).softmax(-1)[:, 1].numpy()
            for wanted in (batch, padded(batch, extra), gather_batch(store, np.arange(len(store)), trim=True))
        ]
    np.testing.assert_allclose(scores[1], scores[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(scores[2], scores[0], rtol=0, atol=1e-6)


def padded(batch: Batch, extra: int) -> Batch:
    """The same batch with `extra` more positions of padding on the left."""

    def widen(values: torch.Tensor, fill: int | bool) -> torch.Tensor:
        left = torch.full((len(values), extra, *values.shape[2:]), fill, dtype=values.dtype)
        return torch.cat([left, values], dim=1)

    histories = {
        name: History(
            **{
                field.name: widen(getattr(history, field.name), field.name == "padding")
                for field in dataclasses.fields(History)
            }
        )
        for name, history in batch.histories.items()
    }
    return Batch(histories, batch.engineered)


@settings(max_examples=20, deadline=None)
@given(log=logs(least=4), data=st.data())
def test_only_training_rows_are_learned_from(log: list[Row], data: st.DataObject) -> None:
    """Rows outside the training range, and all outcomes, may be anything: the fitted encoder is the same."""
    other = data.draw(st.lists(rows(st.just(0)), min_size=len(log), max_size=len(log)))
    changed = [
        dataclasses.replace(row, fraud=new.fraud, known_at=new.known_at)
        if trained_on(row)
        else dataclasses.replace(new, id=row.id, time=row.time)
        for row, new in zip(log, other, strict=True)
    ]
    fitted = []
    for rows_ in (log, changed):
        with stored(frame([*base(), *rows_]), market("a day")) as store:
            fitted.append(store.encoder.to_dict())
    assert fitted[0] == fitted[1]


@settings(max_examples=10, deadline=None)
@given(log=logs(least=4))
def test_training_rows_are_learned_from(log: list[Row]) -> None:
    assume(any(trained_on(row) and row.amount for row in log))
    changed = [dataclasses.replace(row, amount=2e6) if trained_on(row) and row.amount else row for row in log]
    with (
        stored(frame([*base(), *log]), market("a day")) as left,
        stored(frame([*base(), *changed]), market("a day")) as right,
    ):
        assert left.encoder.to_dict() != right.encoder.to_dict()


def trained_on(row: Row) -> bool:
    return START + TRAIN[0] <= row.time < START + TRAIN[1]


def base() -> list[Row]:
    """A payment in each range, so that no split is empty; odd ids."""
    return [Row(START + day * DAY + 1, 2 * day + 1, 0, None, "ann", 1, "x", 1.0, 1.0) for day in (2, 4, 5, 7)]


@pytest.mark.parametrize("preset", ["default", "reference-two-history"])
def test_a_real_network_over_several_batches(demo_log: Path, demo_store: EventStore, preset: str) -> None:
    """Full batches, some of whose neighbours change: cut the log off, or rewrite it, behind a payment in each batch."""
    log = pl.read_parquet(demo_log).sort("paid_at", "payment_id").head(1300)
    small = {"width": 16, "n_order_layers": 1} if preset != "default" else {}
    bundle = Bundle(
        market=demo_store.market,
        encoder=demo_store.encoder,
        config=network_settings(demo_store, preset, small),
        network=randomised(demo_store, preset, **small),
        training={},
    )
    scores = Scorer(bundle).score(log)
    rewritten = log.with_columns(pl.col("amount").reverse(), pl.col("customer_id").reverse(), is_fraud=pl.lit(1))
    for n in (100, 511, 512, 700, 1025):
        assert Scorer(bundle).score(log.head(n)).equals(scores.head(n))
        other = pl.concat([log.head(n), rewritten.slice(n, 1300)], how="vertical_relaxed")
        assert Scorer(bundle).score(other).head(n).equals(scores.head(n))
    assert scores["raw_score"].n_unique() > 500


def test_neighbours_that_skip_a_history_change_nothing(demo_store: EventStore) -> None:
    """The reference's gate: a payment that needs its second history, in a batch with many that do, and with none."""
    rows_ = np.arange(2000, 2512)
    for seed in range(4):
        network = randomised(demo_store, "reference-two-history", seed, width=32, n_order_layers=2, n_feature_layers=1)
        with torch.inference_mode():
            batch = gather_batch(demo_store, rows_)
            importance = network.combine.importance(batch.ordered_histories(network.config))[:, 1].numpy()
            by_importance = np.argsort(importance)
            network.combine.min_importance = float(importance[by_importance[-40]])
            others = np.where(importance > network.combine.min_importance, rows_[by_importance[0]], rows_)
            others[by_importance[-1]] = rows_[by_importance[-1]]
            alone = network(gather_batch(demo_store, others))[by_importance[-1]]
            assert torch.equal(network(batch)[by_importance[-1]], alone)


def test_a_later_id_of_another_kind_changes_no_order(scorers: dict[str, Scorer], tmp_path: Path) -> None:
    """Two payments at the same moment, 9 and 10, come in the order of numbers; a later "x" must not turn them."""
    log = frame([Row(START, i, 0, None, "ann", 1, "x", float(i), 1.0) for i in (9, 10)])
    later = frame([Row(START + DAY, 11, 0, None, "ann", 1, "x", 1.0, 1.0)])
    found = []
    for name, tail in (("number", later), ("text", later.with_columns(id=pl.lit("x")))):
        rows_ = pl.concat([log.cast({"id": pl.String}), tail.cast({"id": pl.String})])
        rows_.write_csv(tmp_path / f"{name}.csv")
        found.append(scorers["a day"].score(tmp_path / f"{name}.csv").head(2)["id"].cast(pl.String).to_list())
    assert found[0] == found[1]


@settings(max_examples=40, deadline=None)
@given(log=logs(least=6), late=st.lists(st.integers(0, 12), min_size=1, max_size=8))
def test_outcomes_known_after_the_test_range_begins_are_not_learned_from(log: list[Row], late: list[int]) -> None:
    """Whatever they are: which rows are learned from, calibrated on, and with which labels, stays the same to the bit."""
    begins = START + 7 * DAY  # of the test range
    told = [
        dataclasses.replace(row, known_at=None if row.known_at is None else row.time + late[at % len(late)] * DAY)
        for at, row in enumerate(log)
    ]
    other = [
        dataclasses.replace(row, fraud=None if row.fraud is None else 1 - abs(row.fraud))
        if row.known_at is not None and row.known_at > begins and row.time < begins
        else row
        for row in told
    ]
    base_ = [dataclasses.replace(row, known_at=row.time + DAY) for row in base()]
    with (
        stored(frame([*base_, *told]), market("column")) as left,
        stored(frame([*base_, *other]), market("column")) as right,
    ):
        for name in ("train", "validation", "calibration"):
            np.testing.assert_array_equal(left.labels(name), right.labels(name))
            rows_ = left.labelled(name)
            np.testing.assert_array_equal(rows_, right.labelled(name))
            known_at = left.known_at_seconds[rows_]
            assert (np.isinf(known_at) | (known_at <= begins)).all(), "inf: nobody noted when it was known"
            assert len(rows_) + left.known_too_late(name) == (left.label[left.split(name)] >= 0).sum()
        test = left.split("test")
        assert len(left.labelled("test")) == (left.label[test] >= 0).sum(), "what is tested may be known at any time"


@settings(max_examples=20, deadline=None)
@given(row=rows(st.just(1)), early=st.integers(1, 10 * DAY))
def test_an_outcome_known_before_its_payment_is_refused(row: Row, early: int) -> None:
    assume(row.fraud in (0, 1))
    told = frame([row]).with_columns(known_at=pl.lit(row.time - early, pl.Int64))
    log = pl.concat([frame([dataclasses.replace(other, id=other.id + 2) for other in training_log()]), told])
    with pytest.raises(DataError, match="known_too_early:known_at"), stored(log, market("column")):
        pass
    with stored(frame(training_log()), market("column")) as store:
        reader = PaymentReader(market("column"), store.encoder)
    found = reader.read([{**dataclasses.asdict(row), "known_at": row.time - early}], outcomes=True)
    assert (found.problems[0].rule, found.problems[0].field) == ("known_too_early", "known_at")
