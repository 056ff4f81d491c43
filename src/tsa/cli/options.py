"""Create the options of a command from the fields of a Pydantic model: names, types, help, defaults and variables."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

Command = TypeVar("Command", bound=Callable[..., None])


def options_of(model: type[BaseModel]) -> Callable[[Command], Command]:
    """Decorator that replaces the `**values` of a command by an option for each field of `model` that names one.

    A field names its option and environment variable in `json_schema_extra`, as `option` and `env`. Tuples are repeatable
    options. Values are passed under the names of the fields, with the field's default if not given.
    """

    def wrap(command: Command) -> Command:
        hints = get_type_hints(command, include_extras=True)
        own = [p.replace(annotation=hints[p.name]) for p in signature(command).parameters.values()]
        own = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in own if p.kind != Parameter.VAR_KEYWORD]
        added = [p for name, field in model.model_fields.items() if (p := _parameter(name, field)) is not None]
        both = [*(p for p in own if p.default is Parameter.empty), *added]
        both += [p for p in own if p.default is not Parameter.empty]
        command.__signature__ = signature(command).replace(parameters=both)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in both} | {"return": None}
        return command

    return wrap


def _parameter(name: str, field: FieldInfo) -> Parameter | None:
    extra = field.json_schema_extra
    if not isinstance(extra, dict) or "option" not in extra:
        return None
    kind: Any = field.annotation
    default = field.default
    if get_origin(kind) is tuple:
        kind, default = list[get_args(kind)[0]], list(default)  # type: ignore[misc]
    env = extra.get("env")
    option = typer.Option(
        str(extra["option"]),
        envvar=None if env is None else str(env),
        help=field.description,
        show_default=bool(default) or (default == 0 and default is not False),
    )
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])
