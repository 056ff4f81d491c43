"""The base class of settings: a frozen Pydantic model whose errors are ConfigErrors that name the setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tsa.config.toml import Layer, findings
from tsa.errors import ConfigError


def option(default: Any, name: str, help: str, *, env: str | None = None, **rules: Any) -> Any:
    """A field of settings that a command takes as the option `name`, or from the environment variable `env`."""
    return Field(default, description=help, json_schema_extra={"option": name, "env": env}, **rules)


class Settings(BaseModel):
    """Settings with their defaults, bounds and meanings, each declared once.

    The meaning of a field is the text below it. Unknown names are refused.

    Raises:
        ConfigError: naming each invalid setting, its value and the rule that it breaks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    section: ClassVar[str] = ""
    """What error messages put before the names of settings: `model.width`."""
    by_option: ClassVar[bool] = False
    """Whether error messages name settings by their options: `--max-list`."""

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(self._text(findings(error, type(self), table=self.section))) from error

    @classmethod
    def make(cls, values: Mapping[str, Any], layers: Sequence[Layer] = ()) -> Self:
        """Build from a plain dict.

        Args:
            layers: the sources of the values, such as environment variables, which error messages then name.

        Raises:
            ConfigError: naming each invalid setting, its value and the rule that it breaks.
        """
        try:
            return cls(**values)
        except ConfigError as error:
            if not layers or not isinstance(error.__cause__, ValidationError):
                raise
            raise ConfigError(cls._text(findings(error.__cause__, cls, layers, table=cls.section))) from None

    @classmethod
    def option_of(cls, name: str) -> str:
        """The option of a setting; its name if it has none."""
        field = cls.model_fields.get(name)
        extra = None if field is None else field.json_schema_extra
        return str(extra["option"]) if isinstance(extra, dict) and "option" in extra else name

    @classmethod
    def _text(cls, lines: Sequence[str]) -> str:
        """The findings as one text."""
        parts = [line.partition(": ") for line in lines]
        return "; ".join(
            f"{cls.option_of(key) if cls.by_option else key}{separator}{rest}" for key, separator, rest in parts
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON can hold them; `make` reads them back."""
        return self.model_dump(mode="json")

    def replace(self, **changes: Any) -> Self:
        """A copy with some settings changed, checked again."""
        return type(self)(**{**self.model_dump(), **changes})
