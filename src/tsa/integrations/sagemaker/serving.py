"""SageMaker inference: the functions that the inference toolkit calls, and the server that the container command `serve` starts.

    /opt/ml/model                   the bundle's files, or bundle.tar.gz and code/ (`tsa bundle pack --sagemaker`)
    SAGEMAKER_BASE_DIR              used instead of /opt/ml
    SAGEMAKER_BIND_TO_PORT          where `serve` listens; 8080
    SAGEMAKER_MODEL_SERVER_WORKERS  how many processes of `serve`; 1
    SAGEMAKER_MAX_PAYLOAD_IN_MB     how large a body may be; 6
    TSA_HISTORY                     the history store, such as redis://host:6379/0; not for rows that carry their own history
    TSA_NEW_STORE                   1: start with an empty history store if there is none yet
    TSA_ALLOW_EVICTION              1: allow a Redis that may evict keys
    TSA_ENGINE, TSA_PRECISION, TSA_THREADS, TSA_MAX_LIST    as the options of `tsa serve`

Bodies, limits, scores and answers are those of the server's route /invocations.
"""

from __future__ import annotations

from tsa.signals import end_on_signals

if (
    __name__ == "__main__"
):  # before seconds of imports: the first process of a container hears SIGTERM only once it asks to
    end_on_signals(0, names=("SIGTERM",), at_once=True)

import logging
import os
import secrets
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tsa.calibration.calibration import Calibration
from tsa.config.market import Serving
from tsa.config.toml import Layer
from tsa.data.values import RuleViolation
from tsa.errors import ConfigError, TSAError
from tsa.inference.engine import EngineName, Precision
from tsa.inference.scorer import Scorer
from tsa.integrations.sagemaker.packing import BUNDLE, CODE
from tsa.serving import run
from tsa.serving.formats import RequestRows, media_type
from tsa.serving.history.base import New
from tsa.serving.history.factory import open_history
from tsa.serving.history.monitored import MonitoredStore
from tsa.serving.http.exceptions import problem_from_exception
from tsa.serving.http.invocations import READ, response_format, rows_of, serialize, to_legacy_format
from tsa.serving.problems import CONTENT_TYPE, ProblemError, encode
from tsa.serving.request_limits import PaymentRequest, RequestValidator
from tsa.serving.results import ScoreResult, single_result, to_json
from tsa.serving.scoring.bundle_watch import version_of
from tsa.serving.scoring.isolation import score_isolating_failures
from tsa.serving.scoring.scoring_service import ScoringService
from tsa.serving.settings import ServeSettings
from tsa.system_errors import resource_problem

__all__ = ["input_fn", "main", "model_fn", "output_fn", "predict_fn"]

logger = logging.getLogger("tsa.integrations.sagemaker.serving")

OWN = {"SAGEMAKER_BIND_TO_PORT": "port", "SAGEMAKER_MODEL_SERVER_WORKERS": "workers"}
"""SageMaker's variables -> settings, in addition to `ServeSettings.variables`."""
PAYLOAD, PAYLOAD_MB = "SAGEMAKER_MAX_PAYLOAD_IN_MB", 6


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model that `model_fn` opens and `predict_fn` uses. Safe to use from several threads."""

    scoring_service: ScoringService
    contract: RequestValidator
    legacy_calibration: Calibration | None
    """Calibration of an imported model, which answers in the legacy system's format; None for all others."""
    remembers: bool
    """Whether payments without their histories can be scored."""

    def score(self, entries: list[PaymentRequest | RuleViolation]) -> list[ScoreResult | RuleViolation]:
        """A result or a rule violation for each entry."""
        if not self.remembers:
            entries = [_unknown(entry) for entry in entries]
        valid = [entry for entry in entries if isinstance(entry, PaymentRequest)]
        return self.contract.in_place(entries, score_isolating_failures(self.scoring_service, valid))


@dataclass(frozen=True)
class Request:
    """The rows of a body, and its format."""

    rows: RequestRows
    kind: str


@dataclass(frozen=True)
class Prediction:
    """The JSON documents of a body's payments."""

    documents: list[dict[str, Any]]
    kind: str
    imported: bool


def model_fn(model_dir: str, context: Any = None) -> Model:
    """Open the bundle in the model folder. Raises what opening the bundle or store raises, so that the endpoint fails."""
    settings = settings_of(Path(model_dir))
    scorer = Scorer.load(
        settings.bundle,
        engine=cast(EngineName, settings.engine),
        precision=cast(Precision, settings.precision),
        threads=settings.threads,
    )
    bundle, market = scorer.bundle, scorer.bundle.market
    store, seconds = None, (market.serving or Serving()).history_timeout_seconds
    if market.wire is None and settings.history is not None:
        new: New = "make" if settings.new_store else "refuse"
        store = MonitoredStore(open_history(settings.history, seconds, new=new, allow_eviction=settings.allow_eviction))
    return Model(
        scoring_service=ScoringService(scorer, store, version=version_of(scorer)),
        contract=RequestValidator(market, settings),
        legacy_calibration=bundle.calibration or Calibration() if "imported" in bundle.training else None,
        remembers=store is not None or market.wire is not None,
    )


def input_fn(data: bytes | str, content_type: str, context: Any = None) -> Request | ProblemError:
    """Read a body: JSON, JSON lines, CSV or Parquet. The toolkit passes some of them as str.

    A refusal is returned as a value for `output_fn`, because the toolkit answers exceptions with their traceback.
    """
    body = data.encode() if isinstance(data, str) else bytes(data)
    bounds = request_bounds()
    try:
        kind = media_type(content_type, READ)
        if len(body) > bounds["max_bytes"]:
            raise ProblemError(413, "too_large", f"the body must have at most {bounds['max_bytes']} bytes")
        return Request(rows_of(body, kind, bounds["max_list"], bounds["max_bytes"]), kind)
    except ProblemError as refused:
        return refused


def predict_fn(data: Request | ProblemError, model: Model, context: Any = None) -> Prediction | ProblemError:
    """Score a request. A list gets an answer or a problem for each payment; a single payment with a problem is refused."""
    if isinstance(data, ProblemError):
        return data
    request_id = secrets.token_hex(8)
    try:
        results = model.score(model.contract.entries(data.rows))
        documents = [to_json(result, request_id) for result in results]
        if data.rows.single:
            single_result(results, documents)
        if model.legacy_calibration is not None:
            documents = to_legacy_format(model.legacy_calibration, results, documents)
    except Exception as error:
        return problem_from_exception(error)
    return Prediction(documents, data.kind, imported=model.legacy_calibration is not None)


def output_fn(prediction: Prediction | ProblemError, accept: str, context: Any = None) -> tuple[bytes, str]:
    """Encode the answer; return it with its media type. A refusal sets its status; without a context it is raised."""
    try:
        if isinstance(prediction, ProblemError):
            raise prediction
        out = response_format(accept, prediction.kind, imported=prediction.imported)
        return serialize(out, prediction.documents)
    except ProblemError as refused:
        if context is None:
            raise
        problem = refused.document(secrets.token_hex(8))
        context.set_response_status(code=refused.status, phrase=problem["title"])
        return encode(problem), CONTENT_TYPE


def settings_of(model: Path) -> ServeSettings:
    """The server's settings from the environment, for the bundle in the folder `model`. Raises ConfigError."""
    return _settings(bundle_in(model))


def bundle_in(model: Path) -> Path:
    """The bundle in a model folder; a copy without code/ if that was added to the bundle's files."""
    if (model / BUNDLE).is_file():
        return model / BUNDLE
    if not (model / CODE).is_dir():
        return model
    copy = Path(tempfile.mkdtemp(prefix="tsa-")) / "bundle"
    shutil.copytree(model, copy, ignore=shutil.ignore_patterns(CODE))
    return copy


def main() -> int:
    """Serve the model until SIGTERM. Returns the exit code; an error is one line in the log."""
    base = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
    try:
        run(settings_of(base / "model"))
    except (TSAError, OSError) as error:
        logger.error("%s", resource_problem(error) or error)
        return 2
    return 0


def _unknown(entry: PaymentRequest | RuleViolation) -> PaymentRequest | RuleViolation:
    """Refuse a payment without histories if there is no store, rather than score it as if it had none."""
    if isinstance(entry, RuleViolation) or entry.histories is not None:
        return entry
    return RuleViolation(
        "no_history", "histories", "must be given, or TSA_HISTORY be set: this endpoint has no history store", "none"
    )


def _settings(bundle: Path) -> ServeSettings:
    named = {**OWN, **ServeSettings.variables()}
    given = {name: text for name in named if (text := os.environ.get(name))}
    layers = [Layer(origin=name, table={named[name]: text}) for name, text in given.items()]
    values: dict[str, Any] = {named[name]: text for name, text in given.items()}
    return ServeSettings.make({"bundle": bundle, "host": "0.0.0.0", "max_bytes": _payload(), **values}, layers)


def request_bounds() -> dict[str, int]:
    """The most payments and bytes of a request."""
    settings = _settings(Path())
    return {"max_bytes": settings.max_bytes, "max_list": settings.max_list}


def _payload() -> int:
    text = os.environ.get(PAYLOAD) or str(PAYLOAD_MB)
    if not text.isdecimal():
        raise ConfigError(f"{PAYLOAD} must be a whole number (got {text!r})")
    return int(text) * 2**20


if __name__ == "__main__":
    end_on_signals(0, names=("SIGTERM",), within=5.0)
    logging.basicConfig(level=logging.INFO)
    sys.exit(main())
