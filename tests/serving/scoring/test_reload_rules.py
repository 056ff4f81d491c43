"""Which bundles may replace the running one: what was not evaluated, or lost its decisions, does not go live by accident."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from support.endpoint import WIRE, endpoint, made_bundle, payment
from tsa.bundle.bundle import Bundle, set_decision_policy
from tsa.errors import ConfigError
from tsa.serving.scoring.reload_rules import TakeoverRefusedError, check_takeover

ADMIN = "admin-token-0123456789"
TOKEN = {"authorization": f"Bearer {ADMIN}"}
DECISIONS = ["review=0.9", "decline=0.99"]


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An evaluated bundle with decisions."""
    monkeypatch.setenv("ADMIN_TOKEN", ADMIN)
    path = made_bundle(tmp_path / "running")
    set_decision_policy(path, DECISIONS, score="raw_score")
    return path


def without(path: Path, what: str) -> None:
    """Replace the bundle at `path` by one with other weights that is not evaluated, or has no decisions."""
    made_bundle(path, seed=1, evaluated=what != "evaluation")
    if what != "decisions":
        set_decision_policy(path, DECISIONS, score="raw_score")


@pytest.mark.parametrize(
    ("missing", "outcome"), [("evaluation", "unevaluated"), ("decisions", "without_decisions"), ("nothing", None)]
)
def test_only_evaluated_bundles_with_decisions_replace_the_running_one(
    running: Path, tmp_path: Path, missing: str, outcome: str | None
) -> None:
    without(tmp_path / "new", missing)
    old, new = Bundle.open(running), Bundle.open(tmp_path / "new")
    if outcome is None:
        check_takeover(old, new, allow_unevaluated=False)
        return
    with pytest.raises(TakeoverRefusedError) as refused:
        check_takeover(old, new, allow_unevaluated=False)
    assert refused.value.outcome == outcome
    check_takeover(old, new, allow_unevaluated=True)


def test_a_bundle_of_another_market_never_replaces_the_running_one(running: Path, tmp_path: Path) -> None:
    other = Bundle.open(made_bundle(tmp_path / "other", WIRE))
    with pytest.raises(ConfigError, match="market shop"):
        check_takeover(Bundle.open(running), other, allow_unevaluated=True)


def test_decisions_are_not_needed_where_the_running_bundle_has_none(tmp_path: Path) -> None:
    bundle = Bundle.open(made_bundle(tmp_path / "bundle"))
    check_takeover(bundle, bundle, allow_unevaluated=False)


@pytest.mark.parametrize(("missing", "outcome"), [("evaluation", "unevaluated"), ("decisions", "without_decisions")])
def test_training_into_the_served_folder_does_not_go_live(
    running: Path, missing: str, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    with endpoint(running, admin_token_env=("ADMIN_TOKEN",), watch_seconds=0.03) as client:
        before = client.post("/v1/score", json=payment("a")).json()
        without(running, missing)
        counted(client, f'tsa_reloads_total{{outcome="{outcome}"}}')
        after = client.post("/v1/score", json=payment("b")).json()
        assert after["version"] == before["version"]
        assert after["decision"] == before["decision"] is not None
        answer = client.post("/v1/admin/reload", headers=TOKEN)
        assert (answer.status_code, answer.json()["rule"]) == (409, f"bundle_{outcome}")
        assert str(running) not in answer.text
        assert "--allow-unevaluated" in caplog.text


@pytest.mark.parametrize("missing", ["evaluation", "decisions"])
def test_an_operator_may_allow_it(running: Path, missing: str) -> None:
    with endpoint(running, admin_token_env=("ADMIN_TOKEN",), allow_unevaluated=True) as client:
        without(running, missing)
        assert client.post("/v1/admin/reload", headers=TOKEN).json() == {"version": version(running)}


def version(path: Path) -> str:
    return str(Bundle.open(path).sha256)[:12]


def counted(client: httpx.Client, metric: str) -> None:
    """Wait until a metric is counted."""
    end = time.monotonic() + 30
    while f"{metric} " not in client.get("/metrics").text:
        assert time.monotonic() < end, metric
        time.sleep(0.05)
