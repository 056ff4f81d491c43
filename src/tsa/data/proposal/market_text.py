"""The market file that `tsa init` proposes, as text: each value with its evidence in a comment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tsa.data.log.file_heads import GUESSES
from tsa.data.proposal.guesses import Guess, Proposal

WIDTH = 44
"""Where comments begin, if the line before them is shorter."""


def lines_of(table: Mapping[str, Any], made: Proposal, split_evidence: str) -> Iterator[str]:
    """The lines of the market file `table`."""
    event, label, split = table["event"], table["label"], table["split"]
    yield "# A proposal of `tsa init`. Each guess has its evidence: correct what is wrong, then try `tsa check`."
    yield f"name = {toml_value(table['name'])}"
    yield from ("", "[event]", _line("id", event["id"], made.id.evidence))
    parts = made.time_parts
    yield _line(
        "time", event["time"], f"{parts[0]} and {parts[1]} together" if made.time is None and parts else _why(made.time)
    )
    if made.time_unit is not None:
        yield _line("time_unit", made.time_unit, "")
    if made.amount is not None:
        yield _line("amount", event["amount"], made.amount.evidence)
    if made.earliest is not None:
        yield _line("earliest", made.earliest, "the log begins before 1990")
    yield from (f"# {hint}" for hint in made.hints)
    if "input" in table:
        yield from _input_lines(table["input"])
    yield from ("", "[label]", _line("column", label["column"], made.label.evidence))
    for name in ("fraud", "genuine"):
        if name in label:
            yield _line(name, label[name], "the rarer value" if name == "fraud" else "the more frequent one")
    if made.known_at is not None:
        yield _line("known_at", label["known_at"], made.known_at.evidence)
    else:
        yield _line("delay_days", label["delay_days"], "no column says when outcomes are known: ask how long it takes")
    yield _line("as_feature", True, "known outcomes of earlier payments are an input")
    yield from _history_lines(table["history"], made)
    yield from _feature_lines(made, table["features"])
    yield from ("", "[split]")
    yield from (f"# {line}" for line in split_evidence.splitlines())
    yield from (f"{name} = {toml_value(value)}" for name, value in split.items())


def _input_lines(reading: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "[input]")
    for option in (option for option in reading if option != "joined"):
        yield _line(option, reading[option], GUESSES[option].format(repr(reading[option])))
    for made in reading.get("joined", ()):
        yield from ("", "[[input.joined]]", *(f"{name} = {toml_value(value)}" for name, value in made.items()))


def _history_lines(histories: Sequence[Mapping[str, Any]], made: Proposal) -> Iterator[str]:
    evidence = {key.column: key.evidence for key in made.keys}
    for history in histories:
        yield from ("", "[[history]]", f"name = {toml_value(history['name'])}")
        if "keys" in history:
            yield _line("keys", history["keys"], "" if made.accounts is None else made.accounts[2])
        else:
            yield _line("key", history["key"], evidence.get(history["key"], ""))
        yield f"length = {history['length']}"


def _feature_lines(made: Proposal, table: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "[features]", f"calendar = {toml_value(table['calendar'])}", "categorical = [")
    yield from (
        f"    {toml_value(guess.column)},".ljust(WIDTH) + _comment(guess.evidence) for guess in made.categorical
    )
    yield from ("]", "numerical = [")
    for guess, transform in made.numerical:
        item = (
            f'{{ name = {toml_value(guess.column)}, transform = "{transform}" }},'
            if transform != "none"
            else f"{toml_value(guess.column)},"
        )
        yield f"    {item}".ljust(WIDTH) + _comment(guess.evidence)
    yield "]"
    for guess in made.left_out:
        yield f"# not used: {toml_value(guess.column)}: {_flat(guess.evidence)}"


def _line(name: str, value: object, evidence: str) -> str:
    text = f"{name} = {toml_value(value)}"
    return text.ljust(WIDTH) + _comment(evidence) if evidence else text


def _comment(evidence: str) -> str:
    return f"  # {_flat(evidence)}"


def _flat(text: str) -> str:
    return " ".join(text.split())


def _why(guess: Guess | None) -> str:
    return "" if guess is None else guess.evidence


def toml_value(value: object) -> str:
    """A text, a number, a boolean or a list of these in TOML, whose texts are written as in JSON."""
    return json.dumps(value, ensure_ascii=False)
