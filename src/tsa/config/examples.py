"""The example market files that the package brings along: their names, contents, and what each is for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tsa.config.market import Market
from tsa.config.toml import EXAMPLES
from tsa.errors import ConfigError, MarketError


@dataclass(frozen=True, kw_only=True)
class ExampleMarket:
    """An example market file. about: its first comment; histories: none for one that others extend."""

    name: str
    about: str
    histories: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def example_markets() -> list[ExampleMarket]:
    """The example market files by name."""
    return [_described(path.stem) for path in sorted(EXAMPLES.glob("*.toml"))]


def example_text(name: str) -> str:
    """The content of the example market file `name`. Raises ConfigError."""
    names = sorted(path.stem for path in EXAMPLES.glob("*.toml"))
    if name not in names:
        raise ConfigError(f"the example market must be one of {', '.join(names)} (got {name!r})")
    return (EXAMPLES / f"{name}.toml").read_text(encoding="utf-8")


def _described(name: str) -> ExampleMarket:
    comment = []
    for line in example_text(name).splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    about = " ".join(comment).split(". ")[0].removesuffix(".") + "."
    try:
        histories = tuple(history.name for history in Market.load(EXAMPLES / f"{name}.toml").history)
    except MarketError:  # one that others extend
        histories = ()
    return ExampleMarket(name=name, about=about, histories=histories)
