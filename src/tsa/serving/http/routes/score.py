"""The routes POST /v1/score and POST /v1/outcome."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from tsa.data.spelling import Spelling
from tsa.data.values import RuleViolation, RuleViolationError, key_of, parse_epoch_seconds
from tsa.errors import HistoryUnavailable
from tsa.serving import formats
from tsa.serving.errors import DeadlineExceededError, QueueFullError
from tsa.serving.formats import JSON, JSON_LINES
from tsa.serving.http.request_context import RequestContext
from tsa.serving.problems import ProblemError, shorten_value
from tsa.serving.request_limits import PaymentRequest
from tsa.serving.results import ScoreResult, single_result, to_json
from tsa.serving.scoring.app_state import AppState

OUTCOME_FIELDS = {"id", "fraud", "at"}
NO_REASONS = {"reasons": None, "explanation": None}
TRUTHS = {True: True, False: False}
YES, NO = {"true", "1", "yes", "on", "t", "y"}, {"false", "0", "no", "off", "f", "n"}
"""Spellings of true and false in a query, in any case: Python writes `True`."""


def score_routes(service: AppState) -> APIRouter:
    """Create the routes."""
    router = APIRouter()

    async def score(request: Request) -> Response:
        """Score one payment or a list of them, each with its stored history or with history events from the request."""
        exchange = RequestContext.of(request.scope)
        explain = reasons_requested(request.scope.get("query_string", b""))
        kind = formats.media_type(exchange.header(b"content-type"), (JSON, JSON_LINES))
        out = formats.negotiate(exchange.header(b"accept"), (JSON, JSON_LINES), default=kind)
        settings = service.settings
        body = await exchange.body()
        rows = formats.read(body, kind, settings.max_list, settings.max_bytes)
        entries = service.contract.entries(rows)
        if explain:
            service.reasoner.check(len(entries))
        results = await service.score(entries, client=exchange.client, deadline=exchange.deadline)
        documents = [to_json(result, exchange.request_id) for result in results]
        if explain:
            await add_reasons(service, exchange, entries, documents)
            if service.recorder is not None:
                service.recorder.reasons(results, [document.get("reasons") for document in documents])
        if rows.single and out == JSON:
            return Response(orjson.dumps(single_result(results, documents)), media_type=JSON)
        if out == JSON_LINES:
            return Response(formats.to_json_lines(documents), media_type=JSON_LINES)
        return Response(orjson.dumps(documents), media_type=JSON)

    async def flat(request: Request) -> Response:
        """Score payments given as flat objects; the answer is a list of numbers, as decision engines read it.

        Each is the probability of fraud, or the raw score of a bundle that is not calibrated.
        """
        exchange = RequestContext.of(request.scope)
        formats.media_type(exchange.header(b"content-type"), (JSON,))
        formats.negotiate(exchange.header(b"accept"), (JSON,))
        settings = service.settings
        rows = formats.read(await exchange.body(), JSON, settings.max_list, settings.max_bytes)
        entries = service.contract.entries(rows)
        results = await service.score(entries, client=exchange.client, deadline=exchange.deadline)
        if refused := next((result for result in results if isinstance(result, RuleViolation)), None):
            raise ProblemError.of(refused, counted=True)
        return Response(orjson.dumps([_number(result) for result in results]), media_type=JSON)

    async def outcome(request: Request) -> Response:
        """Record the outcome of a payment, which from then on is known in the histories of its keys."""
        exchange = RequestContext.of(request.scope)
        formats.media_type(exchange.header(b"content-type"), (JSON,))
        formats.negotiate(exchange.header(b"accept"), (JSON,))
        id_, fraud, at = _outcome(formats.read_json(await exchange.body()).rows, service)
        by = None if exchange.grant is None else exchange.grant.name
        if not await service.record_outcome(id_, fraud, at, deadline=exchange.deadline, by=by):
            raise ProblemError(404, "unknown_payment", "id must be of a payment that was scored", field="id", value=id_)
        return Response(orjson.dumps({"id": id_, "fraud": fraud}), media_type=JSON)

    # plain routes: FastAPI's parsing of parameters is not needed and takes 0.1 ms per request
    router.add_route("/v1/score", score, methods=["POST"])
    router.add_route("/v1/score/flat", flat, methods=["POST"])
    router.add_route("/v1/outcome", outcome, methods=["POST"])
    return router


def _number(result: ScoreResult | RuleViolation) -> float | None:
    """The score of a payment as one number; None for an event that is not scored."""
    assert isinstance(result, ScoreResult)
    return result.raw_score if result.probability is None else result.probability


def reasons_requested(query: bytes) -> bool:
    """Parse `explain` in a query string. Raises ProblemError if it is neither true nor false."""
    if not query:
        return False
    from urllib.parse import parse_qs

    try:
        values = parse_qs(query.decode("ascii"), keep_blank_values=True, max_num_fields=20).get("explain", ["false"])
    except ValueError:
        raise ProblemError(400, "query", "the query must have at most 20 percent-encoded fields") from None
    if (value := values[-1].lower()) not in YES | NO:
        raise ProblemError(422, "query", "explain must be true or false", field="explain", value=values[-1])
    return value in YES


async def add_reasons(
    service: AppState,
    exchange: RequestContext,
    entries: Sequence[PaymentRequest | RuleViolation],
    documents: Sequence[dict[str, Any]],
) -> None:
    """Add the reasons to the answers of scored payments.

    They are null if there is no time for them, if a history could not be read (scores come first), or if a repeated payment
    was scored by another bundle.
    """
    pairs = zip(entries, documents, strict=True)
    scored = [
        (entry, document)
        for entry, document in pairs
        if isinstance(entry, PaymentRequest) and "problem" not in document
    ]
    for _, document in scored:
        document.update(NO_REASONS)
    for version, reasoner in service.reasoners.items():
        own = [pair for pair in scored if not pair[1]["degraded"] and pair[1]["version"] == version]
        try:
            reasons = await reasoner.reasons([entry for entry, _ in own], exchange.deadline)
        except (DeadlineExceededError, QueueFullError, HistoryUnavailable):
            continue
        for (_, document), why in zip(own, reasons, strict=True):
            document.update(why)


def _outcome(rows: Sequence[Any], service: AppState) -> tuple[Any, bool, float]:
    """Parse (id, fraud, epoch seconds). Raises ProblemError if the body is something else."""
    if len(rows) != 1 or not isinstance(rows[0], dict):
        raise ProblemError(422, "not_an_object", "the body must be an object with id, fraud and, optionally, at")
    body = rows[0]
    if unknown := sorted(set(body) - OUTCOME_FIELDS):
        raise ProblemError(422, "unknown_field", "must be one of id, fraud, at", field=shorten_value(unknown[0]))
    if service.market.wire is not None:
        raise ProblemError(
            422, "own_history", "outcomes of this market are not stored: its rows carry their own history"
        )
    id_, fraud = _id(body.get("id"), service), body.get("fraud")
    if not isinstance(fraud, bool | int) or fraud not in TRUTHS:
        raise ProblemError(422, "bad_outcome", "fraud must be true or false", field="fraud", value=fraud)
    return id_, bool(fraud), _at(body.get("at"), service)


def _id(value: Any, service: AppState) -> Any:
    """Check the id, in any spelling that a payment's id may have. Raises ProblemError if it is invalid."""
    name = service.market.event.id
    if problem := service.contract.id_problem(value):
        raise ProblemError.of(replace(problem, field="id"))
    try:
        if key_of(value, name, Spelling.of(service.market)) is None:
            raise ProblemError(422, "null_id", "id must be the payment's", field="id", value=value)
    except RuleViolationError as error:
        raise ProblemError.of(replace(error.problem, field="id")) from None
    return value


def _at(value: Any, service: AppState) -> float:
    """Parse when the outcome became known, in the market's time format; default: now. Raises ProblemError."""
    now = time.time()
    try:
        at = parse_epoch_seconds(value, "at", service.market.event.time_unit, Spelling.of(service.market))
    except RuleViolationError as error:
        raise ProblemError.of(error.problem) from None
    if at is None:
        return now
    if at > now + service.serving.max_future_seconds:
        raise ProblemError(422, "future", "at must not be in the future", field="at", value=value)
    return at
