"""Write docs/reference/settings.md: every setting of the training, the model, a market file, the server and the simulator.

Names, defaults, options, allowed values and meanings come from the models in `tsa`. The sections of a market file have
no texts in their models: there the column "Meaning" is written by hand in the page and is kept. A new setting without
either appears with an empty meaning, which the tests refuse.

    python docs/make_settings.py
"""

from __future__ import annotations

import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import annotated_types
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from tsa.config.market_tables import MarketTables
from tsa.config.toml import EXAMPLES
from tsa.model import config as model
from tsa.serving.settings import ServeSettings
from tsa.simulation import SimulationConfig
from tsa.training import TrainingConfig

PAGE = Path(__file__).parent / "reference" / "settings.md"
ROW = re.compile(r"^\| `(\w+)` \|.*\| (.*) \|$")
HEADING = re.compile(r"^##+ (.+)$")
ABSENT = "none"
MARKET = "from the market"
OPTIONS = {"bundle": "BUNDLE", "overrides": "--set", "payments": "--payments"}
"""Arguments and options that the commands declare themselves."""
SIZES = {"n_categorical", "n_numerical", "n_engineered", "n_embedding", "histories"}
"""Settings of the model that the market and its encoder determine."""
FROM_MARKET = {*SIZES, "known_outcomes", "n_match_features", "n_match_keys", "n_missing_indicators"}
"""Those, and settings whose value in the preset `default` is the market's."""
EXAMPLE_MARKETS = ("cards", "accounts", "orders", "events", "handbook", "eu", "na", "base")
MAX_EXAMPLE = 60
INTERNAL = {"history_seen"}
"""What one process of a server passes to another: nobody sets it."""
BOUNDS = {
    annotated_types.Ge: ("ge", "≥"),
    annotated_types.Gt: ("gt", ">"),
    annotated_types.Le: ("le", "≤"),
    annotated_types.Lt: ("lt", "<"),
}

Row = tuple[str, ...]


class Setting(typing.NamedTuple):
    """A setting of any of the models."""

    name: str
    annotation: Any
    metadata: Sequence[Any]
    default: Any
    """PydanticUndefined where it is required."""
    meaning: str = ""
    """Empty where it is written in the page."""
    option: str = ""
    """The option of the command line, if there is one."""


def settings_of(kind: type[BaseModel]) -> list[Setting]:
    """The settings of a model, in the order of their declaration."""
    settings = []
    for name, field in kind.model_fields.items():
        extra = field.json_schema_extra
        option = str(extra["option"]) if isinstance(extra, dict) and "option" in extra else ""
        default = field.get_default(call_default_factory=True)
        meaning = in_cell(field.description or "")
        settings.append(Setting(name, field.annotation, field.metadata, default, meaning, option))
    return settings


def in_cell(text: str) -> str:
    """A text of a model as a cell of a table has it: one line, no capital at the start, no full stop."""
    line = " ".join(text.split()).removesuffix(".")
    return line[:1].lower() + line[1:] if line[1:2].islower() or line[1:2] == " " else line


def written(value: Any) -> str:
    """A value as TOML writes it."""
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f"`{_quoted(value)}`"
    if isinstance(value, tuple | list):
        return "`[" + ", ".join(_quoted(part) if isinstance(part, str) else _number(part) for part in value) + "]`"
    if isinstance(value, Mapping):
        return "`{}`"
    return f"`{_number(value)}`"


def _number(value: Any) -> str:
    return f"{value:g}".replace("e+0", "e") if isinstance(value, float) else f"{value}"


def _quoted(text: str) -> str:
    return "'" + text + "'" if "\\" in text else '"' + text + '"'


def allowed(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """The values that a setting may have."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return allowed(arguments[0], (*arguments[1:], *metadata))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(allowed(part, metadata) for part in arguments if part is not type(None))
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"list of {allowed(arguments[0])}"
        return f"{len(arguments)} × {allowed(arguments[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "table"
    for bound in metadata:
        if isinstance(bound, annotated_types.Interval | annotated_types.GroupedMetadata):
            metadata = [*metadata, *bound]
    names = {bool: "`true`, `false`", int: "integer", float: "number", str: "text", Path: "file", datetime: "time"}
    limits = [
        f"{sign} {_bound(getattr(m, key))}" for kind, (key, sign) in BOUNDS.items() for m in metadata if type(m) is kind
    ]
    return " ".join([names.get(annotation, "value"), ", ".join(limits)]).strip()


def _bound(value: float) -> str:
    return "2^63" if value == 2**63 else _number(value)


def tables(kind: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """The tables of a market file: what each is headed with, and its model. The first is the top of the file."""
    yield path or "top", kind
    for name, field in kind.model_fields.items():
        nested = list(_models(field.annotation))
        if not nested:
            continue
        below = f"{path}.{name}" if path else name
        if typing.get_origin(field.annotation) is dict:
            below += ".NAME"
        for found in nested:
            yield from tables(found, f"[{below}]" if _is_list(field.annotation) else below)


def _is_list(annotation: Any) -> bool:
    """Whether a table can occur several times."""
    parts = (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else (annotation,)
    )
    return any(typing.get_origin(part) is tuple for part in parts)


def examples(table: str) -> dict[str, str]:
    """By key of a table, the first value in the example markets, where it is short."""
    found: dict[str, str] = {}
    for name in EXAMPLE_MARKETS:
        content: Any = tomllib.loads((EXAMPLES / f"{name}.toml").read_text(encoding="utf-8"))
        for entry in _entries(content, [] if table == "top" else table.strip("[]").split(".")):
            for key, value in entry.items():
                text = _value(value)
                if text and len(text) <= MAX_EXAMPLE:
                    found.setdefault(key, f"`{text}`")
    return found


def _entries(content: Any, path: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The tables at a path: one, each of a list, or each of a table of NAMEs."""
    if isinstance(content, list):
        for one in content:
            yield from _entries(one, path)
    elif isinstance(content, dict) and not path:
        yield content
    elif isinstance(content, dict):
        inner = content.values() if path[0] == "NAME" else [content[path[0]]] if path[0] in content else []
        for one in inner:
            yield from _entries(one, path[1:])


def _value(value: Any) -> str:
    """A value as TOML writes it; nothing for tables and lists of tables."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _quoted(value) if "|" not in value and "`" not in value else ""
    if isinstance(value, int | float):
        return _number(value)
    parts = [_value(part) for part in value] if isinstance(value, list) else []
    return f"[{', '.join(parts)}]" if parts and all(parts) else ""


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)


def training() -> list[Row]:
    """Of the training."""
    return [
        (s.name, written(s.default), allowed(s.annotation, s.metadata), s.meaning) for s in settings_of(TrainingConfig)
    ]


def network() -> list[Row]:
    """With the values of the presets, where they set one."""
    rows = []
    for setting in settings_of(model.ModelConfig):
        values = allowed(setting.annotation, setting.metadata)
        name, preset = setting.name, model.PRESETS
        default = MARKET if name in FROM_MARKET else written(preset["default"].get(name, setting.default))
        reference = MARKET if name in SIZES else written(preset["reference"].get(name, setting.default))
        rows.append((name, default, reference, values, setting.meaning))
    return rows


def server() -> list[Row]:
    """With the options of `tsa serve`."""
    return _with_options(ServeSettings)


def simulation() -> list[Row]:
    """With the options of `tsa simulate`."""
    return _with_options(SimulationConfig)


def _with_options(kind: type[BaseModel]) -> list[Row]:
    rows = []
    for setting in settings_of(kind):
        if setting.name in INTERNAL:
            continue
        option = setting.option or OPTIONS.get(setting.name, "")
        shown = f"`{option}`" if option.startswith("--") else option
        values = allowed(setting.annotation, setting.metadata)
        rows.append((setting.name, shown, written(setting.default), values, setting.meaning))
    return rows


def sections() -> Iterator[tuple[str, str, Row, list[Row]]]:
    """Heading, text below it, columns, rows."""
    yield (
        "## Training",
        "On the command line: `--set training.KEY=value`. In a settings file (`--settings`): the table\n"
        "`[training]`. If the default of a loss, optimiser or schedule setting is none, it is the one of the\n"
        "chosen loss, optimiser or schedule ([list](training-losses.md)).",
        ("Setting", "Default", "Values"),
        training(),
    )
    yield (
        "## Model",
        "On the command line: `--set model.KEY=value`. In a settings file: the table `[model]`. `--preset`\n"
        "chooses the defaults. The five settings that are from the market in both presets cannot be set.",
        ("Setting", "Preset `default`", "Preset `reference`", "Values"),
        network(),
    )
    yield (
        "## Market file",
        'One TOML file per market. `extends = "other.toml"` takes over the settings of another file.\n'
        "Examples are from the [example markets](market-file.md#a-proposal-for-a-log), which are part of the\n"
        "package.",
        (),
        [],
    )
    for name, kind in tables(MarketTables):
        heading = "### Top of the file" if name == "top" else f"### `[{name}]`"
        shown = examples(name)
        rows = [
            (s.name, written(s.default), allowed(s.annotation, s.metadata), shown.get(s.name, ""), s.meaning)
            for s in settings_of(kind)
            if not any(_models(s.annotation))
        ]
        yield heading, "", ("Setting", "Default", "Values", "Example"), rows
    yield (
        "## Server",
        "Options of `tsa serve`. Settings without an option can be set where the server is started from\n"
        "Python or by Ray Serve ([deployment](../how-to/deploying.md)).",
        ("Setting", "Option", "Default", "Values"),
        server(),
    )
    yield (
        "## Simulation",
        "Options of `tsa simulate`, and arguments of `SimulationConfig` ([simulated\n"
        "logs](../how-to/simulator.md)). Wire rows are 2000 by default.",
        ("Setting", "Option", "Default", "Values"),
        simulation(),
    )


def meanings(page: str) -> dict[tuple[str, str], str]:
    """The meaning of each setting in a page, by heading and name."""
    found, heading = {}, ""
    for line in page.splitlines():
        if match := HEADING.match(line):
            heading = line
        elif match := ROW.match(line):
            found[heading, match[1]] = match[2].strip()
    return found


def render(page: str) -> str:
    """The page, with the meanings that it has so far."""
    known = meanings(page)
    parts = [HEAD]
    for heading, text, columns, rows in sections():
        lines = [heading, ""] + ([text, ""] if text else [])
        if rows:
            lines += ["| " + " | ".join((*columns, "Meaning")) + " |", "|---" * (len(columns) + 1) + "|"]
            for name, *cells, text in rows:
                meaning = text or known.get((heading, name), "")
                lines.append("| " + " | ".join((f"`{name}`", *cells, meaning)) + " |")
            lines.append("")
        parts.append("\n".join(lines))
    return "\n".join(parts)


HEAD = """# Settings

All settings, with their defaults. An unknown setting, or a value that is not allowed, is an error
that names the setting, the value and the rule.

```sh
tsa run --market markets/demo.toml payments.parquet --out run \\
    --set training.epochs=5 --set model.width=32 --set history.0.length=20
```

`python docs/make_settings.py` writes the names, defaults and values of this page from the code. A
test checks that it is up to date. Edit the column "Meaning" only in the tables of the market file.
"""

if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""), encoding="utf-8")
