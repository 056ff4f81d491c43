"""A challenger answers a steady share of the keys; histories stay right; the champion answers where it cannot."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from support.endpoint import SHOP, endpoint, made_bundle, payment, settings_of
from tsa.bundle.decisions import Decision, DecisionPolicy
from tsa.cli import app
from tsa.config.market import Market
from tsa.data.values import RuleViolation
from tsa.errors import ConfigError
from tsa.inference.scorer import Scorer
from tsa.serving.decisions.read_decisions import answered
from tsa.serving.results import CHALLENGER, CHAMPION
from tsa.serving.scoring.app_state import AppState
from tsa.serving.scoring.scoring_service import ScoringService
from tsa.serving.scoring.traffic_split import ArmSplit


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("arms")
    paths = made_bundle(folder / "champion"), made_bundle(folder / "challenger", seed=1)
    policy = DecisionPolicy(score="percentile", decisions=(Decision("review", 0.5),))
    for path in paths:
        replace(Scorer.load(path).bundle, thresholds=policy).save(path)
    return paths


def settings(bundles: tuple[Path, Path], folder: Path, **changes: Any) -> dict[str, Any]:
    found = {"challenger": bundles[1], "challenger_share": 0.5, "history": f"sqlite:///{folder}/h.db"}
    return {**found, "challenger_timeout_ms": 20_000.0, **changes}


@pytest.fixture
def client(bundles: tuple[Path, Path], tmp_path: Path) -> Iterator[httpx.Client]:
    with endpoint(bundles[0], **settings(bundles, tmp_path, decision_log=tmp_path / "log")) as found:
        yield found


def test_the_share_is_kept_and_steady_and_depends_on_the_salt() -> None:
    market = Market.from_dict(SHOP)
    split, again = ArmSplit(market, 0.1, "customer"), ArmSplit(market, 0.1, "customer")
    rows = [payment("p", customer_id=f"c{at}") for at in range(20_000)]
    arms = [split.arm(row) for row in rows]
    assert 0.09 < arms.count(CHALLENGER) / len(arms) < 0.11
    assert arms == [again.arm({**row, "id": "another", "amount": 1.0}) for row in rows]
    wider = [ArmSplit(market, 0.2, "customer").arm(row) for row in rows]
    assert all(new == CHALLENGER for old, new in zip(arms, wider, strict=True) if old == CHALLENGER)
    salted = Market.from_dict({**SHOP, "serving": {"split_salt": "second trial"}})
    assert arms != [ArmSplit(salted, 0.1, "customer").arm(row) for row in rows]
    assert split.arm(payment("p", customer_id=17)) == split.arm(payment("q", customer_id="17"))
    assert {ArmSplit(market, 1.0, None).arm(row) for row in rows[:50]} == {CHALLENGER}
    assert {ArmSplit(market, 0.0, None).arm(row) for row in rows[:50]} == {CHAMPION}
    no_key = {ArmSplit(market, 0.5, "customer").arm(payment(f"p{at}", customer_id=None)) for at in range(50)}
    assert no_key == {CHAMPION, CHALLENGER}
    assert split.arm({"customer_id": ["a list"]}) == CHAMPION
    with pytest.raises(ConfigError, match="--split-by must be a history"):
        ArmSplit(market, 0.1, "card")


def test_both_arms_answer_from_the_same_histories(client: httpx.Client, bundles: tuple[Path, Path]) -> None:
    """Each answer is that of its bundle offline, on all payments: those that the other arm answered are in its histories."""
    minutes = range(24)
    rows = [
        payment(f"s{at}", at=f"2025-04-20T12:{at:02}:00Z", customer_id=f"c{at % 6}", amount=5.0 + at) for at in minutes
    ]
    answers = [client.post("/v1/score", json=row).json() for row in rows[:8]]
    answers += client.post("/v1/score", json=rows[8:]).json()
    versions = {}
    for arm, path in zip((CHAMPION, CHALLENGER), bundles, strict=True):
        scorer = Scorer.load(path)
        versions[arm] = (scorer.bundle.sha256 or "")[:12]
        expected = dict(zip((row["id"] for row in rows), scorer.score(rows)["raw_score"].to_list(), strict=True))
        own = [answer for answer in answers if answer["arm"] == arm]
        assert len(own) >= 4
        for answer in own:
            assert answer["raw_score"] == pytest.approx(expected[answer["id"]], abs=1e-6)
            assert answer["version"] == versions[arm]
    assert client.post("/v1/score", json=rows[0]).json()["arm"] == answers[0]["arm"]
    explained = [client.post("/v1/score?explain=true", json=row).json() for row in rows[:8]]
    assert all(answer["reasons"] for answer in explained)
    page = client.get("/metrics").text
    assert 'tsa_arm_payments_total{arm="challenger"}' in page


def test_the_log_names_the_arm_and_compares(client: httpx.Client, tmp_path: Path) -> None:
    rows = [payment(f"p{at}", customer_id=f"c{at % 60}", amount=float(at)) for at in range(240)]
    answers = client.post("/v1/score", json=rows).json()
    for at in range(0, 240, 2):
        client.post("/v1/outcome", json={"id": f"p{at}", "fraud": at % 6 == 0})
    end = time.monotonic() + 10
    while answered(tmp_path / "log")["fraud"].drop_nulls().len() < 120:
        assert time.monotonic() < end
        time.sleep(0.05)
    logged = answered(tmp_path / "log")
    assert dict(logged.select("id", "arm").iter_rows()) == {answer["id"]: answer["arm"] for answer in answers}
    result = CliRunner().invoke(app, ["decisions", "compare", str(tmp_path / "log"), "--amount", "amount"])
    assert result.exit_code == 0, result.output
    for words in ("champion (", "challenger (", "outcomes known", "fraud let through, money per payment"):
        assert words in result.output


@pytest.fixture
def state(bundles: tuple[Path, Path], tmp_path: Path) -> Iterator[AppState]:
    found = AppState(settings_of(bundles[0], **settings(bundles, tmp_path, challenger_share=1.0)))
    yield found
    found.close()


def fallbacks(state: AppState, reason: str) -> float:
    return float(state.metrics.challenger_fallbacks.labels(reason)._value.get())


def score(state: AppState, *rows: dict[str, Any]) -> list[Any]:
    from tsa.serving.request_limits import PaymentRequest

    return state._work([PaymentRequest(row) for row in rows])


def test_the_champion_answers_where_the_challenger_fails(state: AppState, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state.challenger is not None
    assert score(state, payment("a"))[0].arm == CHALLENGER

    def fails(*_: object) -> Any:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(state.challenger._service, "score", fails)
        found = score(state, payment("b"), payment("c"))
    assert [answer.arm for answer in found] == [CHAMPION] * 2
    assert fallbacks(state, "failed") == 2

    def refuses(rows: Any, histories: Any) -> Any:
        return [RuleViolation("no_score", "payment", "must get a score", "none") for _ in rows]

    with monkeypatch.context() as patch:
        patch.setattr(state.challenger._service, "score", refuses)
        assert score(state, payment("d"))[0].arm == CHAMPION
        assert score(state, payment("e", amount="much"))[0].rule == "not_a_number"
    assert fallbacks(state, "refused") == 1


def test_a_slow_challenger_delays_nobody_and_gives_no_second_answer(
    state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert state.challenger is not None
    state.challenger._timeout = 0.05
    own: ScoringService = state.challenger._service
    quick, done = own.score, []

    def slow(*given: Any) -> Any:
        time.sleep(0.5)
        done.append(quick(*given))
        return done[-1]

    with monkeypatch.context() as patch:
        patch.setattr(own, "score", slow)
        begun = time.monotonic()
        (first,) = score(state, payment("a"))
        (second,) = score(state, payment("b"))
        assert time.monotonic() - begun < 0.45
    assert (first.arm, second.arm) == (CHAMPION, CHAMPION)
    assert fallbacks(state, "slow") == 2
    end = time.monotonic() + 10
    while not done:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert done[0][0].raw_score == first.raw_score  # the stored answer
    assert done[0][0].replayed


def test_a_challenger_of_another_market_or_without_decisions_is_refused(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    other = made_bundle(tmp_path / "other", {**SHOP, "name": "elsewhere"})
    with pytest.raises(ConfigError, match="must be of market shop"):
        AppState(settings_of(bundles[0], **settings((bundles[0], other), tmp_path)))
