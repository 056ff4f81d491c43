"""What the machine lacks is one sentence and exit code 2 in every command, and leaves nothing half-written."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tsa.files.writing import atomic_file, atomic_folder, write_text
from tsa.system_errors import full, resource_problem

TSA = Path(sys.executable).with_name("tsa")


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on device: free some space"),
        (OSError(errno.EDQUOT, "x", "/data/s.parquet"), "/data/s.parquet: disk quota exceeded"),
        (OSError(errno.EROFS, "x", "/data"), "/data: read-only file system"),
        (PermissionError(errno.EACCES, "x", b"/data"), "/data: permission denied"),
        (OSError(errno.EMFILE, "x"), "too many open files: raise the limit of open files"),
        (MemoryError(), "not enough memory"),
        (OSError("No space left on device (os error 28)"), "no space left on device"),
        (pl.exceptions.ComputeError("cannot write: Read-only file system (os error 30)"), "read-only file system"),
        (sqlite3.OperationalError("database or disk is full"), "no space left on device"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "read-only file system"),
        (RuntimeError("can't write: No space left on device"), "no space left on device"),
    ],
)
def test_each_library_is_understood(error: Exception, said: str) -> None:
    found = resource_problem(error)
    assert found is not None
    assert found.startswith(said)
    assert full(error) == (errno.ENOSPC in (getattr(error, "errno", None),) or "space left" in said or "quota" in said)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the device says: No space left on device"),
        KeyError("permission denied"),
        OSError("something"),
        OSError(errno.EBADF, "Bad file descriptor"),
        RuntimeError("shape [28] does not fit"),
    ],
)
def test_a_bug_stays_a_bug(error: Exception) -> None:
    assert resource_problem(error) is None


def caused(first: Exception, then: Exception) -> Exception:
    """`then`, as it is raised while `first` is dealt with."""
    try:
        try:
            raise first
        except type(first):
            raise then  # noqa: B904 as libraries do it
    except type(then) as error:
        return error


def test_the_cause_of_another_error_counts() -> None:
    assert full(caused(OSError(errno.ENOSPC, "No space left on device"), KeyError("a file that was to be there")))
    assert resource_problem(caused(PermissionError(errno.EACCES, "tried, and not needed"), KeyError("a bug"))) is None


def write_half(aside: Path) -> None:
    (aside / "a" if aside.is_dir() else aside).write_text("half")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_file_that_was_to_be_is_named_and_nothing_stays(tmp_path: Path) -> None:
    (tmp_path / "there.txt").write_text("before")
    for writing in (atomic_file(tmp_path / "there.txt"), atomic_folder(tmp_path / "folder", "marker")):
        with pytest.raises(OSError, match="space") as caught, writing as aside:
            write_half(aside)
        assert str(resource_problem(caught.value)).startswith(str(tmp_path))
        assert ".tmp" not in str(resource_problem(caught.value))
    assert [path.name for path in tmp_path.iterdir()] == ["there.txt"]
    assert (tmp_path / "there.txt").read_text() == "before"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB with 60 kB left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk]
    if os.name != "posix" or os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path, leave: int = 60_000) -> None:
    (disk / "other").write_bytes(b"x" * max(0, shutil.disk_usage(disk).free - leave))


def test_a_full_disk_is_one_sentence_in_every_command(
    tsa: Any, demo_log: Path, demo_run: Path, demo_market: Path, small_disk: Path, tmp_path: Path
) -> None:
    shutil.copytree(demo_run / "bundle", small_disk / "bundle")
    shutil.copytree(demo_run / "bundle", tmp_path / "bundle")
    weights = (small_disk / "bundle" / "manifest.json").read_bytes()
    fill(small_disk)
    bundle, store, disk = tmp_path / "bundle", demo_run / "store", small_disk
    for words in (
        ("score", bundle, demo_log, "--out", disk / "scores.parquet"),
        ("score", bundle, demo_log, "--out", disk / "scores.csv"),
        ("export", disk / "bundle"),
        ("simulate", "--payments", 20000, "--out", disk / "log.parquet"),
        ("simulate", "--payments", 20000, "--out", disk / "log.csv.gz"),
        ("prepare", "--market", demo_market, demo_log, "--out", disk / "store"),
        ("train", store, "--out", disk / "run", "--set", "training.epochs=1"),
        ("run", "--market", demo_market, demo_log, "--out", disk / "whole"),
        ("bundle", "pack", bundle, "--out", disk / "bundle.tar.gz"),
        ("bundle", "pack", bundle, "--out", disk / "copy"),
        ("history", "load", bundle, demo_log, "--history", f"sqlite:///{disk}/h.db"),
    ):
        outcome = tsa(*words)
        assert outcome.code == 2, (words, outcome.err)
        assert "Traceback" not in outcome.err, (words, outcome.err)
        assert not hidden(disk), words
    assert {path.name for path in disk.iterdir()} >= {"bundle", "other"}
    for name in ("scores.parquet", "scores.csv", "log.parquet", "log.csv.gz", "bundle.tar.gz", "copy", "store"):
        assert not (disk / name).exists(), name
    assert (disk / "bundle" / "manifest.json").read_bytes() == weights


def test_what_is_printed_to_a_full_disk_is_said(demo_run: Path) -> None:
    with Path("/dev/full").open("w") as full_disk:
        found = subprocess.run(
            [TSA, "bundle", "show", demo_run / "bundle"],
            stdout=full_disk,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert found.returncode == 2
    assert found.stderr.startswith("error: ")
    assert "no space left on device" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_any_terminal_takes_what_is_printed(demo_run: Path, tmp_path: Path, encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}
    for words, code in ((("show", demo_run / "bundle"), 0), (("show", tmp_path / "—\udcff日本"), 2)):
        found = subprocess.run([TSA, "bundle", *words], env=environment, capture_output=True, check=False)
        assert b"Traceback" not in found.stderr, found.stderr
        assert found.returncode == code
        assert (found.stdout + found.stderr).decode(encoding)


@pytest.mark.usefixtures("hangup_ends")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_leaves_nothing_half_written(tmp_path: Path, number: signal.Signals, code: int) -> None:
    out = tmp_path / "log.parquet"
    process = subprocess.Popen([TSA, "simulate", "--payments", "3000000", "--out", out], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not hidden(tmp_path):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(60) == code
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet.log"]


def test_what_nohup_started_outlives_its_terminal(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from tsa.signals import ending_in_order\n"
        "with ending_in_order():\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "print('went on')"
    )
    found = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert (found.returncode, found.stdout) == (0, "went on\n")


def test_files_are_whole_where_nothing_is_lacking(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "file", "text")
    assert (tmp_path / "deep" / "file").read_text() == "text"
