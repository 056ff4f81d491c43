"""POST /v1/score and POST /v1/outcome: payments in, scores out; and what became of them later."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from tsa.data.online.payments import BrokenRuleError, Problem
from tsa.data.spelling import Spelling
from tsa.data.values import key_of, seconds_of
from tsa.errors import HistoryUnavailable
from tsa.serving import formats
from tsa.serving.errors import LateError, QueueFullError
from tsa.serving.formats import JSON, LINES
from tsa.serving.http.request import Exchange
from tsa.serving.problems import RefusedError, shown
from tsa.serving.request_schema import Entry
from tsa.serving.results import document, only
from tsa.serving.scoring.app_state import Service

OUTCOME_FIELDS = {"id", "fraud", "at"}
UNTOLD = {"reasons": None, "explanation": None}
TRUTHS = {True: True, False: False}
YES, NO = {"true", "1", "yes", "on", "t", "y"}, {"false", "0", "no", "off", "f", "n"}
"""How a query says true and false, in large letters or small ones: Python writes `True`."""


def score_routes(service: Service) -> APIRouter:
    """The two routes."""
    router = APIRouter()

    async def score(request: Request) -> Response:
        """Score one payment or a list of them, each with the history that its keys have in the store, or its own."""
        exchange = Exchange.of(request.scope)
        explain = wants_reasons(request.scope.get("query_string", b""))
        kind = formats.media_type(exchange.header(b"content-type"), (JSON, LINES))
        out = formats.accepted(exchange.header(b"accept"), (JSON, LINES), default=kind)
        settings = service.settings
        body = await exchange.body()
        found = formats.read(body, kind, settings.max_list, settings.max_bytes)
        entries = service.contract.entries(found)
        if explain:
            service.reasoner.check(len(entries))
        results = await service.score(entries, client=exchange.client, deadline=exchange.deadline)
        documents = [document(result, exchange.request_id) for result in results]
        if explain:
            await add_reasons(service, exchange, entries, documents)
        if found.single and out == JSON:
            return Response(orjson.dumps(only(results, documents)), media_type=JSON)
        if out == LINES:
            return Response(formats.lines_of(documents), media_type=LINES)
        return Response(orjson.dumps(documents), media_type=JSON)

    async def outcome(request: Request) -> Response:
        """Say what became of a payment: from then on it is a known outcome of its keys' histories."""
        exchange = Exchange.of(request.scope)
        formats.media_type(exchange.header(b"content-type"), (JSON,))
        formats.accepted(exchange.header(b"accept"), (JSON,))
        id_, fraud, at = _outcome(formats.read_json(await exchange.body()).rows, service)
        if not await service.outcome(id_, fraud, at, deadline=exchange.deadline):
            raise RefusedError(404, "unknown_payment", "id must be of a payment that was scored", field="id", value=id_)
        return Response(orjson.dumps({"id": id_, "fraud": fraud}), media_type=JSON)

    # plain routes: nothing needs FastAPI's reading of parameters, which takes 0.1 ms of each request
    router.add_route("/v1/score", score, methods=["POST"])
    router.add_route("/v1/outcome", outcome, methods=["POST"])
    return router


def wants_reasons(query: bytes) -> bool:
    """What `explain` says in a query string. RefusedError for what is neither true nor false."""
    if not query:
        return False
    from urllib.parse import parse_qs

    try:
        values = parse_qs(query.decode("ascii"), keep_blank_values=True, max_num_fields=20).get("explain", ["false"])
    except ValueError:
        raise RefusedError(400, "query", "the query must be of at most 20 fields in percent-encoding") from None
    if (said := values[-1].lower()) not in YES | NO:
        raise RefusedError(422, "query", "explain must be true or false", field="explain", value=values[-1])
    return said in YES


async def add_reasons(
    service: Service,
    exchange: Exchange,
    entries: Sequence[Entry | Problem],
    documents: Sequence[dict[str, Any]],
) -> None:
    """Add the reasons to the answers of payments that have one; null where there is no time for them, where a history could
    not be read (scores come first), and where a payment that is repeated was scored by another bundle."""
    pairs = zip(entries, documents, strict=True)
    scored = [(entry, found) for entry, found in pairs if isinstance(entry, Entry) and "problem" not in found]
    told = [pair for pair in scored if not pair[1]["degraded"] and pair[1]["version"] == service.version]
    for _, found in scored:
        found.update(UNTOLD)
    try:
        reasons = await service.reasoner.reasons([entry for entry, _ in told], exchange.deadline)
    except (LateError, QueueFullError, HistoryUnavailable):
        return
    for (_, found), why in zip(told, reasons, strict=True):
        found.update(why)


def _outcome(rows: Sequence[Any], service: Service) -> tuple[Any, bool, float]:
    """(id, fraud, epoch seconds). RefusedError for a body that says something else."""
    if len(rows) != 1 or not isinstance(rows[0], dict):
        raise RefusedError(422, "not_an_object", "the body must be an object with id and fraud, and maybe at")
    body = rows[0]
    if others := sorted(set(body) - OUTCOME_FIELDS):
        raise RefusedError(422, "unknown_field", "must be one of id, fraud, at", field=shown(others[0]))
    if service.market.wire is not None:
        raise RefusedError(422, "own_history", "outcomes of this market are not kept: its rows carry their own history")
    id_, fraud = _id(body.get("id"), service), body.get("fraud")
    if not isinstance(fraud, bool | int) or fraud not in TRUTHS:
        raise RefusedError(422, "bad_outcome", "fraud must be true or false", field="fraud", value=fraud)
    return id_, bool(fraud), _at(body.get("at"), service)


def _id(value: Any, service: Service) -> Any:
    """The id as it was given, in any spelling that a payment's may have. RefusedError for what is none."""
    name = service.market.event.id
    if problem := service.contract.id_problem(value):
        raise RefusedError.of(replace(problem, field="id"))
    try:
        if key_of(value, name, Spelling.of(service.market)) is None:
            raise RefusedError(422, "null_id", "id must be the payment's", field="id", value=value)
    except BrokenRuleError as error:
        raise RefusedError.of(replace(error.problem, field="id")) from None
    return value


def _at(value: Any, service: Service) -> float:
    """When the outcome became known: now, or as the market writes times. RefusedError."""
    now = time.time()
    try:
        at = seconds_of(value, "at", service.market.event.time_unit, Spelling.of(service.market))
    except BrokenRuleError as error:
        raise RefusedError.of(error.problem) from None
    if at is None:
        return now
    if at > now + service.serving.max_future_seconds:
        raise RefusedError(422, "future", "at must not be in the future", field="at", value=value)
    return at
