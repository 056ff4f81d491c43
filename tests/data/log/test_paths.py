"""Which files a log is made of: folders, globs, hidden names, and what the program wrote itself."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import polars as pl
import pytest

from tsa.data.log.paths import SCORES, SCORES_KIND, find_files
from tsa.data.log.sources import open_sources
from tsa.errors import ConfigError, DataError
from tsa.files.writing import need_suffix, write_json


def made(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def found(folder: Path, *logs: str) -> list[str]:
    return [str(Path(path).relative_to(folder)) for path, _ in find_files([str(folder / log) for log in logs])]


SPARK = (
    *("jan.parquet", "feb.parquet/part-0.parquet", "feb.parquet/part-1.parquet", "feb.parquet/_SUCCESS"),
    *("feb.parquet/_temporary/0/part-2.parquet", "feb.parquet/.part-0.parquet.crc", "_old.parquet", ".hidden.parquet"),
)
TABLES = ["feb.parquet/part-0.parquet", "feb.parquet/part-1.parquet", "jan.parquet"]


@pytest.mark.parametrize("log", ["", "*.parquet", "*", "**/*.parquet", "[a-z]*.parquet"])
def test_a_folder_of_spark_is_read_like_any_path(tmp_path: Path, log: str) -> None:
    assert sorted(found(made(tmp_path, *SPARK), log)) == TABLES


def test_hidden_names_are_read_when_they_are_named(tmp_path: Path) -> None:
    made(tmp_path, *SPARK)
    assert found(tmp_path, "_old.parquet") == ["_old.parquet"]
    assert found(tmp_path, "_o*.parquet") == ["_old.parquet"]


def test_no_file_is_read_twice(tmp_path: Path) -> None:
    made(tmp_path, "a/jan.csv", "a/feb.csv.gz")
    (tmp_path / "link.csv").symlink_to(tmp_path / "a/jan.csv")
    assert found(tmp_path, "a", "a/jan.csv", "a/*.csv", "link.csv") == ["a/feb.csv.gz", "a/jan.csv"]


def test_files_that_are_left_out_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(tmp_path, "jan.csv", "feb.xlsx", "mar.csv.zip")
    with caplog.at_level(logging.WARNING):
        assert found(tmp_path, "") == ["jan.csv"]
    assert "feb.xlsx, " in caplog.text
    assert "mar.csv.zip" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert found(tmp_path, "*") == ["jan.csv"]
    assert f"{tmp_path}/*: files of no known kind are not read: {tmp_path}/feb.xlsx, " in caplog.text
    with pytest.raises(DataError, match="must end in one of"):
        found(tmp_path, "*.x*")


def test_links_that_lead_in_a_circle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(tmp_path, "jan.csv", "notes.txt")
    (tmp_path / "again").symlink_to(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert found(tmp_path, "") == ["jan.csv"]
    assert "again" not in caplog.text


def test_names_that_are_empty_or_urls_of_this_machine(tmp_path: Path) -> None:
    """An empty name, as of a variable that is not set, was the folder that one stands in."""
    made(tmp_path, "jan.csv")
    with pytest.raises(DataError, match="a name must not be empty"):
        find_files([""])
    assert find_files([f"file://{tmp_path}/jan.csv"]) == [(f"{tmp_path}/jan.csv", "csv")]


def test_folders_of_scores_and_without_tables(tmp_path: Path) -> None:
    made(tmp_path, "jan.csv", "mine/2025-01-01.parquet", "mine/scores.json", "empty/notes.txt")
    assert len(found(tmp_path, "mine")) == 2, "another program's file of scores"
    write_json(tmp_path / "mine" / SCORES, {"kind": SCORES_KIND})
    for log in ("mine", ""):
        with pytest.raises(DataError, match=f"{tmp_path / 'mine'} is a folder of scores that this program wrote"):
            found(tmp_path, log)
    with pytest.raises(DataError, match=r"the folder '.*empty' holds no file of a known kind \(\.parquet, "):
        found(tmp_path, "empty")


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (("mine/manifest.json", "mine/encoder.json", "mine/rows.parquet"), "a store"),
        (("mine/manifest.json", "mine/encoder.json", "mine/weights.safetensors"), "a bundle"),
        (("mine/run.json", "mine/bundle/x", "mine/scores.parquet"), "a run"),
        (("mine/monitor.json", "mine/reference.json"), "a monitoring"),
        (("mine/report.json", "mine/report.html", "mine/scores.parquet"), "an evaluation"),
    ],
)
@pytest.mark.parametrize("log", ["", "mine", "*", "jan.csv*"])
def test_what_the_program_wrote_is_named_and_refused(
    tmp_path: Path, names: tuple[str, ...], what: str, log: str
) -> None:
    made(tmp_path, "jan.csv", *names)
    if log == "jan.csv*":
        assert found(tmp_path, log) == ["jan.csv"]
        return
    with pytest.raises(DataError, match=f"{tmp_path / 'mine'} is {what} that this program wrote"):
        found(tmp_path, log)


def test_scores_and_quarantined_rows_beside_a_log_are_refused(tmp_path: Path) -> None:
    log, scores, aside = tmp_path / "jan.parquet", tmp_path / "scores.csv", tmp_path / "z.parquet"
    pl.DataFrame({"id": [1], "at": [2]}).write_parquet(log)
    pl.DataFrame({"id": [1], "raw_score": [0.5]}).write_csv(scores)
    with pytest.raises(DataError, match=f"{scores}: holds scores that this program wrote"):
        open_sources([str(tmp_path)], ["id", "at"])
    scores.unlink()
    pl.DataFrame({"id": [1], "at": [2], "__reason": ["x"]}).write_parquet(aside)
    with pytest.raises(DataError, match=f"{aside}: holds rows from a --quarantine file"):
        open_sources([str(tmp_path)], ["id", "at"])
    assert len(open_sources([str(aside)], ["id", "at"])) == 1, "named alone, they may be read again"


@pytest.mark.parametrize("name", ["a.csv.gz", "a.tsv", "a.json", "a.CSV", "a", "a.parquet.gz", "a.pq"])
def test_other_endings_of_outputs_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"out must end in .parquet or .csv \(got {name}\)"):
        need_suffix("out", Path("folder") / name, ".parquet", ".csv")


@pytest.mark.parametrize("whole", [True, False])
def test_pipes_and_links_to_nothing_are_refused(whole: bool, tmp_path: Path) -> None:
    """A pipe would be waited for; a log is read several times."""
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "a.csv").write_text("id\n1\n")
    for name, message in (("link.csv", "link to a file that is not there"), ("pipe.csv", "pipe or a device")):
        path = tmp_path / "log" / name
        path.symlink_to(tmp_path / "gone.csv") if name == "link.csv" else os.mkfifo(path)
        with pytest.raises(DataError, match=message):
            find_files([str(tmp_path / "log" if whole else path)])
        path.unlink()
