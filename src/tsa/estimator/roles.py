"""What each column is used for, and why: given by the user, guessed by the rules of `tsa init`, or said by a market."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from tsa.config.market import Market
from tsa.data.proposal.guesses import Guess, Proposal
from tsa.data.proposal.known_columns import GIVEN

OF_MARKET = "the market says so"
WIDTH = 60


@dataclass(frozen=True, kw_only=True)
class Role:
    """The use of a column, and the evidence for it; `given` if the user named it."""

    use: str
    column: str
    evidence: str
    given: bool = False


def roles_of_proposal(guesses: Proposal, market: Market) -> tuple[Role, ...]:
    """The uses of the columns of a proposed market."""
    keys = {key.column: key for key in guesses.keys}
    roles = [_of("time", guesses.time), _of("id", guesses.id), _of("label", guesses.label)]
    roles += [_of("label known at", guesses.known_at), _of("amount", guesses.amount)]
    for history in market.history:
        for column in history.columns:
            roles.append(_of(f"history of {history.name}", keys[column]))
    roles += [_of("category", guess) for guess in guesses.categorical]
    roles += [_of("number", guess) for guess, _ in guesses.numerical]
    roles += [_of("not used", guess) for guess in guesses.left_out]
    return tuple(role for role in roles if role is not None)


def _of(use: str, guess: Guess | None) -> Role | None:
    if guess is None:
        return None
    return Role(use=use, column=guess.column, evidence=guess.evidence, given=guess.evidence == GIVEN)


def roles_of_market(market: Market) -> tuple[Role, ...]:
    """The uses of the columns by a market that was given."""
    return tuple(Role(use=use, column=column, evidence=OF_MARKET, given=True) for use, column in _uses(market))


def _uses(market: Market) -> Iterator[tuple[str, str]]:
    yield "time", market.event.time
    yield "id", market.event.id
    yield "label", market.label.column
    if market.event.amount is not None:
        yield "amount", market.event.amount
    for history in market.history:
        yield from ((f"history of {history.name}", column) for column in history.columns)
    features = market.features
    yield from (("category", feature.name) for feature in features.categorical)
    yield from (("number", feature.name) for feature in (*features.numerical, *features.engineered))


def table_of_roles(roles: Sequence[Role]) -> pl.DataFrame:
    """The roles as a table: use, column, guessed, evidence."""
    return pl.DataFrame(
        {
            "use": [role.use for role in roles],
            "column": [role.column for role in roles],
            "guessed": [not role.given for role in roles],
            "evidence": [role.evidence for role in roles],
        }
    )


def sentence_of_guesses(roles: Sequence[Role]) -> str:
    """What was guessed, in one sentence; empty if nothing was."""
    guessed = [role for role in roles if not role.given and role.use != "not used"]
    shown = ", ".join(f"{role.column} ({role.use})" for role in guessed)
    return f"guessed: {shown}; see roles_ for the evidence" if guessed else ""
