"""What a command writes is never what it reads, nor twice one place; devices stay devices and links stay links."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tsa.config.market import Market
from tsa.data.log.quarantine import Quarantine
from tsa.data.store.prepare import prepare
from tsa.errors import ConfigError
from tsa.evaluation.evaluate_log import evaluate_bundle
from tsa.files.outputs import check_file, check_folder, check_outputs
from tsa.files.writing import atomic_file, open_stream
from tsa.inference.recalibrate import calibrate_bundle
from tsa.inference.scorer import Scorer
from tsa.monitoring.monitor import monitor

Tsa = Callable[..., Any]
SPELLINGS = ("itself", "link", "hard link", "relative", "folder by link", "dots")


def spelled(path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same file by another name."""
    beside = path.parent / "beside"
    beside.mkdir(exist_ok=True)
    if how == "link":
        (beside / path.name).symlink_to(path)
        return beside / path.name
    if how == "hard link":
        os.link(path, beside / path.name)
        return beside / path.name
    if how == "relative":
        monkeypatch.chdir(beside)
        return Path("..") / path.name
    if how == "folder by link":
        (beside / "up").symlink_to(path.parent)
        return beside / "up" / path.name
    return beside / ".." / path.name if how == "dots" else path


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def log(demo_log: Path, tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return Path(shutil.copy(demo_log, tmp_path / "logs" / "log.parquet"))


@pytest.mark.parametrize("how", SPELLINGS)
def test_no_command_writes_over_its_log(
    how: str, tsa: Tsa, log: Path, demo_run: Path, demo_market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, before, out = demo_run / "bundle", log.read_bytes(), spelled(log, how, monkeypatch)
    elsewhere = tmp_path / "elsewhere"
    for arguments in (
        ("prepare", "-m", demo_market, log, "--out", out),
        ("prepare", "-m", demo_market, log, "--out", elsewhere, "--quarantine", out),
        ("run", "-m", demo_market, log, "--out", out),
        ("run", "-m", demo_market, log, "--out", elsewhere, "--quarantine", out),
        ("score", bundle, log, "--out", out),
        ("score", bundle, log, "--out", elsewhere, "--quarantine", out),
        ("score", bundle, log.parent / "*.parquet", "--out", out),
        ("score", bundle, log.parent, "--out", out),
        ("explain", bundle, log, "--id", 1, "--out", out),
        ("explain", bundle, log, "--id", 1, "--quarantine", out),
        ("monitor", bundle, log, "--out", out),
        ("monitor", bundle, log, "--out", elsewhere, "--quarantine", out),
        ("monitor", bundle, demo_run / "store" / "rows.parquet", "--reference", log, "--quarantine", out),
        ("export", bundle, "--check", log, "--out", out),
        ("bundle", "diff", bundle, bundle, log, "--out", out),
        ("history", "load", bundle, log, "--history", f"sqlite:///{out.absolute()}"),
        ("history", "load", bundle, log, "--history", "redis://127.0.0.1:1/0", "--quarantine", out),
    ):
        made = tsa(*arguments)
        assert made.code == 2, (arguments, made)
        assert "must not" in made.err, made.err
        assert str(out) in made.err
        assert log.read_bytes() == before
    assert not elsewhere.exists()


@pytest.mark.parametrize("how", ["itself", "link", "dots"])
def test_no_function_writes_over_its_log(
    how: str, log: Path, demo_run: Path, demo_market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same guard as for the commands. The log, given alone, need not be in a list."""
    other = Path(shutil.copy(log, tmp_path / "scores-reference.parquet"))
    before, out, elsewhere = log.read_bytes(), spelled(log, how, monkeypatch), tmp_path / "elsewhere"
    market, path = Market.load(demo_market), demo_run / "bundle"
    scorer = Scorer.load(path)
    for attempt in (
        lambda: prepare(market, log, elsewhere, quarantine=out),
        lambda: prepare(market, [log.parent / "*.parquet"], log.parent),
        lambda: scorer.score(log, quarantine=out),
        lambda: scorer.score([log.parent], quarantine=Quarantine(out)),
        lambda: scorer.explain(log, [1], quarantine=out),
        lambda: evaluate_bundle(path, log, elsewhere, quarantine=out),
        lambda: evaluate_bundle(path, log.parent, log.parent),
        lambda: calibrate_bundle(path, log, elsewhere, quarantine=out),
        lambda: monitor(path, log, elsewhere, reference=[demo_run / "store/rows.parquet"], quarantine=out),
        lambda: monitor(path, log, elsewhere, reference=other, quarantine=tmp_path / "scores.parquet"),
        lambda: monitor(path, log.parent, log.parent),
    ):
        with pytest.raises(ConfigError, match="must not be"):
            attempt()
        assert log.read_bytes() == before
        assert other.read_bytes() == before
    assert not elsewhere.exists()


def test_what_else_is_read_is_not_written_over(tsa: Tsa, log: Path, own_run: Path, demo_market: Path) -> None:
    """Bundles, stores, market files, settings and keys; as a whole, inside, and the folder around them."""
    market = Path(shutil.copy(demo_market, log.parent / "market.toml"))
    bundle, store = own_run / "bundle", own_run / "store"
    space = log.parent / "space.toml"
    space.write_text("[training]\n")
    before = content(own_run), content(log.parent)
    for arguments in (
        ("score", bundle, log, "--out", bundle / "manifest.json"),
        ("score", bundle, log, "--out", bundle / "new.parquet"),
        ("score", bundle, log, "--out", bundle),
        ("monitor", bundle, log, "--out", bundle / "monitor"),
        ("monitor", bundle, log.parent, "--out", log.parent / "monitor"),
        ("export", bundle, "--out", bundle / "model.onnx"),
        ("legacy", "export-calibration", bundle, "--out", bundle),
        ("bundle", "pack", bundle, "--out", bundle),
        ("bundle", "pack", bundle, "--out", bundle / "inside"),
        ("bundle", "pack", bundle, "--out", own_run),
        ("bundle", "pack", bundle, "--out", bundle / "packed.tar.gz"),
        ("bundle", "diff", bundle, bundle, "--out", bundle / "manifest.json"),
        ("prepare", "-m", market, log, "--out", market),
        ("prepare", "-m", market, log, "--out", log.parent),
        ("prepare", "-m", market, log.parent, "--out", log.parent / "store"),
        ("prepare", "-m", market, store / "rows.parquet", "--out", store),
        ("run", "-m", market, log.parent, "--out", log.parent / "run"),
        ("train", store, "--out", store),
        ("train", store, "--out", store / "run"),
        ("tune", store, "--out", store / "tuned"),
        ("tune", store, "--space", space, "--out", space),
        ("legacy", "import", log.parent, "-m", market, "--out", log.parent / "bundle"),
        ("legacy", "import", log.parent, "-m", market, "--out", log.parent),
        ("simulate", "--format", "wire", "-m", market, "--out", market),
        ("serve", bundle, "--shadow", bundle, "--shadow-file", bundle / "shadow.jsonl"),
    ):
        made = tsa(*arguments)
        assert made.code == 2, (arguments, made)
        assert "must not" in made.err, (arguments, made.err)
    assert (content(own_run), content(log.parent)) == before


@pytest.mark.parametrize("url", ["s3://bucket/x.parquet", "gs://bucket/x.parquet", "file:///tmp/x.parquet"])
def test_urls_are_no_outputs(
    url: str, tsa: Tsa, log: Path, demo_run: Path, demo_market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were folders of that name where one stood, or a traceback."""
    monkeypatch.chdir(tmp_path)
    before = content(tmp_path)
    stores = [("prepare", "--market", demo_market, log, "--out", url)] if url.startswith("file") else []  # others may
    for arguments in (
        *stores,
        ("score", demo_run / "bundle", log, "--out", url),
        ("score", demo_run / "bundle", log, "--out", tmp_path / "x.parquet", "--quarantine", url),
        ("evaluate", demo_run / "bundle", "--log", log, "--out", url),
        ("simulate", "--payments", 10, "--out", url),
        ("bundle", "pack", demo_run / "bundle", "--out", url),
    ):
        outcome = tsa(*arguments)
        assert outcome.code == 2
        assert "must be a path on this machine (got " in " ".join(outcome.err.split()), outcome.err
    assert content(tmp_path) == before


def test_two_outputs_are_two_places(tsa: Tsa, log: Path, demo_run: Path, demo_market: Path, tmp_path: Path) -> None:
    out, bundle = tmp_path / "out.parquet", demo_run / "bundle"
    (tmp_path / "link.parquet").symlink_to(out)
    for arguments in (
        ("score", bundle, log, "--out", out, "--quarantine", out),
        ("score", bundle, log, "--out", out, "--quarantine", tmp_path / "link.parquet"),
        ("score", bundle, log, "--out", out, "--quarantine", tmp_path / "OUT.parquet"),
        ("score", bundle, log, "--out", out, "--quarantine", tmp_path / "out.parquet.log"),
        ("prepare", "-m", demo_market, log, "--out", out, "--quarantine", out),
        ("prepare", "-m", demo_market, log, "--out", out, "--quarantine", out / "bad.parquet"),
        ("run", "-m", demo_market, log, "--out", out, "--quarantine", out / "store" / "bad.parquet"),
        ("monitor", bundle, log, "--out", out, "--quarantine", out / "monitor.json"),
        ("explain", bundle, log, "--id", 1, "--out", out, "--quarantine", out),
        ("bundle", "keygen", "--private", out, "--public", out),
    ):
        made = tsa(*arguments)
        assert made.code == 2, (arguments, made)
        assert not out.exists()


def test_outputs_that_touch_nothing_are_fine(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("a")
    check_outputs([log, None, "s3://bucket/log.csv", "*.nothing"], files={"--out": tmp_path / "scores.csv"})
    check_outputs([log], into={"--out": tmp_path}, files={"--quarantine": None})
    check_outputs([log], files={"--out": "/dev/null", "--quarantine": "/dev/null"})
    with pytest.raises(ConfigError, match="file:"):
        check_outputs([f"file://{log}"], files={"file:": log})


def test_links_stay_links(tsa: Tsa, demo_run: Path, demo_log: Path, tmp_path: Path) -> None:
    target, link, lost = tmp_path / "target.parquet", tmp_path / "link.parquet", tmp_path / "lost.parquet"
    target.write_text("old")
    link.symlink_to("target.parquet")
    lost.symlink_to("folder/new.parquet")
    for out, written in ((link, target), (lost, tmp_path / "folder" / "new.parquet")):
        made = tsa("score", demo_run / "bundle", demo_log, "--from", "2025-04-28", "--out", out)
        assert made.code == 0, made.err
        assert out.is_symlink()
        assert "raw_score" in pl.read_parquet(written).columns


def test_devices_and_pipes_are_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_file(pipe) as aside:
        aside.write_bytes(b"scores")
    assert os.read(reader, 100) == b"scores"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_pipe_that_nobody_reads_is_refused(tmp_path: Path) -> None:
    """Opening it would wait for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="must have a reader"), atomic_file(pipe) as aside:
        aside.write_bytes(b"scores")
    with pytest.raises(ConfigError, match="must have a reader"):
        open_stream(pipe, "ab")
    with pytest.raises(ConfigError, match="must be a bundle"):
        check_file(pipe, "a bundle", lambda path: path.read_bytes())
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_broken_link_in_the_log_folder_is_not_the_output(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "gone.csv").symlink_to(tmp_path / "nowhere")
    check_outputs([str(tmp_path / "log")], files={"out": tmp_path / "new.parquet"})


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.symlink_to(other)
    other.symlink_to(one)
    with pytest.raises(ConfigError, match="a link to itself"), atomic_file(one) as aside:
        aside.write_bytes(b"scores")
    assert one.is_symlink()
    assert other.is_symlink()


def test_a_device_stays_one(tsa: Tsa, demo_run: Path, demo_log: Path, tmp_path: Path) -> None:
    """And is no place to put a log file beside."""
    null = tmp_path / "null"
    try:
        os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")
    made = tsa("score", demo_run / "bundle", demo_log, "--from", "2025-04-28", "--out", null)
    assert stat.S_ISCHR(null.stat().st_mode)
    assert list(tmp_path.iterdir()) == [null]
    assert made.code in (0, 2)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a file"), atomic_file(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("marker", [True, False])
def test_a_folder_with_other_things_is_refused(tmp_path: Path, marker: bool) -> None:
    out = tmp_path / "out"
    check_folder(out, "a run", "run.json")  # it need not exist
    out.mkdir()
    (out / ".DS_Store").touch()
    check_folder(out, "a run", "run.json")
    for name in ("letter.txt", "a", "b", "c", "d", "e"):
        (out / name).touch()
    if marker:
        (out / "run.json").touch()
        check_folder(out, "a run", "run.json")
        return
    with pytest.raises(ConfigError, match=r"out must be empty or contain a run \(it contains a, b, c, d, e\); choose"):
        check_folder(out, "a run", "run.json")
    with pytest.raises(ConfigError, match=r"contain a run \(it contains letter\.txt\)"):
        check_folder(out, "a run", "run.json", lambda name: len(name) == 1)
    with pytest.raises(ConfigError, match="must be a folder or not exist"):
        check_folder(out / "a", "a run", "run.json")


def test_a_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bundle.tar.gz"

    def torn(path: Path) -> bool:
        raise EOFError(path)

    check_file(path, "a bundle", torn)  # it need not exist
    path.write_bytes(b"dear")
    check_file(path, "a bundle", lambda path: path.read_bytes() == b"dear")
    for is_one in (torn, lambda _: False, lambda _: None):
        with pytest.raises(ConfigError, match=r"must be a bundle to be replaced \(it is something else\)"):
            check_file(path, "a bundle", is_one)
    with pytest.raises(ConfigError, match="must be a bundle to be replaced"):
        check_file(tmp_path, "a bundle", Path.read_bytes)
    with pytest.raises(ZeroDivisionError):  # a fault of the program is no answer
        check_file(path, "a bundle", lambda _: 1 / 0)
