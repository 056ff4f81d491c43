"""Layered TOML: a file, the files it extends, and `key=value` overrides, merged into one table.

`findings` turns validation errors into lines that name the layer a value came from.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from tsa.config.plain_rules import Place, place_in_words, plain_rule
from tsa.errors import ConfigError, MarketError
from tsa.text import brief, truncate_repr

BOM = "\ufeff"
EXAMPLES = Path(__file__).parents[1] / "markets"
"""The example market files of the package."""
MAX_LETTERS, MAX_SHOWN = 100, 16
"""Letters of a known name, and known names, that a message shows."""

Table = dict[str, Any]
SPANS = ("train", "validation", "calibration", "test")
"""Keys whose two values are a start and an end."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One source of settings: its origin (a file, or `--set ...`) and its table."""

    origin: str
    table: Table


def read_layers(path: Path, option: str | None = None) -> list[Layer]:
    """The file and all files it extends, lowest first.

    Args:
        option: The option that names the file, if it is not a market file.

    Raises:
        MarketError: For a missing file, bad TOML, or a cycle.
        ConfigError: For a missing file of an option.
    """
    if option is not None and not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "no such file"
        raise ConfigError(f"{option} {path}: {what}: correct the path")
    layers: list[Layer] = []
    chain: list[Path] = []
    here: Path | None = _example(path)
    while here is not None:
        if here.resolve() in [seen.resolve() for seen in chain]:
            raise MarketError(f"{path}: `extends` is circular: {' -> '.join(str(p) for p in [*chain, here])}")
        table = _read(here, chain)
        parent = table.pop("extends", None)
        if parent is not None and not isinstance(parent, str):
            raise MarketError(f"{here}: extends must be the name of a file (got {parent!r})")
        layers.insert(0, Layer(origin=str(here), table=table))
        chain.append(here)
        here = None if parent is None else _example(here.parent / parent)
    return layers


def _example(path: Path) -> Path:
    """The example of this name that comes with the package, such as `demo`, if there is no such file."""
    own = EXAMPLES / f"{path.name}.toml"
    return own if not path.suffix and not path.is_file() and own.is_file() else path


def _read(path: Path, chain: Sequence[Path]) -> Table:
    extended_by = f", which {chain[-1]} extends" if chain else ""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8").lstrip(BOM))
    except FileNotFoundError:
        raise MarketError(f"{path}{extended_by}: no such file; tsa markets list names the examples") from None
    except OSError as error:
        raise MarketError(f"{path}{extended_by}: cannot be read: {error.strerror or brief(error)}") from error
    except UnicodeDecodeError as error:
        raise MarketError(f"{path}{extended_by}: is not in UTF-8; save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise MarketError(f"{path}{extended_by}: is not valid TOML: {brief(error)}") from error


def merge(lower: Table, upper: Table) -> Table:
    """A new table: `upper` over `lower`; tables merge deeply, everything else (arrays too) is replaced."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """`"a.b=[1, 2]"` -> (("a", "b"), [1, 2]). The value is TOML; a value that is not valid TOML is a plain string."""
    key, equals, value = text.partition("=")
    parts = tuple(part.strip() for part in key.split("."))
    if not equals or not all(parts):
        raise MarketError(f"--set must be KEY=VALUE, such as label.delay_days=7 (got {brief(text)!r})")
    return parts, _toml_value(value.strip())


def _toml_value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text  # a line break in the text must not add further keys


def override_layer(text: str, table: Table) -> Layer:
    """The override as a layer to merge over `table`. Numbers in the key point into arrays: `history.0.length=20`."""
    parts, value = parse_override(text)
    return Layer(origin=f"--set {brief(text)}", table=_nest(parts, value, table, text))


def _nest(parts: Sequence[str], value: Any, below: Any, text: str) -> Any:
    if not parts:
        return value
    head, rest = parts[0], parts[1:]
    if not isinstance(below, list):
        return {head: _nest(rest, value, below.get(head) if isinstance(below, dict) else None, text)}
    if not head.isdecimal() or int(head) >= len(below):
        raise MarketError(
            f"--set {brief(text)}: {brief(head)!r} must be a position from 0 to {len(below) - 1} of an array"
        )
    item = below[int(head)]
    changed = _nest(rest, value, item, text)
    both = merge(item, changed) if isinstance(item, dict) and isinstance(changed, dict) else changed
    return [*below[: int(head)], both, *below[int(head) + 1 :]]


def merge_layers(layers: Sequence[Layer], join: Callable[[Table, Table], Table] = merge) -> Table:
    """All layers as one table, the last one on top."""
    table: Table = {}
    for layer in layers:
        table = join(table, layer.table)
    return table


def findings(
    error: ValidationError, model: type[BaseModel], layers: Sequence[Layer] = (), source: str = "", table: str = ""
) -> list[str]:
    """Each pydantic error as one line: `key: rule (got value)`.

    Args:
        error: The error of `model_validate`.
        model: The model, whose keys are suggested for an unknown one.
        layers: The sources of the values. The one that set a value is named.
        source: The default source, which is not named.
        table: The name of the model's section, with which keys begin.
    """
    details = error.errors(include_url=False)
    return [line for detail in details for line in _lines(dict(detail), model, layers, source, table)]


def _lines(
    detail: dict[str, Any], model: type[BaseModel], layers: Sequence[Layer], source: str, table: str
) -> Iterator[str]:
    place: Place = detail["loc"]
    words = place_in_words(place, lambda part: _value_at(layers, part), SPANS)
    key = f"{table}.{words}" if table and words else table or words
    origin = _origin(place, layers, source)
    if detail["type"] == "extra_forbidden":
        known = _known_keys(model, place[:-1])
        hint = (
            suggest(str(place[-1]), known)
            or f"; docs/reference/settings.md lists the keys{f' of [{table}]' if table else ''}"
        )
        yield f"{key}: unknown key{hint}{origin}"
    elif detail["type"] == "missing":
        yield f"{key}: is required"
    elif detail["type"] == "value_error":
        for line in str(detail["ctx"]["error"]).splitlines():  # TSA's own rules already contain rule and value
            yield (f"{key}: {line}" if key else line) + origin
    else:
        got = truncate_repr(detail["input"], MAX_SHOWN)
        yield f"{key}: {plain_rule(detail)} (got {got}{', ' + origin[2:-1] if origin else ''})"


def suggest(name: str, known: Sequence[str], listed: str = "the names here are") -> str:
    """`"; did you mean ..."` if a known name is close, else a list of the known names if they are few, else nothing.

    Initials are close too: `lr` is `learning_rate`.

    A known name that is too long for a message is ignored: a header split at the wrong separator can have 27,000
    characters.
    """
    known = [other for other in known if len(other) <= MAX_LETTERS]
    folded = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), list(folded), n=1, cutoff=0.6)
    close = close or [other for other in folded if len(name) > 1 and _initials(other) == name.lower()]
    if close:
        return f"; did you mean `{folded[close[0]]}`?"
    return f"; {listed} {', '.join(known)}" if 0 < len(known) <= MAX_SHOWN else ""


def _initials(name: str) -> str:
    return "".join(part[:1] for part in name.split("_"))


def _known_keys(model: type[BaseModel], place: Place) -> list[str]:
    here: type[BaseModel] | None = model
    for part in place:
        if here is not None and isinstance(part, str):
            field = here.model_fields.get(part)
            here = _model_in(field.annotation) if field is not None else None
    return [] if here is None else list(here.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_model_in(argument) for argument in get_args(annotation))
    return next((model for model in inner if model is not None), None)


def _origin(place: Place, layers: Sequence[Layer], source: str) -> str:
    """The layer of the value, if it is not the file already named: with `extends` and overrides that is hard to see."""
    for layer in reversed(layers):
        if place and _holds(layer.table, place):
            return "" if layer.origin == source else f" (from {layer.origin})"
    return ""


def _value_at(layers: Sequence[Layer], place: Place) -> Any:
    """What the last layer that has the place holds there; None for nothing."""
    table = next((layer.table for layer in reversed(layers) if _holds(layer.table, place)), None)
    value: Any = table
    for part in place if table is not None else ():
        value = value[part]
    return value


def _holds(value: Any, place: Place) -> bool:
    for part in place:
        if isinstance(value, dict) and part in value:
            value = value[str(part)]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return False
    return True
