"""tsa registry: publish, promote, roll back and pull, as a user does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.endpoint import made_bundle
from tsa.bundle.bundle import Bundle
from tsa.bundle.signing import make_keys, sign

Tsa = Callable[..., Any]


def test_a_model_from_publishing_to_rollback(tsa: Tsa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSA_REGISTRY", str(tmp_path / "registry"))
    old, new = (made_bundle(tmp_path / name, seed=seed) for seed, name in enumerate(("old", "new")))
    first, second = (str(Bundle.open(path).sha256)[:12] for path in (old, new))
    for path in (old, new):
        assert tsa("registry", "publish", path, "--by", "ann").code == 0
    (tmp_path / "report.json").write_text('{"gain": 0.02}')
    assert tsa("registry", "promote", first).code == 0
    done = tsa("registry", "promote", second, "--why", "better on May", "--evidence", tmp_path / "report.json")
    assert (done.code, done.out.strip()) == (0, f"champion: version {second}")
    listed = json.loads(tsa("registry", "list", "--json").out)
    assert {v["sha256"][:12]: v["aliases"] for v in listed} == {first: [], second: ["champion"]}
    text = tsa("registry", "list").out
    assert first in text
    assert "champion" in text
    shown = tsa("registry", "show", "champion")
    assert "better on May" in shown.out
    history = json.loads(tsa("registry", "show", "champion", "--json").out)["history"]
    assert history[1]["evidence"] == {"gain": 0.02}
    assert tsa("registry", "rollback", "--why", "alarms").out.strip() == f"champion: version {first}"
    assert tsa("registry", "pull", "champion", "--out", tmp_path / "pulled").code == 0
    assert str(Bundle.open(tmp_path / "pulled").sha256)[:12] == first


def test_a_registry_for_signed_bundles(tsa: Tsa, tmp_path: Path) -> None:
    make_keys(tmp_path / "private.pem", tmp_path / "public.pem")
    url = f"file://{tmp_path}/registry"
    assert tsa("registry", "create", "--registry", url, "--public-key", tmp_path / "public.pem").code == 0
    bundle = made_bundle(tmp_path / "bundle")
    refused = tsa("registry", "publish", bundle, "--registry", url)
    assert refused.code == 2
    assert "must be signed with the key" in refused.err
    sign(bundle, (tmp_path / "private.pem").read_bytes())
    assert tsa("registry", "publish", bundle, "--registry", url).code == 0


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["promote", "nothing"], "has no alias or version 'nothing'"),
        (["rollback"], "has no alias 'champion'"),
        (["rollback", "--alias", "other"], "has no alias 'other'"),
        (["pull", "champion", "--out", "out"], "has no alias or version 'champion'"),
        (["show", "champion"], "has no alias or version 'champion'"),
    ],
)
def test_what_is_not_there_is_one_paragraph(
    tsa: Tsa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], rule: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = tsa("registry", *words, "--registry", tmp_path / "registry")
    assert refused.code == 2
    assert rule in " ".join(refused.err.split())
    assert not (tmp_path / "registry").exists()
