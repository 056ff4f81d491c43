"""The package: no circle of imports, no name given twice, no folder that is too full, no word that was given up."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import pytest

import tsa

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
MAX_MODULES = 20
FORBIDDEN = (
    *("desk", "bench", "ledger", "look_again", "thin_histories", "vary_delay", "warm_up", "clip_norm"),
    *(
        "keep_best",
        "checkpoint_minutes",
        "schedule_every",
        "n_members",
        "n_marks",
        "n_matched",
        "read_out",
        "history_down",
    ),
    *("least_frauds", "least_matured", "twofold_field", "import-original", "encode_anew"),
)
"""Names that were given up."""
HOUSE_WORDS = {
    "found": r"frauds found|found at the threshold|lost\+found|mark_found",
    "stand": "",
    "stands": "",
    "stood": "",
    "told": "",
    "tells": "",
    "whole": r"whole numbers?",
    "kept": "",
    "aside": "",
    "beside": "",
    "anew": "",
    "go on": "",
    "goes on": "",
    "let go": "",
    "sound": "",
    "odd": r"odd numbers",
    "apart": "",
    "by itself": "",
    "on the way": "",
    "on its way": "",
    "veil": "",
    "veiled": "",
    "room": "",
    "rooms": "",
    "figures": r"figures\.md",
    "the original": "",
    "sealed": "",
    "however:": "",
}
"""Words that say several things, or nothing a newcomer would know, each with the phrases that may use it: `whole numbers`
and `odd numbers` are arithmetic, frauds are found, `lost+found` is a folder of
file systems, `mark_found` the mark that a store was found with, `figures.md` the page of benchmarks. `own` and `account`
are no such words: "rows that carry their own history" is plain English, and an account is a customer's."""


def modules() -> dict[str, Path]:
    """The modules of the package by name."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: set[str]) -> set[str]:
    """The modules of the package that a module imports, inside functions and for annotations as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module in known:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & known or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & known
    return found


def prose() -> list[Path]:
    """Every file that a reader of the code, the docs, a page or a message reads."""
    source = [path for path in SOURCE.rglob("*") if path.suffix in {".py", ".html", ".js", ".css", ".toml"}]
    pages = [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "markets").glob("*.toml"),
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
    ]
    return [*source, *pages]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle of imports; empty where there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        for other in sorted(graph[name]):
            if found := walk(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in graph if (found := walk(name, []))), [])


def test_no_circle_of_imports() -> None:
    known = modules()
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert circle({name: imports(path, set(known)) - {name} for name, path in known.items()}) == []


def test_no_two_classes_of_one_name() -> None:
    places = defaultdict(list)
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_folder_is_too_full() -> None:
    counts = defaultdict(int)
    for path in modules().values():
        counts[path.parent.relative_to(SOURCE)] += path.name != "__init__.py"
    assert {str(folder): n for folder, n in counts.items() if n > MAX_MODULES} == {}


@pytest.mark.parametrize("word", FORBIDDEN)
def test_no_word_of_old(word: str) -> None:
    texts = [
        *modules().values(),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "markets").glob("*.toml"),
        ROOT / "README.md",
    ]
    pattern = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)
    assert [str(path) for path in texts if pattern.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(("word", "permitted"), HOUSE_WORDS.items())
def test_no_house_word(word: str, permitted: str) -> None:
    pattern = re.compile(rf"(?<![\w-]){word}(?![\w-])", re.IGNORECASE)
    lines = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in prose()
        for line in path.read_text(encoding="utf-8").splitlines()
        if pattern.search(re.sub(permitted, "", line, flags=re.IGNORECASE) if permitted else line)
    ]
    assert lines == []


def test_constants_are_max_and_min() -> None:
    pattern = re.compile(r"^(\w+, )*_?(MOST|LEAST|FEWEST|LONGEST|LARGEST)(_\w+)?(, \w+)* = ", re.MULTILINE)
    assert [name for name, path in modules().items() if pattern.search(path.read_text(encoding="utf-8"))] == []


def test_messages_say_what_they_got() -> None:
    assert [name for name, path in modules().items() if "however:" in path.read_text(encoding="utf-8")] == []


def test_the_version_is_that_of_the_package() -> None:
    assert tsa.__version__ == version("tsa-fraud")
    made = subprocess.run([sys.executable, "-m", "tsa", "--version"], capture_output=True, text=True, check=True)
    assert made.stdout == f"tsa {tsa.__version__}\n"
