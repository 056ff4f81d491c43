"""tsa bundle: shown, packed, decided by, signed, verified, compared; each as a user does it."""

from __future__ import annotations

import copy
import json
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tsa.bundle.bundle import Bundle
from tsa.bundle.decisions import Decision, DecisionPolicy
from tsa.bundle.signing import make_keys, read_bundle, sign, verify
from tsa.calibration.calibration import Calibration
from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.data.store import build, store
from tsa.errors import BundleError, ConfigError
from tsa.evaluation.bundle_diff import diff_bundles
from tsa.inference.scorer import Scorer
from tsa.model.network_and_trees import MEAN

Tsa = Callable[..., Any]


@pytest.fixture
def bundle(demo_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_run / "bundle", tmp_path / "bundle"))


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    make_keys(tmp_path / "private.pem", tmp_path / "public.pem")
    return tmp_path / "private.pem", tmp_path / "public.pem"


def refused(outcome: Any, text: str) -> None:
    assert outcome.code == 2, (outcome.code, outcome.err)
    assert "Traceback" not in outcome.err
    assert text in outcome.err.replace("\n", " "), outcome.err


def test_show(tsa: Tsa, bundle: Path) -> None:
    shown = tsa("bundle", "show", bundle)
    assert shown.code == 0, shown.err
    for text in ("Temporal Self-Attention", "Intended use", "weights.safetensors", "sha256:", "not signed", "ROC AUC"):
        assert text in shown.out
    refused(tsa("bundle", "show", bundle.parent / "nowhere"), "is not a bundle")


def test_pack_and_score(tsa: Tsa, bundle: Path, demo_log: Path, tmp_path: Path) -> None:
    packed = tmp_path / "model.tar.gz"
    assert tsa("bundle", "pack", bundle, "--out", packed).code == 0
    for name, source in (("folder", bundle), ("archive", packed)):
        assert tsa("score", source, demo_log, "--out", tmp_path / f"{name}.parquet", "-q").code == 0
    one, other = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("folder", "archive"))
    assert one.equals(other)
    (bundle / "model.json").write_text("{}")
    refused(tsa("bundle", "pack", bundle, "--out", packed), "model.json was changed")
    assert Bundle.open(packed), "what stood there still does"


def test_signing(tsa: Tsa, bundle: Path, tmp_path: Path) -> None:
    private, public = tmp_path / "a.pem", tmp_path / "b.pem"
    assert tsa("bundle", "keygen", "--private", private, "--public", public).code == 0
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    refused(tsa("bundle", "keygen", "--private", private, "--public", public), "must not exist")
    refused(tsa("bundle", "verify", bundle, "--key", public), "got no signature")
    assert tsa("bundle", "verify", bundle).code == 0
    assert tsa("bundle", "sign", bundle, "--key", private).code == 0
    verified = tsa("bundle", "verify", bundle, "--key", public)
    assert verified.code == 0, verified.err
    assert "signed with the key" in verified.out
    make_keys(tmp_path / "c.pem", tmp_path / "d.pem")
    refused(tsa("bundle", "verify", bundle, "--key", tmp_path / "d.pem"), "must be signed with the key")
    refused(tsa("bundle", "sign", bundle, "--key", public), "must be a private key")
    refused(tsa("bundle", "verify", bundle, "--key", private), "must be a public key")
    packed = tmp_path / "signed.tar.gz"
    assert tsa("bundle", "pack", bundle, "--out", packed).code == 0
    assert verify(packed, public.read_bytes())
    assert Scorer.load(packed, key=public.read_bytes())


def test_any_change_after_signing_is_refused(bundle: Path, keys: tuple[Path, Path]) -> None:
    private, public = (key.read_bytes() for key in keys)
    sign(bundle, private)
    whole = read_bundle(bundle)[0]
    for name, content in whole.items():
        (bundle / name).write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        with pytest.raises(BundleError, match=name):
            verify(bundle, public)
        with pytest.raises(BundleError, match=name):
            Bundle.open(bundle)
        (bundle / name).write_bytes(content)
    assert verify(bundle, public)


def test_any_changed_byte_of_a_signature_is_refused_without_a_key(bundle: Path, keys: tuple[Path, Path]) -> None:
    sign(bundle, keys[0].read_bytes())
    path = bundle / "signature.json"
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(BundleError, match=r"signature\.json"):
            Bundle.open(bundle)
    path.write_bytes(whole + b" ")
    with pytest.raises(BundleError, match=r"signature\.json"):
        Bundle.open(bundle)


def test_another_bundle_with_this_signature_is_refused(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """Whole by itself, and the signature is whole as well, but it is of another manifest."""
    private, public = (key.read_bytes() for key in keys)
    sign(bundle, private)
    other = Bundle.open(bundle)
    with torch.no_grad():
        next(other.network.parameters()).add_(1.0)
    other.save(tmp_path / "other")
    with pytest.raises(BundleError, match="got no signature"):
        Bundle.open(tmp_path / "other", key=public)
    shutil.copy(bundle / "signature.json", tmp_path / "other")
    for key in (None, public):
        with pytest.raises(BundleError, match="was changed, or the manifest was changed after signing"):
            Bundle.open(tmp_path / "other", key=key)


def test_decide(tsa: Tsa, bundle: Path, own_run: Path) -> None:
    made = tsa(
        "bundle",
        "set-thresholds",
        bundle,
        "--score",
        "raw_score",
        "--threshold",
        "review=0.2",
        "--threshold",
        "decline=0.9",
    )
    assert made.code == 0, made.err
    found = Bundle.open(bundle).thresholds
    assert found is not None
    scores = np.array([0.1, 0.25, 0.5, 0.95, 1.0], np.float32)
    assert found.decide({"raw_score": scores}) == ["accept", "review", "review", "decline", "decline"]
    refused(tsa("bundle", "set-thresholds", bundle, "--threshold", "review"), "must be NAME=LIMIT")
    refused(tsa("bundle", "set-thresholds", bundle, "--threshold", "a=2"), "--threshold a must be from 0 to 1 (got 2)")
    refused(
        tsa("bundle", "set-thresholds", bundle, "--threshold", "accept=0.2"), "is the decision below all thresholds"
    )
    replace(Bundle.open(bundle), calibration=None).save(bundle)
    refused(tsa("bundle", "set-thresholds", bundle, "--threshold", "review=0.9"), "is not calibrated for it")
    saved = tsa("thresholds", own_run, "--cost-review", "0.01", "--save", "-q")
    assert saved.code == 0, saved.err
    best = json.loads((own_run / "thresholds.json").read_text())["best"]["threshold"]
    decisions = Bundle.open(own_run / "bundle").thresholds
    assert decisions == DecisionPolicy(score="raw_score", decisions=(Decision("review", best),))


def test_decisions_say_what_they_need() -> None:
    with pytest.raises(ConfigError, match=r"decisions need percentile \(got a bundle with raw_score\)"):
        DecisionPolicy(score="percentile", decisions=(Decision("review", 0.5),)).decide(
            {"raw_score": np.zeros(1, np.float32)}
        )
    with pytest.raises(ConfigError, match="must be as this program writes it"):
        DecisionPolicy.from_dict({"version": 2})


def test_a_bundle_does_not_differ_from_itself(tsa: Tsa, bundle: Path, demo_log: Path, tmp_path: Path) -> None:
    found = tsa("bundle", "diff", bundle, bundle, demo_log, "--out", tmp_path / "diff.json", "-q")
    assert found.code == 0, found.err
    table = json.loads((tmp_path / "diff.json").read_text())
    assert table["schema"] == table["scaling"] == table["model"] == table["training"] == []
    assert table["vocabulary"] == {}
    assert table["parts"] == []
    assert table["weights"]["equal"] is table["calibration"]["equal"] is True
    assert table["scores"]["rank_correlation"] == pytest.approx(1.0)
    assert table["scores"]["psi"] == table["scores"]["largest"] == 0.0
    assert set(table["scores"]["top_overlap"].values()) == {1.0}
    assert "weights: the same" in found.out


@pytest.mark.parametrize("form", ["table", "file"])
@pytest.mark.parametrize(
    ("change", "read", "encoded"),
    [
        ("weights", 1, 1),
        ("encoder", 1, 2),
        ("name and ranges", 1, 1),
        ("another label delay", 2, 2),
    ],
)
def test_a_log_is_read_and_encoded_no_more_than_it_must(
    bundle: Path,
    demo_log: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    change: str,
    read: int,
    encoded: int,
) -> None:
    """And the scores are, to the bit, what each bundle gives alone."""
    one = replace(Bundle.open(bundle), joining=MEAN)  # so that scores depend on the network
    payments = pl.read_parquet(demo_log).head(700)
    log: Any = payments if form == "table" else demo_log.parent / "few.parquet"
    if form == "file":
        payments.write_parquet(log)
    other = _changed(one, change)
    expected = [Scorer(each).score(payments) for each in (one, other)]
    assert not expected[0].equals(expected[1]) or change == "name and ranges"
    counts = {"read_log": 0, "read_table": 0, "encode_rows": 0}
    for name in counts:
        monkeypatch.setattr(build, name, _counting(getattr(build, name), counts, name))
    monkeypatch.setattr(store, "encode_rows", build.encode_rows)
    seen: list[pl.DataFrame] = []
    monkeypatch.setattr("tsa.evaluation.bundle_diff.score_movement", lambda *tables: seen.extend(tables) or {})
    diff_bundles(one, other, log)
    assert [found.equals(wanted) for found, wanted in zip(seen, expected, strict=True)] == [True, True]
    assert counts["read_table" if form == "table" else "read_log"] == read
    assert counts["encode_rows"] == encoded


def _counting(original: Any, counts: dict[str, int], name: str) -> Any:
    def counted(*arguments: Any, **given: Any) -> Any:
        counts[name] += 1
        return original(*arguments, **given)

    return counted


def _changed(one: Bundle, change: str) -> Bundle:
    """A bundle that differs from another in one thing."""
    market, encoder, network = one.market.to_dict(), one.encoder.to_dict(), copy.deepcopy(one.network)
    if change == "weights":
        with torch.no_grad():
            for value in network.parameters():
                value.mul_(0.9)
    elif change == "encoder":
        encoder["categorical"][0]["values"].reverse()
        encoder["numerical"][0]["width"] *= 1.5
    elif change == "name and ranges":
        market |= {"name": "another", "split": {"fractions": [0.4, 0.2, 0.2, 0.2]}}
    elif change == "another label delay":
        market["label"]["delay_days"] = 1
    return replace(one, market=Market.from_dict(market), encoder=Encoder.from_dict(encoder), network=network)


def test_what_is_different_is_said(tsa: Tsa, bundle: Path, demo_log: Path, tmp_path: Path) -> None:
    made = Bundle.open(bundle)
    with torch.no_grad():
        weight = made.network.classifier.narrow.weight
        weight.mul_(torch.linspace(0.2, 3.0, weight.shape[-1]))
    first, *others = made.encoder.categorical_vocabularies
    shorter = replace(first, values=(*first.values[:-1], "something new"))
    scaler, *scalers = made.encoder.numerical_scaling.scalers
    scaling = replace(made.encoder.numerical_scaling, scalers=(replace(scaler, width=9.0), *scalers))
    encoder = replace(made.encoder, categorical_vocabularies=(shorter, *others), numerical_scaling=scaling)
    calibration = Calibration.fit(scores=np.linspace(0, 1, 3000), labels=np.arange(3000) % 7 == 0)
    market = made.market.override(["evaluation.top_k=7"])
    training = {**made.training, "training": {**made.training["training"], "seed": 99}}
    parts = {"encoder": encoder, "calibration": calibration, "market": market, "training": training}
    replace(made, **parts).save(tmp_path / "other")
    found = tsa("bundle", "diff", bundle, tmp_path / "other", demo_log, "--out", tmp_path / "diff.json", "-q")
    assert found.code == 0, found.err
    table = json.loads((tmp_path / "diff.json").read_text())
    assert table["schema"] == ["evaluation.top_k: None, 7"]
    assert table["training"] == ["seed: 0, 99"]
    assert any(line.endswith(", 9.0") for line in table["scaling"])
    assert table["vocabulary"][first.name] == {
        "added": ["something new"],
        "removed": [first.values[-1]],
        "unchanged": len(first.values) - 1,
    }
    assert list(table["weights"]["relative"]) == ["classifier.narrow.weight"]
    assert not table["calibration"]["equal"]
    assert table["scores"]["largest"] > 0
    assert table["scores"]["rank_correlation"] < 1
    assert len(table["scores"]["moved_most"]) == 10
    known = pl.read_parquet(demo_log).filter(pl.col("is_fraud").is_not_null())
    assert table["outcomes"]["payments"] == len(known)
    assert table["outcomes"]["metrics"]["roc_auc"]["low"] is not None
    assert table["outcomes"]["summary"] in " ".join(found.out.split())
    assert "1 added, 1 removed" in found.out
    assert "thresholds: the same" in found.out


def test_other_decisions_and_other_maps_are_told_of(tsa: Tsa, bundle: Path, tmp_path: Path) -> None:
    """However small the part of the scores is in which a map differs."""
    made = Bundle.open(bundle)
    assert made.calibration is not None
    assert made.calibration.percentile is not None
    shape = made.calibration.percentile.to_dict()
    places = {key: values for key, values in shape.items() if isinstance(values, list) and len(values) > 10}
    assert places
    for key, values in places.items():
        middle = len(values) // 2
        shape[key] = [*values[:middle], (values[middle] + values[middle + 1]) / 2, *values[middle + 1 :]]
    calibration = Calibration.from_dict({**made.calibration.to_dict(), "percentile": shape})
    replace(made, calibration=calibration).save(tmp_path / "other")
    assert tsa("bundle", "set-thresholds", tmp_path / "other", "--threshold", "decline=0.999").code == 0
    said = tsa("bundle", "diff", bundle, tmp_path / "other").out
    assert "calibration: different" in said
    assert "thresholds: the same" not in said
    assert "decline" in said
