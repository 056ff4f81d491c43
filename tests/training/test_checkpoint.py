"""Checkpoints on their own: what is put in comes out to the bit; torn ones are skipped, old ones removed, foreign ones refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tsa.errors import ConfigError
from tsa.training.checkpoint import VERSION, Checkpoints, pack, random_state, restore_random_state, unpack

IDENTITY = {"market": "abc", "training": {"seed": 0, "train_on": ["train"]}}

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.lists(st.floats(width=32, allow_nan=False), max_size=4).map(lambda values: torch.tensor(values))
    | st.lists(st.integers(0, 9), max_size=4).map(lambda values: np.array(values, np.int64))
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=12,
)


def same(left: Any, right: Any) -> bool:
    """Equal, with the same types, to the bit."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(value, right[key]) for key, value in left.items())
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@given(trees)
def test_what_is_packed_comes_out_the_same(tree: Any) -> None:
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(pack(tree, tensors))
    assert same(unpack(json.loads(text), tensors), tree)


def test_names_of_tensors_do_not_clash() -> None:
    tensors: dict[str, torch.Tensor] = {}
    tree = {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}, "": {"a": {"b": torch.full((1,), 2.0)}}}
    assert same(unpack(json.loads(json.dumps(pack(tree, tensors))), tensors), tree)


def test_what_cannot_be_packed() -> None:
    with pytest.raises(TypeError, match=r"a\.1 must be plain, a tensor or an array [(]got set"):
        pack({"a": [1, {2}]}, {})


def test_random_states_come_back() -> None:
    cpu = torch.device("cpu")
    tensors: dict[str, torch.Tensor] = {}
    packed = json.dumps(pack(random_state(cpu), tensors))
    first = draws()
    assert draws() != first
    restore_random_state(unpack(json.loads(packed), tensors), cpu)
    assert draws() == first


def draws() -> list[float]:
    import random

    return [random.random(), float(np.random.rand()), float(torch.rand(())), float(np.random.standard_normal())]  # noqa: NPY002


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", IDENTITY)


def state(at: int) -> dict[str, Any]:
    return {"epoch": at, "weights": {"w": torch.full((300,), float(at))}}


def names(checkpoints: Checkpoints) -> set[str]:
    return {path.name for path in checkpoints.folder.iterdir()}


def test_the_newest_two_and_what_they_need_are_kept(checkpoints: Checkpoints) -> None:
    for epoch, best in ((1, [1]), (2, [1]), (3, [3, 1]), (4, [4, 3]), (5, [4, 3])):
        if epoch in best:
            checkpoints.save_best(epoch, {"w": torch.full((2,), float(epoch))})
        checkpoints.save(epoch + 1, 0, state(epoch), best)
    assert names(checkpoints) == {
        *("last-000005-000000000", "last-000006-000000000"),
        *("best-000003.safetensors", "best-000004.safetensors"),
    }
    found = checkpoints.load_latest()
    assert found is not None
    assert same(found, state(5))
    assert checkpoints.best_weights(4)["w"].tolist() == [4.0, 4.0]
    assert checkpoints.best_weights(0) == {}


def test_files_of_platforms_are_no_checkpoints(checkpoints: Checkpoints) -> None:
    """SageMaker marks each file that it has copied, while the run goes on."""
    for epoch in (1, 2, 3):
        checkpoints.save_best(epoch, {"w": torch.full((2,), float(epoch))})
        checkpoints.save(epoch + 1, 0, state(epoch), [epoch])
        for path in [*checkpoints.folder.rglob("*")]:
            path.with_name(f"{path.name}.sagemaker-uploaded").touch()
    assert same(checkpoints.load_latest(), state(3))
    assert {name for name in names(checkpoints) if not name.endswith("-uploaded")} == {
        *("last-000003-000000000", "last-000004-000000000"),
        *("best-000002.safetensors", "best-000003.safetensors"),
    }


def test_in_an_epoch_steps_count(checkpoints: Checkpoints) -> None:
    for at in ((1, 900), (1, 1000), (2, 5), (10, 0)):
        checkpoints.save(*at, {"at": list(at)})
        assert checkpoints.load_latest() == {"at": list(at)}
    checkpoints.save(10, 0, {"at": "again"})
    assert checkpoints.load_latest() == {"at": "again"}


def test_nothing_there(checkpoints: Checkpoints) -> None:
    assert checkpoints.load_latest() is None
    checkpoints.clear()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a torn file": lambda path: os.truncate(path / "tensors.safetensors", 1000),
    "a flipped byte": lambda path: flip(path / "tensors.safetensors"),
    "a changed state": lambda path: (path / "state.json").write_text("{}"),
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "an empty manifest": lambda path: (path / "manifest.json").write_text(""),
    "a strange manifest": lambda path: (path / "manifest.json").write_text("[]"),
    "no tensors": lambda path: (path / "tensors.safetensors").unlink(),
    "an empty folder": lambda path: (shutil.rmtree(path), path.mkdir()),
    "the best weights are torn": lambda path: flip(path.parent / "best-000002.safetensors"),
    "the best weights are gone": lambda path: (path.parent / "best-000002.safetensors").unlink(),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_torn_one_is_skipped(checkpoints: Checkpoints, how: str, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints.save_best(1, {"w": torch.ones(99)})
    checkpoints.save(2, 0, state(1), [1])
    checkpoints.save_best(2, {"w": torch.zeros(99)})
    torn = checkpoints.save(3, 0, state(2), [2])
    DAMAGE[how](torn)
    found = checkpoints.load_latest()
    assert found is not None
    assert found["epoch"] == 1
    assert f"{torn} is damaged and was renamed to torn-{torn.name}: " in caplog.text
    checkpoints.save(3, 0, state(7), [1])
    again = checkpoints.load_latest()
    assert again is not None
    assert again["epoch"] == 7


def test_all_torn(checkpoints: Checkpoints) -> None:
    for epoch in (1, 2):
        flip(checkpoints.save(epoch, 0, state(epoch)) / "tensors.safetensors")
    assert checkpoints.load_latest() is None


def test_that_of_another_run_is_refused_with_the_difference(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, 0, state(1))
    other = {"market": "abd", "training": {"seed": 1, "train_on": ["train"]}}
    with pytest.raises(ConfigError) as refused:
        Checkpoints(checkpoints.folder, other).load_latest()
    lines = str(refused.value).splitlines()
    assert lines[0].endswith("is of another run (checkpoint, then this run):")
    assert lines[1:] == ["  market: 'abc', 'abd'", "  training.seed: 0, 1"]


def test_another_version_is_refused(checkpoints: Checkpoints) -> None:
    path = checkpoints.save(1, 0, state(1)) / "manifest.json"
    path.write_text(path.read_text().replace(f'"version": {VERSION}', '"version": 1'))
    with pytest.raises(ConfigError, match=rf"this program reads checkpoints of version {VERSION} [(]got version=1"):
        checkpoints.load_latest()


def test_nothing_in_it_is_a_pickle(checkpoints: Checkpoints) -> None:
    path = checkpoints.save(1, 0, state(1))
    assert {file.name for file in path.iterdir()} == {"manifest.json", "state.json", "tensors.safetensors"}
    save_file(load_file(path / "tensors.safetensors"), path / "again.safetensors")
    json.loads((path / "state.json").read_text())
