"""The Dockerfile, read as far as that goes without an engine: its stages resolve, what it copies is there and is enough."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
LINES = [line.split(maxsplit=1) for line in TEXT.splitlines() if line and not line.startswith("#")]
VARIANTS = ("cpu", "cuda")
IGNORED = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]


def stages() -> dict[str, tuple[str, list[list[str]]]]:
    """name -> (what it is from, its instructions)."""
    found: dict[str, tuple[str, list[list[str]]]] = {}
    for word, rest in LINES:
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = (base, [])
        elif found:
            found[name][1].append([word, rest])
    return found


def chain(target: str, variant: str) -> list[str]:
    """The stages that a target is built on, down to a base image."""
    base = stages()[target][0].replace("${VARIANT}", variant)
    return [target, *(chain(base, variant) if base in stages() else [base])]


def copied() -> list[str]:
    """What is copied from the repository."""
    copies = [
        rest for _, lines in stages().values() for word, rest in lines if word == "COPY" and "--from=" not in rest
    ]
    return [part for rest in copies for part in rest.split()[:-1] if not part.startswith("--")]


@pytest.mark.parametrize("target", ["training", "serving"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_stages_of_each_image_resolve(target: str, variant: str) -> None:
    names = list(stages())
    for name in names:
        for needed in [
            stages()[name][0].replace("${VARIANT}", variant),
            *re.findall(r"--from=(\S+)", str(stages()[name])),
        ]:
            assert needed not in names[names.index(name) :], f"{name} needs {needed}, which comes later"
    assert chain(target, variant)[-1] == "python:${PYTHON}-slim-bookworm"
    assert f"torch-{variant}" in chain(f"{target}-packages", variant)
    assert {base for name in names for base in re.findall(r"--from=(\S+)", str(stages()[name]))} <= set(names)


@pytest.mark.parametrize("target", ["training", "serving"])
def test_the_images_run_as_another_than_root(target: str) -> None:
    instructions = stages()[target][1]
    assert ["ARG", "RUN_AS=tsa"] in instructions
    last = max(number for number, (word, _) in enumerate(instructions) if word in ("RUN", "COPY"))
    assert ["USER", "${RUN_AS}"] in instructions[last:]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    assert IGNORED[0] == "*", "nothing but what is named"
    for source in copied():
        assert (ROOT / source).exists(), source
        assert f"!{source.split('/')[0]}" in IGNORED, source
    for line in IGNORED:
        if line.startswith("!"):
            assert any(fnmatch(source.split("/")[0], line[1:]) for source in copied()), f"{line} is of no use"


def test_the_package_builds_from_what_is_copied(tmp_path: Path) -> None:
    context = tmp_path / "src"
    context.mkdir()
    for source in copied():
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        if not source.startswith(("docker/", "markets")):
            copy(ROOT / source, context / Path(source).name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    subprocess.run(
        [*command, "--wheel-dir", str(tmp_path)], cwd=context, check=True, env={**os.environ, "PIP_NO_INDEX": "1"}
    )
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    inside = [path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "tsa").rglob("*") if path.is_file()]
    assert {name for name in inside if "__pycache__" not in name} <= set(names)


@pytest.mark.parametrize(
    ("word", "module", "target"),
    [
        ("train", "tsa.integrations.sagemaker.training", "training"),
        ("serve", "tsa.integrations.sagemaker.serving", "serving"),
    ],
)
def test_sagemaker_finds_its_word(word: str, module: str, target: str) -> None:
    assert f"docker/{word}" in copied()
    assert os.access(ROOT / "docker" / word, os.X_OK)
    assert (ROOT / "docker" / word).read_text().endswith(f"exec env --block-signal=TERM python -m {module}\n")
    assert ["CMD", f'["{word}"]'] in stages()[target][1]
    assert "ENTRYPOINT" not in {instruction for instruction, _ in stages()[target][1]}


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs a process space of its own")
@pytest.mark.parametrize(("word", "code"), [("serve", 0), ("train", 143)])
def test_sigterm_is_not_lost_while_python_starts(word: str, code: int, tmp_path: Path) -> None:
    """The kernel drops a signal to the first process of a container unless that handles it, or has it blocked."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SAGEMAKER_BASE_DIR": str(tmp_path)}
    words = ["unshare", "--pid", "--fork", "--kill-child", str(ROOT / "docker" / word)]
    with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL) as process:
        first = started_by(process.pid)
        # unshare blocks it too, until it has started the command: only the command itself counts
        while process.poll() is None and not (runs_python(first) and is_blocked(first, signal.SIGTERM)):
            time.sleep(0.001)
        os.kill(first, signal.SIGTERM)
        assert process.wait(120) == code


def started_by(pid: int) -> int:
    while not (pids := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        time.sleep(0.001)
    return int(pids[0])


def runs_python(pid: int) -> bool:
    return b"\0-m\0" in Path(f"/proc/{pid}/cmdline").read_bytes()


def is_blocked(pid: int, number: int) -> bool:
    mask = Path(f"/proc/{pid}/status").read_text().partition("SigBlk:")[2].split()[0]
    return bool(int(mask, 16) & 1 << (number - 1))
