"""A server that follows an alias: promotions and rollbacks go live without a failed request, failures of the registry do not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.endpoint import made_bundle, payment, served, server
from tsa.bundle.bundle import Bundle
from tsa.errors import RegistryError
from tsa.registry import AliasFollower, Registry

Tsa = Callable[..., Any]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Two versions, the first of them the champion."""
    registry = Registry.open(str(tmp_path / "registry"))
    for seed in range(2):
        registry.publish(made_bundle(tmp_path / str(seed), seed=seed), by="ann")
    registry.promote(sha(tmp_path / "0"), by="ann")
    return registry


def sha(path: Path) -> str:
    return str(Bundle.open(path).sha256)


def test_the_link_follows_the_alias(registry: Registry, tmp_path: Path) -> None:
    source = AliasFollower(f"{tmp_path}/registry@champion", tmp_path / "cache")
    assert [source.refresh(), source.refresh()] == [True, False]
    assert sha(source.path.resolve()) == sha(tmp_path / "0")
    registry.promote(sha(tmp_path / "1"), by="ann")
    other = AliasFollower(f"{tmp_path}/registry@champion", tmp_path / "cache")
    assert [source.refresh(), other.refresh()] == [True, False]
    assert sha(source.path.resolve()) == sha(tmp_path / "1")
    registry.rollback(by="ann")
    assert source.refresh()
    assert sha(source.path.resolve()) == sha(tmp_path / "0")


def test_old_copies_are_removed(registry: Registry, tmp_path: Path) -> None:
    source = AliasFollower(f"{tmp_path}/registry@champion", tmp_path / "cache")
    for seed in range(5):
        bundle = made_bundle(tmp_path / f"more{seed}", seed=10 + seed)
        registry.promote(registry.publish(bundle, by="ann").sha256, by="ann")
        assert source.refresh()
        assert sha(source.path.resolve()) == sha(bundle)
    assert len([path for path in source.folder.iterdir() if not path.is_symlink()]) == 3


def test_two_aliases_have_their_own_copies(registry: Registry, tmp_path: Path) -> None:
    registry.promote(sha(tmp_path / "1"), "challenger", by="ann")
    sources = [AliasFollower(f"{tmp_path}/registry@{alias}", tmp_path / "c") for alias in ("champion", "challenger")]
    assert all(source.refresh() for source in sources)
    assert [sha(source.path.resolve()) for source in sources] == [sha(tmp_path / "0"), sha(tmp_path / "1")]


@pytest.mark.parametrize("name", ["registry", "@champion", "registry@", ""])
def test_names_of_another_form_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="bundle_from must be REGISTRY@ALIAS"):
        AliasFollower(name, tmp_path)


def until(met: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not met():
        assert time.monotonic() < end
        time.sleep(0.03)


def test_a_server_follows_the_alias(registry: Registry, tmp_path: Path) -> None:
    place = tmp_path / "registry"
    source = AliasFollower(f"{place}@champion", tmp_path / "cache")
    source.refresh()
    follow = {"bundle_from": f"{place}@champion", "bundle_cache": tmp_path / "cache", "watch_seconds": 0.05}
    first, second = (sha(tmp_path / name)[:12] for name in "01")
    answers: list[httpx.Response] = []
    with server(source.path, **follow) as (_, port), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:

        def version() -> str:
            answers.append(client.post("/v1/score", json=payment(f"p{len(answers)}")))
            return str(answers[-1].json()["version"])

        def counted(metric: str) -> bool:
            version()
            return f"{metric} " in client.get("/metrics").text

        assert version() == first
        registry.promote(second, by="ann", why="better")
        until(lambda: version() == second)
        registry.rollback(by="ann", why="alarms")
        until(lambda: version() == first)
        unevaluated = registry.publish(made_bundle(tmp_path / "new", seed=5, evaluated=False), by="ann")
        registry.promote(unevaluated.short, by="ann")
        until(lambda: counted('tsa_reloads_total{outcome="unevaluated"}'))
        place.rename(tmp_path / "gone")
        until(lambda: "tsa_registry_failures_total 0.0" not in client.get("/metrics").text)
        assert version() == first
        (tmp_path / "gone").rename(place)
        registry.promote(second, by="ann")
        until(lambda: version() == second)
    assert {answer.status_code for answer in answers} == {200}


def test_a_shadow_follows_its_alias(registry: Registry, tmp_path: Path) -> None:
    place = tmp_path / "registry"
    sources = [AliasFollower(f"{place}@{alias}", tmp_path / "cache") for alias in ("champion", "challenger")]
    sources[0].refresh()
    follow = {
        f"{name}_from": f"{place}@{alias}" for name, alias in {"bundle": "champion", "shadow": "challenger"}.items()
    }
    paths = {"bundle_cache": tmp_path / "cache", "shadow": sources[1].path, "shadow_file": tmp_path / "shadow.jsonl"}
    settings = {**follow, **paths, "watch_seconds": 0.05, "shadow_difference": 0.0}
    first, second = (sha(tmp_path / name)[:12] for name in "01")
    with server(sources[0].path, **settings) as (_, port), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        count = iter(range(10**6))

        def shadows() -> set[tuple[str, str]]:
            """The versions of the answer and of the shadow, of all payments until now."""
            answer = client.post("/v1/score", json=payment(f"p{next(count)}"))
            assert answer.status_code == 200
            lines = map(json.loads, (tmp_path / "shadow.jsonl").read_text().splitlines() if shadow_file() else [])
            return {(line["ours"]["version"], line["shadow"]["version"]) for line in lines}

        def shadow_file() -> bool:
            return (tmp_path / "shadow.jsonl").exists()

        assert shadows() == set()
        registry.promote(second, "challenger", by="ann")
        until(lambda: "tsa_shadow_reloads_total" in client.get("/metrics").text and shadows() == {(first, second)})
        third = registry.publish(made_bundle(tmp_path / "2", seed=2), by="ann").short
        registry.promote(third, "challenger", by="ann")
        until(lambda: (first, third) in shadows())
        place.rename(tmp_path / "gone")
        until(lambda: "tsa_registry_failures_total 0.0" not in client.get("/metrics").text)
        lines = len((tmp_path / "shadow.jsonl").read_text().splitlines())
        until(lambda: bool(shadows()) and len((tmp_path / "shadow.jsonl").read_text().splitlines()) > lines)
        (tmp_path / "gone").rename(place)
        registry.rollback("challenger", by="ann")
        until(lambda: (tmp_path / "shadow.jsonl").read_text().splitlines()[-1].count(second) == 1 or not shadows())
        assert 'tsa_shadow_reloads_total{outcome="taken"} 3.0' in client.get("/metrics").text


@pytest.mark.parametrize(
    ("words", "said"), [(["--shadow", "b"], "got both"), ([], "shadow_from must be REGISTRY@ALIAS")]
)
def test_a_shadow_is_given_in_one_way(tsa: Tsa, tmp_path: Path, words: list[str], said: str) -> None:
    refused = tsa("serve", made_bundle(tmp_path / "b"), "--shadow-from", "r@challenger" if words else "r", *words)
    assert refused.code == 2
    assert said in refused.err


def test_the_command_serves_from_a_registry(registry: Registry, tmp_path: Path) -> None:
    words = ["--bundle-from", f"{tmp_path}/registry@champion", "--bundle-cache", tmp_path / "cache"]
    first, second = (sha(tmp_path / name)[:12] for name in "01")
    with served(None, f"sqlite:///{tmp_path}/h.db", *words) as (_, url):
        versions = [httpx.post(f"{url}/v1/score", json=payment("a")).json()["version"]]
        registry.promote(second, by="ann")
        until(lambda: httpx.post(f"{url}/v1/score", json=payment(str(time.time()))).json()["version"] == second)
    assert versions == [first]


def test_the_last_copy_is_served_if_the_registry_is_away(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tsa.cli.serve import _bundle

    name, cache = f"{tmp_path}/registry@champion", tmp_path / "cache"
    path = _bundle(None, name, cache)
    (tmp_path / "registry").rename(tmp_path / "gone")
    assert _bundle(None, name, cache) == path
    assert "the last copy of the bundle is served" in caplog.text
    with pytest.raises(RegistryError, match="has no alias 'champion'"):
        _bundle(None, name, tmp_path / "other")


@pytest.mark.parametrize("words", [[], ["bundle", "--bundle-from", "registry@champion"]])
def test_a_bundle_is_given_in_one_way(tsa: Tsa, words: list[str]) -> None:
    refused = tsa("serve", *words)
    assert refused.code == 2
    assert "tsa serve needs a bundle or --bundle-from" in refused.err
