"""Bundles that take one another's place under load, and a shadow that nobody notices."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
import threading
import time
from pathlib import Path

import httpx
import pytest

from support.endpoint import SHOP, WIRE, endpoint, made_bundle, payment, server
from tsa.bundle.bundle import Bundle
from tsa.bundle.signing import make_keys, sign
from tsa.inference.scorer import Scorer
from tsa.serving.history.metadata import pseudonymised


def version_of(bundle: Path) -> str:
    return str(Bundle.open(bundle).sha256)[:12]


ADMIN = "admin-token-0123456789"
TOKEN = {"authorization": f"Bearer {ADMIN}"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two bundles, the second with other weights and another encoder, and a link to the first."""
    monkeypatch.setenv("ADMIN_TOKEN", ADMIN)
    made_bundle(tmp_path / "first")
    other = {**SHOP, "features": {**SHOP["features"], "numerical": [{"name": "amount", "scale": "minmax"}]}}
    made_bundle(tmp_path / "second", other, seed=1)
    (tmp_path / "bundle").symlink_to("first")
    return tmp_path


def point(folder: Path, name: str) -> None:
    """Let the link lead elsewhere, in one step."""
    (folder / "new").symlink_to(name)
    (folder / "new").rename(folder / "bundle")


class Load:
    """Two clients that send payments until they are told to stop."""

    def __init__(self, port: int) -> None:
        self.answers: list[httpx.Response] = []
        self._url, self._stop = f"http://127.0.0.1:{port}/v1/score", threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(name,)) for name in "xy"]

    def _send(self, name: str) -> None:
        with httpx.Client() as client:
            count = 0
            while not self._stop.is_set():
                self.answers.append(client.post(self._url, json=payment(f"{name}{count}")))
                count += 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_whatever_a_new_bundle_stumbles_over_the_old_one_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(folder / "bundle", admin_token_env=("ADMIN_TOKEN",)) as (found, port):
        service = found.service
        assert service is not None
        old, url = version_of(folder / "first"), f"http://127.0.0.1:{port}"
        point(folder, "second")
        with monkeypatch.context() as patch:
            patch.setattr(service.scoring_service, "replace_bundle", lambda *_: 1 / 0)
            refused = httpx.post(f"{url}/v1/admin/reload", headers=TOKEN)
            assert (refused.status_code, refused.json()["rule"]) == (409, "bundle")
            assert service.version == old
            assert httpx.post(f"{url}/v1/score", json=payment("a")).json()["version"] == old
        assert httpx.post(f"{url}/v1/admin/reload", headers=TOKEN).status_code == 200
        assert service.version == version_of(folder / "second")


def wait_for(load: Load, version: str) -> None:
    end = time.monotonic() + 30
    while not (load.answers and load.answers[-1].json().get("version") == version):
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("asked", [True, False])
def test_a_new_bundle_takes_over_under_load_without_a_failed_request(folder: Path, asked: bool) -> None:
    first, second = version_of(folder / "first"), version_of(folder / "second")
    watch = 0.0 if asked else 0.05
    with (
        server(folder / "bundle", admin_token_env=("ADMIN_TOKEN",), watch_seconds=watch) as (_, port),
        Load(port) as load,
    ):
        wait_for(load, first)
        point(folder, "second")
        if asked:
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/admin/reload", headers=TOKEN, timeout=30)
            assert (answer.status_code, answer.json()) == (200, {"version": second})
        wait_for(load, second)
    assert {answer.status_code for answer in load.answers} == {200}
    assert {answer.json()["version"] for answer in load.answers} == {first, second}


@pytest.mark.parametrize("last", ["manifest.json", "weights.safetensors"])
@pytest.mark.parametrize("rename", [True, False])
def test_a_bundle_that_is_copied_file_by_file_is_taken_over_once_it_is_whole(
    folder: Path, last: str, rename: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Over the folder that is served, in either way that programs write files, slowly; times of change are kept."""
    served, new = folder / "first", folder / "second"
    first, second = version_of(served), version_of(new)
    with server(served, watch_seconds=0.03) as (found, port), Load(port) as load:
        wait_for(load, first)
        for path in sorted(new.iterdir(), key=lambda path: path.name == last):
            target = served / path.name
            if rename:
                shutil.copy2(path, served / f".{path.name}.tmp")
                (served / f".{path.name}.tmp").rename(target)
            else:
                target.write_bytes(path.read_bytes())
                os.utime(target, (path.stat().st_atime, path.stat().st_mtime))
            if path.name in (last, "model.json"):
                time.sleep(0.3)
        (served / "weights.safetensors.sagemaker-uploaded").touch()
        wait_for(load, second)
        assert found.service is not None
    assert {answer.status_code for answer in load.answers} == {200}
    assert {answer.json()["version"] for answer in load.answers} == {first, second}
    assert "the old bundle stays in use" in caplog.text


def test_an_archive_that_is_written_over_is_taken_over(folder: Path) -> None:
    served = folder / "served.tar.gz"
    Bundle.open(folder / "first").save(served)
    Bundle.open(folder / "second").save(folder / "new.tar.gz")
    data = (folder / "new.tar.gz").read_bytes()
    with server(served, watch_seconds=0.03) as (_, port), Load(port) as load:
        wait_for(load, version_of(folder / "first"))
        with served.open("wb") as file:
            for part in (data[: len(data) // 2], data[len(data) // 2 :]):
                file.write(part)
                file.flush()
                time.sleep(0.2)
        wait_for(load, version_of(folder / "second"))
    assert {answer.status_code for answer in load.answers} == {200}


def test_a_bomb_at_the_path_is_refused_and_the_bundle_before_it_goes_on(folder: Path) -> None:
    make_keys(folder / "private", folder / "public")
    served = folder / "served.tar.gz"
    Bundle.open(folder / "first").save(served)
    sign(served, (folder / "private").read_bytes())
    first = version_of(served)
    with gzip.open(folder / "bomb", "wb", compresslevel=1) as file:
        header = tarfile.TarInfo("weights.safetensors")
        header.size = 400 * 2**20
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(400):
            file.write(b"\0" * 2**20)
    with server(served, public_key=folder / "public", watch_seconds=0.03) as (found, port), Load(port) as load:
        wait_for(load, first)
        (folder / "bomb").rename(served)
        assert found.service is not None
        end = time.monotonic() + 30
        while 'outcome="refused"} 1' not in found.service.metrics.text()[0].decode():
            assert time.monotonic() < end
            time.sleep(0.05)
    assert {answer.json()["version"] for answer in load.answers} == {first}


def test_after_the_change_histories_are_read_by_the_new_bundle(folder: Path) -> None:
    rows = [payment(f"p{at}", at=f"2025-04-20T12:0{at}:00Z", amount=5.0**at) for at in range(4)]
    with endpoint(folder / "bundle", admin_token_env=("ADMIN_TOKEN",)) as client:
        for row in rows[:3]:
            client.post("/v1/score", json=row)
        point(folder, "second")
        client.post("/v1/admin/reload", headers=TOKEN)
        online = client.post("/v1/score", json=rows[3]).json()["raw_score"]
    offline = Scorer.load(folder / "second").score(rows)["raw_score"].to_list()[-1]
    assert online == pytest.approx(offline, abs=1e-6)


def test_a_score_of_the_old_bundle_gets_no_reasons_of_the_new_one(folder: Path) -> None:
    with endpoint(
        folder / "bundle", history=f"sqlite:///{folder}/h.db", admin_token_env=("ADMIN_TOKEN",), watch_seconds=0
    ) as client:
        before = client.post("/v1/score?explain=true", json=payment("a")).json()
        assert before["reasons"] is not None
        point(folder, "second")
        assert client.post("/v1/admin/reload", headers=TOKEN).status_code == 200
        again = client.post("/v1/score?explain=true", json=payment("a")).json()
        assert (again["raw_score"], again["version"]) == (before["raw_score"], before["version"])
        assert again["reasons"] is None
        assert client.post("/v1/score?explain=true", json=payment("b")).json()["reasons"] is not None


def test_a_bundle_that_does_not_fit_is_refused_and_the_old_one_goes_on(folder: Path) -> None:
    made_bundle(folder / "carried", WIRE)
    (folder / "torn").mkdir()
    with endpoint(folder / "bundle", admin_token_env=("ADMIN_TOKEN",)) as client:
        before = client.post("/v1/score", json=payment("a")).json()
        for name in ("carried", "torn", "nowhere"):
            point(folder, name)
            answer = client.post("/v1/admin/reload", headers=TOKEN)
            assert (answer.status_code, answer.json()["rule"]) == (409, "bundle")
            assert str(folder) not in answer.text
        assert client.post("/v1/score", json=payment("b")).json()["version"] == before["version"]
        assert 'tsa_reloads_total{outcome="refused"} 3.0' in client.get("/metrics").text


def test_the_shadow_tells_of_differences_and_of_nothing_else(folder: Path) -> None:
    rows = [payment(f"p{at}", at=f"2025-04-20T12:0{at}:00Z", amount=5.0**at) for at in range(6)]
    out = folder / "shadow" / "differences.jsonl"
    with endpoint(folder / "first", shadow=folder / "second", shadow_file=out, shadow_difference=0.0) as client:
        ours = [client.post("/v1/score", json=row).json() for row in rows]
        client.post("/v1/score", json=rows[0])
        client.post("/v1/score", json=payment("q", amount="x"))
        end = time.monotonic() + 30
        while "tsa_shadow_difference_count 6.0" not in client.get("/metrics").text:
            assert time.monotonic() < end
            time.sleep(0.05)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    theirs = Scorer.load(folder / "second").score(rows)["raw_score"].to_list()
    assert [line["shadow"]["raw_score"] for line in lines] == pytest.approx(theirs, abs=1e-6)
    assert [line["ours"]["raw_score"] for line in lines] == [answer["raw_score"] for answer in ours]
    assert {line["shadow"]["version"] for line in lines} == {version_of(folder / "second")}
    assert {answer["version"] for answer in ours} == {version_of(folder / "first")}
    assert [line["id"] for line in lines] == [row["id"] for row in rows]
    for word in ("ann", "phone", "t1"):
        assert f'"{word}"' not in out.read_text()


def test_the_shadow_writes_pseudonyms_where_the_market_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHADOW_SECRET", "a secret of more than thirty-two bytes")
    privacy = {"pseudonymise": ["id"], "secret_env": "SHADOW_SECRET"}
    bundle, out = made_bundle(tmp_path / "bundle", {**SHOP, "privacy": privacy}), tmp_path / "lines.jsonl"
    with endpoint(bundle, shadow=bundle, shadow_file=out, shadow_difference=0.0) as client:
        client.post("/v1/score", json=payment("a secret id"))
        end = time.monotonic() + 30
        while "tsa_shadow_difference_count 1.0" not in client.get("/metrics").text:
            assert time.monotonic() < end
            time.sleep(0.05)
    pseudonym = pseudonymised(Bundle.open(bundle).market, "id", "a secret id")
    assert json.loads(out.read_text())["id"] == pseudonym != "a secret id"


def test_a_shadow_that_does_not_differ_writes_nothing(folder: Path) -> None:
    out = folder / "differences.jsonl"
    with endpoint(folder / "first", shadow=folder / "first", shadow_file=out) as client:
        client.post("/v1/score", json=payment("a"))
        end = time.monotonic() + 30
        while "tsa_shadow_difference_count 1.0" not in client.get("/metrics").text:
            assert time.monotonic() < end
            time.sleep(0.05)
    assert out.read_text() == ""


def test_only_bundles_that_were_signed_take_over_where_a_key_is_given(folder: Path) -> None:
    pytest.importorskip("cryptography")
    private, public = folder / "key", folder / "key.pub"
    make_keys(private, public)
    sign(folder / "first", private.read_bytes())
    with endpoint(folder / "bundle", public_key=public, admin_token_env=("ADMIN_TOKEN",)) as client:
        point(folder, "second")
        refused = client.post("/v1/admin/reload", headers=TOKEN)
        assert (refused.status_code, refused.json()["rule"]) == (409, "bundle")
        sign(folder / "second", private.read_bytes())
        assert client.post("/v1/admin/reload", headers=TOKEN).status_code == 200


def test_a_bundle_in_one_file_is_served_and_replaced(folder: Path) -> None:
    archive = folder / "bundle.tar.gz"
    Bundle.open(folder / "first").save(archive)
    with endpoint(archive, watch_seconds=0.05) as client:
        assert client.post("/v1/score", json=payment("a")).json()["version"] == version_of(archive)
        Bundle.open(folder / "second").save(archive)
        end = time.monotonic() + 30
        count = 0
        while client.post("/v1/score", json=payment(f"b{count}")).json()["version"] != version_of(folder / "second"):
            assert time.monotonic() < end
            time.sleep(0.05)
            count += 1
