"""README and docs: examples run, commands and names exist, links resolve, tables of settings are those of the code.

A Python block is run, after the blocks before it on its page; a shell block is run if it has only quick `tsa` commands, and
parsed in any case. A comment in front of a block changes that:

    <!-- test: skip (why it cannot run) -->      parsed, not run
    <!-- test: slow (why) -->                    run with TSA_LONG=1 only
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import typer.main
from pydantic import BaseModel, ValidationError

from support.endpoint import WIRE, made_bundle, server
from tsa.cli import app
from tsa.config.market_tables import MarketTables
from tsa.model import ModelConfig
from tsa.serving.settings import ServeSettings
from tsa.training import TrainingConfig

ROOT = Path(__file__).parents[1]
LONG = bool(os.environ.get("TSA_LONG"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "clients/python/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
CODE_FOLDERS = ("src", "tests", "benchmarks", "examples", "deploy", "docker", "docs", "clients", "markets")
SHELLS = ("sh", "bash", "")
QUICK = {
    *("bundle show", "bundle verify", "bundle pack", "bundle keygen", "bundle sign", "bundle diff"),
    *("bundle set-thresholds", "history load", "history show", "history delete", "history prune", "history adopt"),
    *("prepare", "score", "simulate", "evaluate", "thresholds", "calibrate", "explain", "monitor", "export"),
}
"""Commands that take a moment on small data."""
OTHER_PROGRAMS = {"--shutdown-timeout", "--build-arg"}
"""Options that the pages name alone, of torchrun and Docker."""
MAX_WIDTH = 100
COMMENT = re.compile(r"^<!-- test:.*$")
MARK = re.compile(r"^<!-- test: (skip|slow) \((.+)\) -->$")
FENCE = re.compile(r"^ *```(\w*)$")
SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
OPTION = re.compile(r"^--[a-z][a-z-]*")
NAME = re.compile(r"^tsa(\.\w+)+$")
FILE = re.compile(rf"^(?:{'|'.join(CODE_FOLDERS)})/[\w./-]+\.\w+")
SETTING = re.compile(rf"^({'|'.join(['training', 'model', *MarketTables.model_fields])})\.(\w+)")
FILE_ENDINGS = {"txt", "gz", "html", "json", "jsonl", "npy", "onnx", "parquet", "py", "tar", "toml", "int8"}
ARCHAIC = re.compile(r"(?i)\b(anew|beside|let go|sound|told|stands|veil(ed)?|worded|twofold)(?=\W|$)|however:")
"""Words that a reader has to translate."""
QUOTED_PAGE = re.compile(r"\bdocs/([\w/-]+\.md)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line it begins at, and what is said of running it."""

    language: str
    text: str
    line: int
    mark: str = ""

    @property
    def runs(self) -> bool:
        return self.mark == "" or (self.mark == "slow" and LONG)


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    lines, made, start = page.read_text(encoding="utf-8").splitlines(), [], None
    for number, line in enumerate(lines):
        if not (fence := FENCE.match(line)):
            continue
        if start is None:
            start, language = number, fence[1]
            continue
        mark = MARK.match(lines[start - 1]) if start else None
        made.append(Block(language, "\n".join(lines[start + 1 : number]), start + 1, mark[1] if mark else ""))
        start = None
    assert start is None, f"{page}: a block is not closed"
    return made


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The lines outside of blocks, with their numbers."""
    inside = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if FENCE.match(line):
            inside = not inside
        elif not inside:
            yield number, line


def spans(page: Path) -> list[str]:
    """What stands in backticks."""
    text = "\n".join(line for _, line in prose(page))
    return [re.sub(r"\s+", " ", match[2]).strip() for match in SPAN.finditer(text)]


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@cache
def anchors(page: Path) -> set[str]:
    return {slug(line.lstrip("#")) for _, line in prose(page) if re.match(r"#{1,6} ", line)}


@cache
def root_command() -> Any:
    return typer.main.get_command(app)


def options_of(command: Any) -> set[str]:
    return {text for parameter in command.params for text in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


@cache
def every_option() -> set[str]:
    """Options of `tsa`, of the benchmarks, of the examples and of releases."""
    scripts = [path for folder in ("benchmarks", "examples", ".ci") for path in (ROOT / folder).rglob("*.py")]
    found = {option for file in scripts for option in re.findall(r'"(--[a-z-]+)"', file.read_text(encoding="utf-8"))}
    waiting = [root_command()]
    while waiting:
        command = waiting.pop()
        found |= options_of(command)
        waiting += getattr(command, "commands", {}).values()
    return found


def find_command(words: Sequence[str]) -> tuple[Any, str, list[str]]:
    """The command that a line calls, its name, and the words after it."""
    command, name, rest = root_command(), [], list(words)
    while (below := getattr(command, "commands", None)) and rest and not rest[0].startswith("-"):
        if len(rest) == 1 and rest[0].isupper():
            break  # `tsa COMMAND`
        assert rest[0] in below, f"there is no command tsa {' '.join([*name, rest[0]])}"
        command = below[rest[0]]
        name.append(rest.pop(0))
    return command, " ".join(name), rest


def check_command(words: Sequence[str], *, complete: bool) -> None:
    """A command exists, and its options. complete: it could be run as it is written."""
    command, name, rest = find_command(words)
    for before, word in zip(["", *rest], rest, strict=False):
        if before == "--set" and "." in word.partition("=")[0]:
            assert is_setting(word.partition("=")[0]), word
        if match := OPTION.match(word):
            assert match[0] in options_of(command), f"tsa {name} has no option {match[0]}"
    if complete and not hasattr(command, "commands"):
        command.make_context(name, list(rest))


def shell_commands(text: str) -> list[list[str]]:
    """The simple commands of a script. A text in quotes may go over several lines."""
    found, pending = [], ""
    for line in text.replace("\\\n", " ").splitlines():
        pending += line
        lexer = shlex.shlex(pending, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # a quote is open
            pending += "\n"
            continue
        pending = ""
        ends = [at for at, word in enumerate(words) if word and set(word) <= set("|&;<>")]
        found += [
            words[start:end] for start, end in zip([0, *(at + 1 for at in ends)], [*ends, len(words)], strict=True)
        ]
    assert not pending, f"a quote is not closed: {pending}"
    return [words for words in found if words]


def tsa_commands(text: str) -> list[list[str]]:
    """The words after `tsa` of each command that calls it, also inside of a container."""
    commands = shell_commands(text)
    return [words[words.index("tsa") + 1 :] for words in commands if "tsa" in words]


def pages_with(*languages: str) -> list[Any]:
    chosen = [page for page in PAGES if any(block.language in languages for block in blocks(page))]
    return [pytest.param(page, id=page_name(page)) for page in chosen]


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=page_name)
present_pages = pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=page_name)
"""The changelog also names what is no longer there."""


@every_page
def test_marks_of_blocks_are_written_right(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if COMMENT.match(line):
            assert MARK.match(line), line
            assert FENCE.match(below), f"{line}: no block below"


@every_page
def test_links_resolve(page: Path) -> None:
    text = "\n".join(SPAN.sub("", line) for _, line in prose(page))
    for target in LINK.findall(text):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@present_pages
def test_commands_and_options_exist(page: Path) -> None:
    for block in blocks(page):
        if block.language in SHELLS:
            exported = dict(words[1].split("=", 1) for words in shell_commands(block.text) if words[0] == "export")
            with patch.dict(os.environ, exported):
                for words in tsa_commands(block.text):
                    check_command(words, complete="…" not in block.text and "..." not in words)
    for span in spans(page):
        if span.startswith("tsa "):
            check_command(shlex.split(span)[1:], complete=False)
        elif match := OPTION.match(span):
            assert match[0] in every_option() | OTHER_PROGRAMS, span


@present_pages
def test_names_and_files_in_backticks_exist(page: Path) -> None:
    for span in spans(page):
        if NAME.match(span.partition("(")[0]):
            assert resolves(span.partition("(")[0]), span
        elif match := FILE.match(span):
            assert (ROOT / match[0]).exists(), span


def resolves(name: str) -> bool:
    """Whether a dotted name is a module or an attribute of one."""
    parts, value = name.split("."), importlib.import_module("tsa")
    for at, part in enumerate(parts[1:], 2):
        if not hasattr(value, part):
            if not isinstance(value, ModuleType) or importlib.util.find_spec(".".join(parts[:at])) is None:
                fields = getattr(value, "model_fields", {}) or getattr(value, "__dataclass_fields__", {})
                return part in fields and at == len(parts)
            value = importlib.import_module(".".join(parts[:at]))
        else:
            value = getattr(value, part)
    return True


def is_setting(key: str) -> bool:
    """Whether `--set key=...` exists."""
    section, *path = key.split(".")
    if section == "training":
        return path[0] in TrainingConfig.model_fields
    if section == "model":
        return path[0] in {setting.name for setting in settings_page().settings_of(ModelConfig)}
    return _has_setting(MarketTables, [section, *path])


def _has_setting(annotation: Any, path: list[str]) -> bool:
    models = list(settings_page()._models(annotation))
    if not path or not models:
        return True  # a table whose keys are the user's
    if path[0].isdecimal():
        return _has_setting(annotation, path[1:])
    known = [model.model_fields[path[0]] for model in models if path[0] in model.model_fields]
    return any(_has_setting(field.annotation, path[1:]) for field in known)


@present_pages
def test_settings_in_backticks_exist(page: Path) -> None:
    for span in spans(page):
        key = SETTING.match(span)
        if key and key[2] not in FILE_ENDINGS and not key[2].isupper():
            assert is_setting(key[0]), span


@every_page
def test_words_are_plain(page: Path) -> None:
    for number, line in prose(page):
        if not line.startswith("|"):
            assert not ARCHAIC.search(re.sub(SPAN, "", line)), f"{page_name(page)}:{number}"


@every_page
def test_prose_is_wrapped(page: Path) -> None:
    for number, line in prose(page):
        if not line.startswith(("|", "#", "<!--")):
            assert len(line) <= MAX_WIDTH, f"{page_name(page)}:{number}"


@present_pages
def test_the_legacy_system_is_introduced(page: Path) -> None:
    text = re.sub(r"\s+", " ", page.read_text(encoding="utf-8"))
    if re.search(r"legacy (TSA )?system", text):
        assert "predecessor" in text


def test_pages_that_the_code_names_exist() -> None:
    for folder in CODE_FOLDERS:
        for file in (ROOT / folder).rglob("*.*"):
            if file.suffix in (".py", ".md", ".toml", ".yaml", ".html"):
                for page in QUOTED_PAGE.findall(file.read_text(encoding="utf-8")):
                    assert (ROOT / "docs" / page).exists(), f"{file}: docs/{page}"


# Blocks


@pytest.fixture(scope="module")
def folder(demo_log: Path, demo_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder as the examples expect it: a log, a market file, a run with its bundle."""

    def make(name: str) -> Path:
        made = tmp_path_factory.mktemp(name)
        shutil.copytree(ROOT / "markets", made / "markets")
        shutil.copytree(demo_run, made / "run")
        (made / "demo").mkdir()
        for path in ("RUN", "old", "demo/run"):
            (made / path).symlink_to(made / "run")
        (made / "payments").mkdir()
        for path in ("payments.parquet", "my-payments.parquet", "log.parquet", "payments/2025-01.parquet"):
            shutil.copy(demo_log, made / path)
        table = (ROOT / "markets" / "demo.toml").read_text(encoding="utf-8")
        (made / "my.toml").write_text(table.replace("length = 51", "length = 8"), encoding="utf-8")
        return made

    return make


@contextlib.contextmanager
def prepared(page: Path, place: Path) -> Iterator[dict[str, Any]]:
    """The names that the examples of a page use without saying where they come from."""
    names: dict[str, Any] = {"__name__": "example"}
    if page.name == "wire-format.md":
        shutil.rmtree(place / "run")
        made_bundle(place / "run" / "bundle", WIRE)
        names["body"] = {
            **{"id": "d", "at": "1700000000", "customer_id": "c", "device": "phone", "amount": "12.50"},
            **{"hist.device": "tablet~phone", "hist.amount": "3.99~"},
            **{f"hist.{part}.at": "1699999000~1699999500" for part in ("cat", "num")},
            **{f"hist.{part}.id": "a~b" for part in ("cat", "num")},
        }
    if page.parent.name == "python":
        with server(place / "run" / "bundle") as (_, port):
            names["URL"] = f"http://127.0.0.1:{port}"
            yield names
        return
    yield names


@pytest.mark.parametrize("page", pages_with("python"))
def test_python_blocks_run(
    page: Path, folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = folder(page.stem)
    monkeypatch.chdir(place)
    with prepared(page, place) as names:
        for block in blocks(page):
            if block.language == "python":
                text = "\n" * block.line + block.text.replace("https://scores.example:8080", names.get("URL", ""))
                code = compile(text, page_name(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                if block.runs:
                    exec(code, names)


@pytest.mark.parametrize("page", pages_with(*SHELLS))
def test_quick_shell_blocks_run(
    page: Path, folder: Callable[[str], Path], tsa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [block for block in blocks(page) if block.language in SHELLS and runnable(block)]
    if not chosen:
        pytest.skip("the page has no block of quick commands")
    place = folder(page.stem)
    monkeypatch.chdir(place)
    for block in chosen:
        for words in shell_commands(block.text):
            if words[0] == "export":
                name, _, value = words[1].partition("=")
                monkeypatch.setenv(name, value)
                continue
            given = [str(path) for word in words[1:] for path in expanded(place, word)]
            outcome = tsa(*given)
            assert outcome.code == 0, f"line {block.line}: {' '.join(words)}: {outcome.err}"


def runnable(block: Block) -> bool:
    """Whether a block has only `tsa` commands, quick ones unless all are wanted."""
    if not block.runs or "$(" in block.text:
        return False
    for words in shell_commands(block.text):
        if words[0] == "export":
            continue
        if words[0] != "tsa":
            return False
        name = find_command(words[1:])[1]
        if name == "serve" or not (name in QUICK or LONG):
            return False
    return True


def expanded(place: Path, word: str) -> list[str]:
    """A word with wildcards as the shell passes it."""
    if "*" not in word:
        return [word]
    return sorted(path.relative_to(place).as_posix() for path in place.glob(word)) or [word]


@pytest.mark.parametrize("page", pages_with("json", "toml"))
def test_json_and_toml_blocks_are_valid(page: Path) -> None:
    for block in blocks(page):
        if block.mark:
            continue
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "toml":
            check_tables(tomllib.loads(block.text))


def check_tables(table: dict[str, Any]) -> None:
    """Settings in an example exist, and take the values given; what an example leaves out may be missing."""
    problems = []
    for name, value in table.items():
        if name == "training":
            assert set(value) <= set(TrainingConfig.model_fields)
            if not any(isinstance(given, dict | list) for given in value.values()):  # a space of `tsa tune`
                TrainingConfig.make(value)
        elif name in MarketTables.model_fields:
            try:
                MarketTables.model_validate({name: value})
            except ValidationError as error:
                problems += [found for found in error.errors() if found["type"] != "missing"]
    assert not problems


# Settings


@cache
def settings_page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_settings", ROOT / "docs" / "make_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_of_settings_is_up_to_date() -> None:
    module = settings_page()
    page = module.PAGE.read_text(encoding="utf-8")
    assert module.render(page) == page, "run python docs/make_settings.py"


def test_every_setting_has_a_meaning() -> None:
    module = settings_page()
    known = module.meanings(module.PAGE.read_text(encoding="utf-8"))
    assert known
    assert [key for key, meaning in known.items() if not meaning] == []
    for kind in (TrainingConfig, ServeSettings):
        names = {setting.name for setting in module.settings_of(kind)} - module.INTERNAL
        assert names <= {name for _, name in known}


def test_a_setting_that_changes_is_noticed() -> None:
    module = settings_page()

    class Small(BaseModel):
        rounds: int = 3

    (setting,) = module.settings_of(Small)
    assert (setting.name, module.written(setting.default), module.allowed(setting.annotation)) == (
        "rounds",
        "`3`",
        "integer",
    )
    page = module.PAGE.read_text(encoding="utf-8")
    assert module.render(page.replace("| `epochs` | `10` |", "| `epochs` | `11` |")) == page
