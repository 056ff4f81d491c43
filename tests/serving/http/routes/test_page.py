"""The page at /, used as a person uses it, in a headless Chromium at the width of a telephone and of a scoring service."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.browser import Page, browser, chromium
from support.endpoint import WIRE, endpoint, made_bundle, payment, server
from tsa.bundle.bundle import set_decision_policy

TOKEN = "score-token-0123456789"
PROGRAM = chromium()

pytestmark = pytest.mark.browser
needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_bundle(tmp_path_factory.mktemp("page") / "bundle")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert PROGRAM is not None
    with browser(PROGRAM, tmp_path_factory.mktemp("profile")) as found:
        yield found


def fill(page: Page, name: str, value: str) -> None:
    page.run(f'document.getElementById("field-{name}").value = "{value}"')


def click_score(page: Page) -> None:
    page.run('document.body.dataset.done = "0"; document.getElementById("score").click()')
    page.until('document.body.dataset.done === "1"')


def text(page: Page, id_: str) -> str:
    found = page.run(f'document.getElementById("{id_}").innerText')
    assert isinstance(found, str)
    return found


def shown(page: Page, id_: str) -> bool:
    return bool(page.run(f'document.getElementById("{id_}").offsetParent !== null'))


def test_the_page_is_its_own_files_and_no_others(bundle: Path) -> None:
    with endpoint(bundle) as client:
        html = client.get("/")
        assert html.headers["content-type"].startswith("text/html")
        assert "script-src 'self'" in html.headers["content-security-policy"]
        for path in ("/page/page.js", "/page/page.css", "/page/icon.svg"):
            assert path in html.text
            assert client.get(path).status_code == 200
            assert "http" not in client.get(path).text.replace("http://www.w3.org/2000/svg", "")
        form = client.get("/v1/form").json()
        assert [column["name"] for column in form["columns"]][:3] == ["id", "at", "customer_id"]
        devices = next(column for column in form["columns"] if column["name"] == "device")
        assert sorted(devices["choices"]) == ["phone", "tablet"]


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_a_person_scores_a_payment(bundle: Path, page: Page, tmp_path: Path, width: int) -> None:
    with server(bundle, history=f"sqlite:///{tmp_path}/h.db") as (_, port):
        url = f"http://127.0.0.1:{port}"
        for day in range(1, 6):
            row = payment(f"e{day}", at=f"2025-04-{day + 10}T08:00:00Z", amount=20.0 * day)
            assert httpx.post(f"{url}/v1/score", json=row).status_code == 200
        httpx.post(f"{url}/v1/outcome", json={"id": "e2", "fraud": True, "at": "2025-04-14"})
        page.open(url, width, 900)
        page.until('document.body.dataset.ready === "true"')
        for name, value in {**payment("seen"), "device": "watch"}.items():
            fill(page, name, str(value))
        click_score(page)
        assert shown(page, "answer")
        assert not shown(page, "problem")
        again = httpx.post(f"{url}/v1/score", json={**payment("seen"), "device": "watch"}).json()
        assert again["replayed"]
        assert f"{again['raw_score']:.6f}" in text(page, "numbers")
        assert f"{100 * again['percentile']:.1f} %" in page.run('document.getElementById("gauge").textContent')
        assert "new device for this" in text(page, "reasons")
        circles = 'document.querySelectorAll("#histories svg circle:not(.now)").length'
        assert page.run(circles) == 4 + 3  # what the histories of 5 and of 4 hold beside the payment
        assert page.run('document.querySelectorAll("#histories .fraud").length') == 1
        assert page.run("document.documentElement.scrollWidth") <= width
        page.picture(tmp_path / f"page-{width}.png")
        assert (tmp_path / f"page-{width}.png").stat().st_size > 20_000
        assert page.errors == []


@needs_browser
def test_the_gauge_agrees_with_the_decision(bundle: Path, page: Page, tmp_path: Path) -> None:
    """Its score, its marks and its colour are those of the bundle's thresholds, not of fixed limits."""
    own = tmp_path / "bundle"
    shutil.copytree(bundle, own)
    for texts, decision, colour in (
        (["review=0", "decline=1"], "review", "--middle"),
        (["review=0.0000001", "decline=0.0000002"], "decline", "--for"),
        (["review=0.999999", "decline=1"], "accept", "--against"),
        (["review=0"], "review", "--middle"),
    ):
        set_decision_policy(own, texts, score="raw_score")
        with server(own, history=f"sqlite:///{tmp_path}/{colour}{len(texts)}.db") as (_, port):
            page.open(f"http://127.0.0.1:{port}", 1280, 900)
            page.until('document.body.dataset.ready === "true"')
            click_score(page)
            assert page.run('document.getElementById("gauge").dataset.colour') == f"var({colour})"
            assert f"decision {decision}" in page.run('document.getElementById("gauge").getAttribute("aria-label")')
            assert "raw score" in page.run('document.getElementById("gauge").textContent')
            assert page.run('document.querySelectorAll("#gauge .limit").length') == len(texts)
    assert page.errors == []


@needs_browser
def test_what_is_refused_is_said_at_its_field(bundle: Path, page: Page) -> None:
    with server(bundle) as (_, port):
        page.open(f"http://127.0.0.1:{port}", 1280, 900)
        page.until('document.body.dataset.ready === "true"')
        fill(page, "amount", "<b>much</b>")
        click_score(page)
        assert shown(page, "problem")
        assert not shown(page, "answer")
        assert "must be a number" in text(page, "problem")
        assert "<b>much</b>" in text(page, "problem")
        assert page.run('document.getElementById("field-amount").classList.contains("wrong")')
        fill(page, "amount", "12")
        click_score(page)
        assert shown(page, "answer")
        assert not shown(page, "problem")
        assert "No earlier payments" in text(page, "histories")
    page.errors.clear()  # a browser notes each refusal


@needs_browser
def test_a_token_is_asked_for_where_there_is_one(bundle: Path, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGE_TOKEN", TOKEN)
    with server(bundle, token_env=("PAGE_TOKEN",)) as (_, port):
        page.open(f"http://127.0.0.1:{port}", 1280, 900)
        page.until('document.body.dataset.ready === "false"')
        assert shown(page, "token-row")
        page.run(f'document.getElementById("token").value = "{TOKEN}"')
        click_score(page)
        assert shown(page, "answer"), text(page, "problem")
    page.errors.clear()


@needs_browser
def test_rows_that_carry_their_history_are_given_as_json(page: Page, tmp_path: Path) -> None:
    with server(made_bundle(tmp_path / "bundle", WIRE), history=None) as (_, port):
        page.open(f"http://127.0.0.1:{port}", 1280, 900)
        page.until('document.body.dataset.ready === "true"')
        assert shown(page, "row")
        click_score(page)
        assert shown(page, "answer"), text(page, "problem")
        page.run('document.getElementById("row").value = "{"')
        click_score(page)
        assert "Not sent" in text(page, "problem")
        assert page.errors == []
