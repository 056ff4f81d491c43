"""What the models of all sections of a market file are made of."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from tsa.times import as_utc


def _column(name: str) -> str:
    if not name or name.startswith("__"):
        raise ValueError(f"a column name must not be empty or begin with two underscores (got {name!r})")
    if name == "*" or (name.startswith("^") and name.endswith("$")):
        raise ValueError(f"a column name must not be a pattern of names (got {name!r}): rename the column in the log")
    return name


Column = Annotated[str, AfterValidator(_column)]
Instant = Annotated[datetime, BeforeValidator(as_utc)]


class ConfigModel(BaseModel):
    """Base class: frozen, refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As Pydantic's, but what `cached_property` has stored is computed again, since it may depend on what is updated."""
        copied = super().model_copy(update=update, deep=deep)
        for name in set(vars(copied)) - set(type(self).model_fields):
            del vars(copied)[name]
        return copied
