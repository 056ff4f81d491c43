"""Write docs/reference/http.md from the OpenAPI document of the endpoint: python docs/make_http.py"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tsa.config.market import Market
from tsa.data.encoding.encoder import Encoder
from tsa.serving.http.openapi import document
from tsa.serving.http.openapi_schemas import Specification

PAGE = Path(__file__).parent / "reference" / "http.md"
SPECIFIC = {"Payment", "PaymentWithHistories", "Inference"}
"""Bodies that are other ones in each market: examples show them."""
HEAD = """# HTTP

Written by docs/make_http.py from the OpenAPI document of the endpoint, for the example market
`demo`. `/openapi.json` of your own server is the same document with the columns of your market, for
programs that make clients. [The endpoint](../how-to/serving.md) explains how it behaves. Scores of
imported models of the legacy TSA system, the predecessor of this package, have a form of their own.
"""
Schema = Mapping[str, Any]


def specification() -> dict[str, Any]:
    """The document of the market `demo`, before anything is known of its values."""
    no_values = cast(Encoder, SimpleNamespace(categorical_vocabularies=()))
    return document(Specification(Market.load("demo"), no_values), secured=True, with_queue=True)


def operations(made: Schema) -> Iterator[tuple[str, Schema]]:
    """Each route as `POST /v1/score`, and what is said of it."""
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def kind(schema: Schema) -> str:
    """The values that a schema allows, in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(kind(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        inner = kind(schema["items"]) if "items" in schema else ""
        return f"list of ({inner})" if " or " in inner else f"list of {inner}" if inner else "list"
    if schema.get("format") == "binary":
        return "binary"
    types = schema.get("type", "value")
    return " or ".join([types] if isinstance(types, str) else types)


def bodies(content: Mapping[str, Schema]) -> str:
    """Media types with their bodies."""
    return "; ".join(f"`{media}` {kind(one['schema'])}" for media, one in content.items())


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def route(name: str, operation: Schema) -> str:
    """The section of a route."""
    free = operation.get("security") == [{}]
    needed = "an admin token" if "/admin/" in name else "a token, if the server has any"
    if "/v1/queue" in name:
        needed = "`--queue`, and an analyst's token"
    rows = [("needs", "nothing" if free else needed)]
    for one in operation["parameters"]:
        allowed = one["schema"]
        limits = ""
        if "minimum" in allowed:
            limits = (
                f", {allowed['minimum']} to {allowed['maximum']}"
                if "maximum" in allowed
                else f", at least {allowed['minimum']}"
            )
        meaning = f": {one['description']}" if "description" in one else ""
        rows.append((f"{one['in']} `{one['name']}`", f"{kind(allowed)}{limits}{meaning}"))
    if "requestBody" in operation:
        rows.append(("body", bodies(operation["requestBody"]["content"])))
    rows.append(("answer", bodies(operation["responses"]["200"]["content"])))
    rows.append(("problems", ", ".join(sorted(set(operation["responses"]) - {"200"}))))
    return f"### {name}\n\n{operation['summary']}.\n\n{table(('Part', 'What it is'), rows)}"


def statuses(made: Schema) -> str:
    """The statuses of problems, and when they are given."""
    found: dict[str, dict[str, None]] = {}
    for _, operation in operations(made):
        for status, response in operation["responses"].items():
            if status != "200":
                found.setdefault(status, {})[response["description"]] = None
    return table(("Status", "When"), [(status, "; ".join(texts)) for status, texts in sorted(found.items())])


def body(name: str, schema: Schema) -> str:
    """The section of a body: its fields, or an example."""
    parts = [f"### {name}\n"]
    if text := schema.get("description"):
        parts.append(f"{text}\n")
    if name not in SPECIFIC and "properties" in schema:
        required = set(schema.get("required", ()))
        rows = [
            (f"`{field}`", kind(one), "yes" if field in required else "", one.get("description", ""))
            for field, one in schema["properties"].items()
        ]
        parts.append(table(("Field", "Type", "Always there", "Meaning"), rows))
    elif "properties" in schema and "examples" not in schema:
        rows = [(f"`{field}`", kind(one)) for field, one in schema["properties"].items()]
        parts.append(table(("Field", "Type"), rows))
    elif "properties" not in schema:
        parts.append("One of\n")
        parts.append("".join(f"- {kind(one)}\n" for one in schema["anyOf"]))
    parts += [f"```json\n{written(example)}\n```\n" for example in schema.get("examples", ())]
    return "\n".join(parts)


def written(example: Schema) -> str:
    """An example as JSON, a line for each field and each entry of a list."""
    lines = []
    for name, value in example.items():
        listed = isinstance(value, list)
        shown = f"[\n    {f',{chr(10)}    '.join(map(json.dumps, value))}\n  ]" if listed else json.dumps(value)
        lines.append(f"  {json.dumps(name)}: {shown}")
    return "{\n" + ",\n".join(lines) + "\n}"


def text() -> str:
    """The page."""
    made = specification()
    routes = [route(name, operation) for name, operation in operations(made)]
    schemas = [body(name, schema) for name, schema in made["components"]["schemas"].items()]
    problems = "Their body is a [Problem](#problem), as `application/problem+json` (RFC 9457).\n"
    return "\n".join([HEAD, "## Routes\n", *routes, "## Problems\n", problems, statuses(made), "## Bodies\n", *schemas])


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
