"""The page at /queue, used as an analyst uses it, in a headless Chromium; and what axe-core says of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.browser import Page, browser, chromium
from support.endpoint import endpoint, made_bundle, payment, server
from tsa.bundle.bundle import set_decision_policy
from tsa.serving.decisions.entries import OUTCOMES
from tsa.serving.decisions.parquet_files import read_table

ANN, BEA, SHOP = "ann-token-0123456789", "bea-token-0123456789", "score-token-0123456789"
HOSTILE = "<img src=x onerror=\"document.title='broken'\">"
PROGRAM = chromium()

pytestmark = pytest.mark.browser
needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = made_bundle(tmp_path_factory.mktemp("queue") / "bundle")
    set_decision_policy(path, ["review=0.0000001"], score="raw_score")
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert PROGRAM is not None
    with browser(PROGRAM, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def url(bundle: Path, tmp_path: Path) -> Iterator[str]:
    """A server with four payments in its queue: the first is the one with the largest amount and a hostile key."""
    (tmp_path / "tokens").write_text(f"{SHOP}\n{ANN} analyst ann\n{BEA} analyst bea\n")
    options = {"token_files": (tmp_path / "tokens",), "decision_log": tmp_path / "log", "queue": True}
    with server(bundle, history=f"sqlite:///{tmp_path}/h.db", decision_log_sync=True, **options) as (_, port):
        address = f"http://127.0.0.1:{port}"
        headers = {"authorization": f"Bearer {SHOP}"}
        for at in range(4):
            row = payment(f"p{at}{HOSTILE}", amount=10.0 ** (at + 2), at=f"2025-04-1{at}", customer_id=HOSTILE)
            assert httpx.post(f"{address}/v1/score", json=row, headers=headers).status_code == 200
        while httpx.get(f"{address}/v1/queue", headers={"authorization": f"Bearer {ANN}"}).json()["total"] < 4:
            pass
        yield address


def act(page: Page, script: str) -> None:
    """Run a script that begins one request chain, and wait for its end."""
    page.run(f'document.body.dataset.done = "0"; {script}')
    page.until('document.body.dataset.done === "1"')


def press(page: Page, key: str) -> None:
    act(page, f'document.body.dispatchEvent(new KeyboardEvent("keydown", {{ key: "{key}", bubbles: true }}))')


def sign_in(page: Page, url: str, token: str, width: int = 1280, scheme: str = "light") -> None:
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.open(f"{url}/queue", width, 900)
    page.until('document.body.dataset.ready === "true"')
    page.run(f'document.getElementById("token").value = "{token}"')
    act(page, 'document.querySelector("#sign-in button").click()')


def text(page: Page, id_: str) -> str:
    shown = page.run(f'document.getElementById("{id_}").innerText')
    assert isinstance(shown, str)
    return shown


def test_the_page_is_its_own_files_and_no_others(bundle: Path) -> None:
    with endpoint(bundle) as client:
        html = client.get("/queue")
        assert html.headers["content-type"].startswith("text/html")
        for rule in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"):
            assert rule in html.headers["content-security-policy"]
        for path in ("/page/queue.js", "/page/queue.css", "/page/shared.js"):
            assert path in html.text
            assert client.get(path).status_code == 200
        assert "innerHTML" not in "".join(client.get(f"/page/{name}.js").text for name in ("queue", "shared", "page"))


@needs_browser
def test_an_analyst_works_through_the_queue(page: Page, url: str, tmp_path: Path) -> None:
    sign_in(page, url, ANN)
    assert "4 to review" in text(page, "summary")
    assert "you are ann" in text(page, "summary")
    assert text(page, "case-title") == f"Payment p3{HOSTILE}"
    assert "new " in text(page, "reasons") or "speaks" in text(page, "legend")
    assert page.run('document.querySelectorAll("#reasons li").length') > 0
    assert page.run('document.querySelectorAll("#histories svg circle:not(.now)").length') == 6  # 3 of each history
    assert page.run('document.querySelectorAll("#similar tr").length') == 3
    assert HOSTILE in text(page, "numbers")
    press(page, "j")
    assert text(page, "case-title") == f"Payment p2{HOSTILE}"
    assert page.run("document.activeElement.id") == "case-title", "a screen reader reads the payment that was opened"
    press(page, "k")
    press(page, "f")
    assert f"p3{HOSTILE}: fraud." in text(page, "status")
    assert text(page, "case-title") == f"Payment p2{HOSTILE}"
    act(page, 'document.getElementById("genuine").click()')
    press(page, "l")
    assert "1 to review, 1 put off, 2 done" in text(page, "summary")
    press(page, "u")
    assert text(page, "case-title") == f"Payment p1{HOSTILE}", "the last one is opened again"
    rows = read_table(tmp_path / "log", OUTCOMES)
    assert rows.select("id", "fraud", "by").rows() == [(f"p3{HOSTILE}", True, "ann"), (f"p2{HOSTILE}", False, "ann")]
    act(
        page,
        'document.getElementById("state").value = "done"; document.getElementById("state").dispatchEvent(new Event("change"))',
    )
    assert page.run('document.querySelectorAll("#cases button").length') == 2
    assert "fraud, by ann" in text(page, "numbers")
    assert page.run("document.title") == "Review queue"
    assert page.run('document.querySelectorAll("img").length') == 0
    assert page.errors == []


@needs_browser
def test_filters_keys_while_typing_and_another_analyst(page: Page, url: str) -> None:
    held = httpx.post(f"{url}/v1/queue/claim", json={"id": f"p2{HOSTILE}"}, headers={"authorization": f"Bearer {BEA}"})
    assert held.status_code == 200
    sign_in(page, url, ANN)
    assert page.run('document.querySelectorAll("#cases button:disabled").length') == 1
    assert "open at bea" in text(page, "cases")
    press(page, "j")
    assert text(page, "case-title") == f"Payment p1{HOSTILE}", "the payment of another analyst is passed over"
    page.run('document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "/", bubbles: true }))')
    assert page.run("document.activeElement.id") == "text"
    page.run('document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "f", bubbles: true }))')
    page.run('document.getElementById("text").value = "P0"')
    act(page, 'document.querySelector("#filters button[type=submit]").click()')
    assert text(page, "case-title") == f"Payment p0{HOSTILE}", "f was a letter of the search"
    assert page.run('document.querySelectorAll("#cases button").length') == 1
    page.run('document.getElementById("use-keys").checked = false')
    page.run('document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "f", bubbles: true }))')
    assert "1 done" not in text(page, "summary")
    act(page, 'document.getElementById("csv").click()')
    assert page.run('document.getElementById("problem").hidden')
    sign_in(page, url, SHOP)
    assert "must have the role analyst" in text(page, "problem")
    page.errors.clear()  # a browser notes each refusal


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_it_fits_and_is_accessible(page: Page, url: str, tmp_path: Path, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_core_python")
    sign_in(page, url, ANN, width, scheme)
    press(page, "f")
    page.run('document.getElementById("keys").open = true')
    assert page.run("document.documentElement.scrollWidth") <= width
    page.run((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8") + "; 0")
    problems = page.run(
        "axe.run().then((all) => JSON.stringify(all.violations.map((one) => [one.id, one.impact, one.nodes.map((node) => "
        "node.target.join(' ') + ' ' + node.failureSummary)])))"
    )
    assert json.loads(problems) == []
    page.picture(tmp_path / "queue.png")
    assert page.errors == []
