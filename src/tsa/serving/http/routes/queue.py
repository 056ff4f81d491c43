"""The routes of the analysts' queue under /v1/queue. The page at /queue uses them."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from tsa.serving import formats
from tsa.serving.analyst_queue.case_database import FRAUD, GENUINE, HANDED_ON, LATER, OPEN, STATES, CaseFilter
from tsa.serving.analyst_queue.case_export import csv_parts, send
from tsa.serving.analyst_queue.case_writer import ReviewQueue
from tsa.serving.formats import CSV, JSON
from tsa.serving.http.request_context import READING, RequestContext
from tsa.serving.problems import ProblemError, shorten_value
from tsa.serving.scoring.app_state import AppState
from tsa.webhooks import WebhookError

MAX_SHOWN, MAX_EXPORTED = 200, 100_000
PART = 500
"""Cases of an export that are read at once."""
FILTERS = ("state", "decision", "min_loss", "text")
ANSWERS = (FRAUD, GENUINE, LATER)
MAX_TEXT = 200


def queue_routes(service: AppState) -> APIRouter:
    """Create the routes."""
    router = APIRouter()

    async def cases(request: Request) -> Response:
        """Cases by expected loss."""
        review, who, _ = _opened(service, request)
        wanted = _filter(_query(request))
        listed = await _call(partial(review.database.select, wanted, who, MAX_SHOWN))
        settings = service.settings
        more = {"who": who, "lease_seconds": _lease(service), "webhook": settings.queue_webhook is not None}
        return _json({**listed, **more, "amount": service.market.event.amount})

    async def export(request: Request) -> Response:
        """The same cases as CSV."""
        review, who, _ = _opened(service, request)
        wanted = _filter(_query(request))

        ids = await _call(partial(review.database.ids, wanted, MAX_EXPORTED))
        parts = (review.database.cases(ids[at : at + PART], who) for at in range(0, len(ids), PART))
        headers = {"content-disposition": 'attachment; filename="cases.csv"'}
        return StreamingResponse(csv_parts(parts), media_type=CSV, headers=headers)

    async def claim(request: Request) -> Response:
        """Lease the case with an id, or the first one that nobody else has, and show its evidence."""
        review, who, exchange = _opened(service, request)
        body = await _body(exchange, ("id", *FILTERS))
        id_ = None if body.get("id") is None else _text(body, "id")
        wanted = _filter({name: body[name] for name in FILTERS if body.get(name) is not None})
        case = await _call(partial(review.database.claim, wanted, who, _lease(service), id_))
        if case is None and id_ is not None:
            await _refuse_absent(review, id_, who)
            raise _leased(id_)
        if case is None:
            return _json({"case": None})
        evidence = await asyncio.to_thread(service.evidence.of, case)
        return _json({"case": {**case, **evidence}})

    async def decide(request: Request) -> Response:
        """Record what an analyst says of a case: fraud and genuine are outcomes, later puts it off."""
        review, who, exchange = _opened(service, request)
        body = await _body(exchange, ("id", "answer"))
        id_, answer = _text(body, "id"), body.get("answer")
        if answer not in ANSWERS:
            raise ProblemError(
                422, "bad_outcome", "answer must be fraud, genuine or later", field="answer", value=answer
            )
        await _lease_or_refuse(service, review, id_, who)
        if answer == LATER:
            await _call(partial(review.database.put_off, id_, who, service.settings.queue_later_minutes * 60))
            return _json({"id": id_, "state": LATER, "by": who})
        is_stored = await service.record_case_outcome(
            id_, answer == FRAUD, time.time(), deadline=exchange.deadline, by=who
        )
        await _call(partial(review.database.set_state, id_, answer, who))
        return _json({"id": id_, "state": answer, "by": who, "stored": is_stored})

    async def hand_on(request: Request) -> Response:
        """Send a case to the webhook."""
        review, who, exchange = _opened(service, request)
        settings = service.settings
        if settings.queue_webhook is None:
            raise ProblemError(404, "no_webhook", "this server was started without --queue-webhook")
        id_ = _text(await _body(exchange, ("id",)), "id")
        await _lease_or_refuse(service, review, id_, who)
        case = await _call(partial(review.database.get, id_, who))
        if case is None:
            raise _unknown(id_)
        try:
            await asyncio.to_thread(send, settings.queue_webhook, settings.read_webhook_secret(), case, who)
        except WebhookError as error:
            raise ProblemError(502, "webhook", f"the webhook must accept the case: {error}") from None
        await _call(partial(review.database.set_state, id_, HANDED_ON, who))
        return _json({"id": id_, "state": HANDED_ON, "by": who})

    router.add_api_route("/v1/queue", cases, methods=READING)
    router.add_api_route("/v1/queue/cases.csv", export, methods=READING)
    for path, route in (("claim", claim), ("decide", decide), ("hand-on", hand_on)):
        router.add_route(f"/v1/queue/{path}", route, methods=["POST"])
    return router


def _opened(service: AppState, request: Request) -> tuple[ReviewQueue, str, RequestContext]:
    """The queue, the analyst, and the request. Raises ProblemError if the server has no queue."""
    exchange = RequestContext.of(request.scope)
    if service.review is None:
        raise ProblemError(404, "no_queue", "this server was started without --queue")
    assert exchange.grant is not None  # the middleware lets nobody else in
    return service.review, exchange.grant.name, exchange


def _lease(service: AppState) -> float:
    return service.settings.queue_lease_minutes * 60


async def _call(call: Callable[[], Any]) -> Any:
    """Call the queue's file in another thread. Raises ProblemError if it cannot be used."""
    try:
        return await asyncio.to_thread(call)
    except sqlite3.Error:
        headers = {"Retry-After": "1"}
        raise ProblemError(
            503, "queue_unavailable", "the queue cannot be used at the moment", headers=headers
        ) from None


async def _lease_or_refuse(service: AppState, review: ReviewQueue, id_: str, who: str) -> None:
    """Take or extend the lease, so that two analysts never answer one case at once. Raises ProblemError."""
    await _refuse_absent(review, id_, who)
    if not await _call(partial(review.database.extend, id_, who, _lease(service))):
        raise _leased(id_)


async def _refuse_absent(review: ReviewQueue, id_: str, who: str) -> None:
    if await _call(partial(review.database.get, id_, who)) is None:
        raise _unknown(id_)


def _unknown(id_: str) -> ProblemError:
    return ProblemError(404, "unknown_payment", "id must be of a payment in the queue", field="id", value=id_)


def _leased(id_: str) -> ProblemError:
    return ProblemError(409, "leased", "another analyst has this case open", field="id", value=id_)


def _query(request: Request) -> dict[str, Any]:
    try:
        return dict(parse_qsl(request.url.query, keep_blank_values=True, max_num_fields=20, errors="strict"))
    except ValueError:
        raise ProblemError(400, "query", "the query must have at most 20 percent-encoded fields") from None


async def _body(exchange: RequestContext, allowed: tuple[str, ...]) -> Mapping[str, Any]:
    formats.media_type(exchange.header(b"content-type"), (JSON,))
    formats.negotiate(exchange.header(b"accept"), (JSON,))
    rows = formats.read_json(await exchange.body()).rows
    if len(rows) != 1 or not isinstance(rows[0], dict):
        raise ProblemError(422, "not_an_object", f"the body must be an object with {', '.join(allowed)}")
    if unknown := sorted(set(rows[0]) - set(allowed)):
        raise ProblemError(
            422, "unknown_field", f"must be one of {', '.join(allowed)}", field=shorten_value(unknown[0])
        )
    return rows[0]


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise ProblemError(422, "not_a_text", f"{name} must be a text", field=name, value=value)
    return value


def _filter(fields: Mapping[str, Any]) -> CaseFilter:
    """Parse filters. Raises ProblemError."""
    if unknown := sorted(set(fields) - set(FILTERS)):
        raise ProblemError(422, "query", f"must be one of {', '.join(FILTERS)}", field=shorten_value(unknown[0]))
    state, decision, text = (fields.get(name) or None for name in ("state", "decision", "text"))
    if state is not None and state not in STATES:
        raise ProblemError(422, "query", f"state must be one of {', '.join(STATES)}", field="state", value=state)
    for name, value in (("decision", decision), ("text", text)):
        if value is not None and (not isinstance(value, str) or len(value) > MAX_TEXT):
            raise ProblemError(422, "query", f"{name} must be a text of at most {MAX_TEXT} characters", field=name)
    return CaseFilter(state=state or OPEN, decision=decision, min_loss=_loss(fields.get("min_loss")), text=text)


def _loss(value: Any) -> float:
    if value in (None, ""):
        return 0.0
    try:
        loss = float(value)
    except (TypeError, ValueError, OverflowError):
        loss = math.nan
    if not 0 <= loss < math.inf or isinstance(value, bool):
        raise ProblemError(422, "query", "min_loss must be a number of at least 0", field="min_loss", value=value)
    return loss


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type=JSON)
