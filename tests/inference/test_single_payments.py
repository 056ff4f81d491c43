"""Single payments: the same scores as of a log, however they come, however many at once, whichever engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tsa.data.online.encoded import EncodedPayments
from tsa.data.online.histories import HistoryEvents, Key
from tsa.errors import ConfigError, DataError
from tsa.inference.export_bundle import export_bundle
from tsa.inference.scorer import Scorer

N, LATER = 2000, 1700


@pytest.fixture(scope="module")
def scorer(bundle_path: Path) -> Scorer:
    return Scorer.load(bundle_path)


@pytest.fixture(scope="module")
def onnx_scorer(bundle_path: Path) -> Scorer:
    return Scorer.load(bundle_path, engine="onnxruntime")


@pytest.fixture(scope="module")
def log(demo_log: Path) -> pl.DataFrame:
    return pl.read_parquet(demo_log).sort("paid_at", "payment_id").head(N)


@pytest.fixture(scope="module")
def offline(scorer: Scorer, log: pl.DataFrame) -> pl.DataFrame:
    return scorer.score(log)


@pytest.fixture(scope="module")
def rows(log: pl.DataFrame) -> list[dict[str, Any]]:
    return log.to_dicts()


@pytest.fixture(scope="module")
def earlier(scorer: Scorer, rows: list[dict[str, Any]]) -> dict[Key, HistoryEvents]:
    """The first payments as events of the past, with what became of them."""
    payments = scorer.reader.read_all(rows[:LATER], outcomes=True)
    members: dict[Key, list[int]] = {}
    for name, keys in payments.keys.items():
        for row, key in enumerate(keys):
            if key is not None:
                members.setdefault((name, key), []).append(row)
    return {key: HistoryEvents.of(payments.take(which)) for key, which in members.items()}


def known_before(past: dict[Key, HistoryEvents], payments: EncodedPayments) -> dict[Key, HistoryEvents]:
    wanted = {(name, key) for name, keys in payments.keys.items() for key in keys if key is not None}
    return {key: past[key] for key in wanted if key in past}


@pytest.mark.parametrize("size", [1, 7, 64, 300])
@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_as_of_the_log(
    scorer: Scorer,
    onnx_scorer: Scorer,
    offline: pl.DataFrame,
    rows: list[dict[str, Any]],
    earlier: dict[Key, HistoryEvents],
    size: int,
    engine: str,
) -> None:
    """So many payments at once. The log is shorter than the label delay: no outcome is known, offline or online."""
    chosen = {"torch": scorer, "onnxruntime": onnx_scorer}[engine]
    found = chosen.score(rows[LATER : LATER + size], histories=lambda payments: known_before(earlier, payments))
    wanted = offline[LATER : LATER + size]
    assert found["id"].to_list() == wanted["id"].cast(pl.String).to_list()
    np.testing.assert_allclose(found["raw_score"], wanted["raw_score"], rtol=0, atol=1e-6)
    for name in set(offline.columns) - {"id", "raw_score"}:
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=1e-4)


def test_the_order_of_scores_is_the_same(
    onnx_scorer: Scorer, offline: pl.DataFrame, rows: list[dict[str, Any]], earlier: dict[Key, HistoryEvents]
) -> None:
    online = onnx_scorer.score(rows[LATER:], histories=earlier)["raw_score"].to_numpy()
    own = offline["raw_score"].to_numpy()[LATER:]
    order = np.argsort(own, kind="stable")
    apart = np.diff(own[order]) > 2e-6
    assert apart.any()
    assert (np.diff(online[order])[apart] > 0).all()


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_a_log_whichever_engine(bundle_path: Path, offline: pl.DataFrame, log: pl.DataFrame, engine: str) -> None:
    scorer = Scorer.load(bundle_path, engine=engine)
    assert scorer.engine.name == engine
    found = scorer.score(log)
    np.testing.assert_allclose(found["raw_score"], offline["raw_score"], rtol=0, atol=1e-6)
    assert Scorer.load(bundle_path, engine="auto").engine.name == "onnxruntime"


@pytest.mark.parametrize("threads", [1, 2])
def test_threads(bundle_path: Path, offline: pl.DataFrame, log: pl.DataFrame, threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for engine in ("torch", "onnxruntime"):
            found = Scorer.load(bundle_path, engine=engine, threads=threads).score(log)
            np.testing.assert_allclose(found["raw_score"], offline["raw_score"], rtol=0, atol=1e-6)
    finally:
        torch.set_num_threads(before)


def test_no_rows_get_no_scores(bundle_path: Path) -> None:
    found = Scorer.load(bundle_path).score([])
    assert found.height == 0
    assert found.columns[:2] == ["id", "raw_score"]


def test_quicker_variants_move_scores_a_little(
    bundle_path: Path, offline: pl.DataFrame, log: pl.DataFrame, tmp_path: Path
) -> None:
    import shutil

    path = Path(shutil.copytree(bundle_path, tmp_path / "bundle"))
    with pytest.raises(ConfigError, match="--precision int8 needs an int8 graph in the bundle"):
        Scorer.load(path, engine="onnxruntime", precision="int8")
    made = export_bundle(path, "int8")
    assert made.file == "model.int8.onnx"
    assert 0 < made.difference.largest < 0.1
    assert made.compared == 1000
    assert set(made.seconds) == {"graph", "network"}
    small = Scorer.load(path, engine="onnxruntime", precision="int8").score(log)
    apart = np.abs(small["raw_score"].to_numpy() - offline["raw_score"].to_numpy())
    assert 0 < apart.max() < 0.1
    with pytest.raises(ConfigError, match="int8 needs engine='onnxruntime'"):
        Scorer.load(path, engine="torch", precision="int8")
    half = Scorer.load(path, engine="torch", precision="bf16")
    before = {name: value.clone() for name, value in half.bundle.network.state_dict().items()}
    np.testing.assert_allclose(half.score(log)["raw_score"], offline["raw_score"], rtol=0, atol=2e-2)
    assert all(torch.equal(value, before[name]) for name, value in half.bundle.network.state_dict().items())
    assert {value.dtype for value in half.bundle.network.parameters()} == {torch.float32}
    with pytest.raises(ConfigError, match="engine must be one of auto, torch, onnxruntime"):
        Scorer.load(path, engine="tensorflow")


def test_bf16_that_would_be_slow_is_warned_of(
    demo_run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for capability, said in (("AVX512", 0), ("AVX2", 1)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        Scorer.load(demo_run / "bundle", engine="torch", precision="bf16")
        assert caplog.text.count("bf16 can be many times slower than float32") == said


def test_a_bundle_that_was_not_exported(demo_run: Path) -> None:
    assert Scorer.load(demo_run / "bundle", engine="auto").engine.name == "torch"
    with pytest.raises(ConfigError, match="needs the graph of precision 'float32' in the bundle"):
        Scorer.load(demo_run / "bundle", engine="onnxruntime")


def test_parts_are_the_whole(scorer: Scorer, log: pl.DataFrame, offline: pl.DataFrame) -> None:
    parts = list(scorer.parts(log, part_rows=512))
    assert [len(part) for part in parts] == [512, 512, 512, N - 3 * 512]
    assert pl.concat(parts).equals(offline)


def test_one_bad_payment_is_refused(scorer: Scorer, rows: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match=r"payment number 2: amount must be a number [(]got 'ten'"):
        scorer.score([rows[0], {**rows[1], "amount": "ten"}])
    broken = replace(scorer.bundle, network=_spoiled(scorer))
    with pytest.raises(DataError, match="scores must be finite"):
        Scorer(broken).score(rows[:3])


def _spoiled(scorer: Scorer) -> Any:
    import copy

    network = copy.deepcopy(scorer.bundle.network)
    with torch.no_grad():
        network.classifier.narrow.bias.fill_(float("nan"))
    return network


def test_padding_makes_no_difference(
    scorer: Scorer, rows: list[dict[str, Any]], earlier: dict[Key, HistoryEvents]
) -> None:
    """A market with longer histories than a key has events: the same scores as one with just as many."""
    market = scorer.bundle.market
    longer = market.override([f"history.{at}.length=40" for at in range(len(market.history))])
    few = {key: events for key, events in earlier.items() if len(events) < 8}
    assert few
    one, other = (
        Scorer(replace(scorer.bundle, market=chosen)).score(rows[LATER : LATER + 40], histories=few)
        for chosen in (market, longer)
    )
    short = _few_events(scorer, rows, few)
    np.testing.assert_allclose(
        one["raw_score"].to_numpy()[short], other["raw_score"].to_numpy()[short], rtol=0, atol=1e-6
    )


def _few_events(scorer: Scorer, rows: list[dict[str, Any]], past: dict[Key, HistoryEvents]) -> np.ndarray:
    """Which of the payments have histories that fit either length."""
    payments = scorer.reader.read_all(rows[LATER : LATER + 40])
    requests = scorer.requests(payments, past)
    held = [(~history.padding).sum(1) for history in requests.histories.values()]
    found: np.ndarray = np.flatnonzero(np.max(held, axis=0) < 8)
    assert len(found) > 10
    return found


def test_the_commands(tsa: Any, bundle_path: Path, demo_run: Path, demo_log: Path, tmp_path: Path) -> None:
    import shutil

    bundle = Path(shutil.copytree(bundle_path, tmp_path / "bundle"))
    made = tsa("export", bundle, "--check", demo_log, "--out", tmp_path / "model.onnx", "-q")
    assert made.code == 0, made.err
    assert "model.onnx" in made.out
    assert (tmp_path / "model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()
    for engine in ("torch", "onnxruntime"):
        out = tmp_path / f"{engine}.csv"
        assert tsa("score", bundle, demo_log, "--out", out, "--engine", engine, "-q").code == 0
    one, other = (pl.read_csv(tmp_path / f"{engine}.csv") for engine in ("torch", "onnxruntime"))
    np.testing.assert_allclose(one["raw_score"], other["raw_score"], rtol=0, atol=1e-5)
    refused = tsa("score", demo_run / "bundle", demo_log, "--out", tmp_path / "x.csv", "--engine", "onnxruntime", "-q")
    assert refused.code == 2
    assert "tsa export" in refused.err


def test_a_bad_payment_does_not_cost_the_others(
    scorer: Scorer, rows: list[dict[str, Any]], earlier: dict[Key, HistoryEvents]
) -> None:
    """Each row in its place: of one without a score, nulls and the reason."""
    good = rows[LATER : LATER + 9]
    wrong: list[Any] = [
        {**good[0], "amount": "ten"},
        {**good[0], "amount": float("inf")},
        {**good[0], "customer_id": "\ud800"},
        {**good[0], "customer_id": 10**5000},
        {**good[0], "payment_id": None},
        {**good[0], "paid_at": [1]},
        {},
        None,
    ]
    mixed = [row for pair in zip(good, [*wrong, good[8]], strict=True) for row in pair][:-1]
    whole = scorer.score(good, histories=lambda payments: known_before(earlier, payments))
    found = scorer.score(mixed, histories=lambda payments: known_before(earlier, payments), on_error="null")
    assert found.columns == [*whole.columns, "error"]
    assert found["id"][::2].to_list() == whole["id"].to_list()
    np.testing.assert_allclose(found["raw_score"][::2], whole["raw_score"], rtol=0, atol=1e-6)
    assert found["error"][::2].null_count() == len(good)
    assert found["raw_score"][1::2].null_count() == len(wrong)
    for error, part in zip(
        found["error"][1::2],
        ["not_a_number", "infinite", "Unicode", "fewer digits", "null_id", "paid_at", "is required", "not_an_object"],
        strict=True,
    ):
        assert part in error
    assert found["id"][1] == str(good[0]["payment_id"])
    everything = scorer.score(wrong, on_error="null")
    assert everything["raw_score"].null_count() == len(wrong)
    assert everything.schema == found.schema
    assert scorer.score([], on_error="null").schema == found.schema
    with pytest.raises(DataError, match="payment number 2"):
        scorer.score([good[0], None])  # type: ignore[list-item]


def test_a_payment_without_a_number_does_not_cost_the_others(scorer: Scorer, rows: list[dict[str, Any]]) -> None:
    class Gaps:
        name = "gaps"
        rows = scorer.engine.rows

        def __call__(self, batch: Any) -> Any:
            found = scorer.engine(batch)
            found[1::2] = np.nan
            return found

    gaps = Scorer(scorer.bundle)
    gaps.engine = Gaps()
    found = gaps.score(rows[:4], on_error="null")
    assert found["raw_score"].is_null().to_list() == [False, True, False, True]
    assert found["error"].str.contains("no_score").to_list() == [None, True, None, True]


def test_events_that_are_not_scored_say_so(scorer: Scorer, rows: list[dict[str, Any]]) -> None:
    channels = [row["channel"] for row in rows[:20]]
    market = scorer.bundle.market.override([f'event.scored={{column="channel",values=["{channels[0]}"]}}'])
    some = Scorer(replace(scorer.bundle, market=market))
    is_scored = [channel == channels[0] for channel in channels]
    assert not all(is_scored)
    found = some.score(rows[:20], on_error="null")
    assert found["raw_score"].is_not_null().to_list() == is_scored
    assert found["error"].is_null().to_list() == is_scored
    assert found["error"].str.contains("event.scored").fill_null(False).to_list() == [not is_ for is_ in is_scored]
    assert found.drop("error").equals(some.score(rows[:20]))


def test_arguments_that_would_be_ignored_are_refused(
    scorer: Scorer, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    for settings in ({"quarantine": tmp_path / "bad.parquet"}, {"start": "2025-01-01"}, {"on_error": "drop"}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            scorer.score(rows[:2], **settings)  # type: ignore[arg-type]
    for settings in ({"histories": {}}, {"on_error": "null"}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            scorer.score(pl.DataFrame(rows[:2]), **settings)  # type: ignore[arg-type]
