"""The `[legacy]` table of a market file: what an import of a model of the legacy system needs to know."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from tsa.config.base import ConfigModel
from tsa.config.wire import spelled

Positions = tuple[Annotated[int, Field(ge=0)], ...]


class LeftOut(ConfigModel):
    """Positions (from 0) in the scale arrays that belong to no feature of the market, by kind of feature."""

    numerical: Positions = ()
    engineered: Positions = ()

    @model_validator(mode="after")
    def _once(self) -> Self:
        for kind in ("numerical", "engineered"):
            positions = getattr(self, kind)
            if len(set(positions)) < len(positions):
                raise ValueError(f"{kind}: each position must occur once (got {list(positions)})")
        return self


class LegacyArtifacts(ConfigModel):
    """What `tsa legacy import` needs in addition to the folder (docs/how-to/legacy.md).

    Attributes:
        leave_out: Positions of the preprocessor's arrays that the legacy handler deletes when it loads them.
        defaults: Feature -> value used for a missing one, if default_value_dict.json has none.
    """

    leave_out: LeftOut = LeftOut()
    defaults: dict[str, Annotated[str, BeforeValidator(spelled)]] = Field(default_factory=dict)
