"""`Scorer`: computes scores of payments with a bundle. Evaluation, offline scoring and serving all use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsa.bundle.bundle import Bundle
from tsa.data.log.quarantine import Quarantine, QuarantineLike
from tsa.data.online.encoded import EncodedPayments as EncodedPayments
from tsa.data.online.histories import event_histories, gather_histories
from tsa.data.online.payments import PaymentReader
from tsa.data.store.prepare import encoded_log
from tsa.data.store.store import EventStore
from tsa.data.time_range import window_seconds
from tsa.data.wire import Requests, WireReader
from tsa.errors import ConfigError, DataError, StoreError
from tsa.inference.engine import EngineName, OnnxEngine, Precision, make_engine
from tsa.inference.row_scores import OnError, Past, Rows, score_rows
from tsa.inference.score_parts import ModelParts
from tsa.progress import Progress, silent
from tsa.text import brief

if TYPE_CHECKING:
    from tsa.explain import Explanation

PART_ROWS = 2**18
"""Payments of a log scored per part."""

Files = pl.DataFrame | str | Path | Sequence[str | Path]
LogOrStore = Files | EventStore
Payments = LogOrStore | Rows


class Scorer:
    """Scores payments with a bundle: those of a log, rows with inline history, and single payments.

    Example:
        >>> scores = tsa.Scorer.load("run/bundle").score("payments.parquet")
        >>> scores.columns[:2], len(scores)
        (['id', 'raw_score'], 6000)
    """

    def __init__(
        self, bundle: Bundle, *, engine: EngineName = "torch", precision: Precision = "float32", threads: int = 1
    ) -> None:
        """Make a scorer of an open bundle.

        Args:
            bundle: The bundle.
            engine: "torch", "onnxruntime" (needs `tsa export`), or "auto": ONNX Runtime if available.
            precision: "float32"; "bf16" (torch) and "int8" (onnxruntime) are faster and change scores slightly.
            threads: Threads of ONNX Runtime; set those of PyTorch with `torch.set_num_threads`.

        Raises:
            ConfigError: If the engine or precision is not available.
        """
        self.bundle = bundle
        self.engine = make_engine(engine, bundle.network, bundle.graphs, precision, threads)
        # ONNX Runtime lets other threads run; PyTorch would stop for them between any two of its many small steps
        is_onnx = isinstance(self.engine, OnnxEngine)
        self._second_thread = ThreadPoolExecutor(1, thread_name_prefix="tsa-trees") if is_onnx else None

    @property
    def model(self) -> ModelParts:
        """The parts of the bundle's model, with this scorer's engine."""
        bundle = self.bundle
        return ModelParts(
            engine=self.engine, trees=bundle.trees, joining=bundle.joining, second_thread=self._second_thread
        )

    @classmethod
    def load(
        cls, path: str | Path, overrides: Sequence[str] = (), *, key: bytes | None = None, **settings: Any
    ) -> Scorer:
        """Open and check the bundle at `path`.

        Args:
            path: A folder or a .tar.gz.
            overrides: `key=value` settings of its market, such as `event.time_unit="ms"` for a log with another time unit.
            key: A public key (PEM): the bundle must be signed with its private key.
            settings: As for `Scorer`.

        Raises:
            BundleError: If the bundle is incomplete, changed or not signed with the key.
            MarketError: If an override breaks a rule or changes the features.
            ConfigError: For an age cap above the model's.
        """
        bundle = Bundle.open(path, key=key)
        if overrides:
            bundle = replace(bundle, market=bundle.market.override(overrides))
            bundle.encoder.check_market(bundle.market)
            _check_cap(bundle)
        return cls(bundle, **settings)

    @cached_property
    def reader(self) -> PaymentReader:
        """Reads single payments of a market with logs. Raises DataError if rows carry their own history."""
        return PaymentReader(self.bundle.market, self.bundle.encoder)

    @cached_property
    def wire_reader(self) -> WireReader:
        """Reads rows with inline history. Raises MarketError for a market with logs."""
        return WireReader(self.bundle.market, self.bundle.encoder)

    def score(
        self,
        payments: Payments,
        *,
        histories: Past | None = None,
        start: str | datetime | None = None,
        end: str | datetime | None = None,
        quarantine: QuarantineLike = None,
        on_error: OnError = "raise",
        progress: Progress = silent,
    ) -> pl.DataFrame:
        """Score the payments of a log, or single payments.

        Args:
            payments: A table, or files as `tsa prepare` reads them, whose histories are taken from all of the log; a store
                that the bundle's encoder made; or rows
                (dicts of current values), with inline history if the market has it, else with `histories`.
            histories: For rows: earlier events by (history, key), or a function from the encoded payments to these.
            start: Of a log, score only payments from this time on, in UTC.
            end: Of a log, score only payments before this time, in UTC.
            quarantine: A file for rows of a log that break a rule; without it they are an error.
            on_error: For rows. "raise": a row that gets no score is an error. "null": its scores are null, the column
                `error` says why, and the other rows are scored.
            progress: Receives the progress of long steps.

        Returns:
            `id`, `raw_score` (float32), `percentile` and `probability` (float64), the last two only if the bundle is
            calibrated for them; `error` (text, null for a row with scores) if `on_error` is "null". A log is in time
            order, without events that are not scored; rows are in the given order, and those that are not scored have
            no scores.

        Raises:
            DataError: Names the payments that cannot be scored.
            ConfigError: For an invalid time, a quarantine file that is an input, or an argument that does not fit.
        """
        if _is_rows(payments):
            _refuse_given("a log, not for rows", start=start, end=end, quarantine=quarantine)
            return score_rows(self, payments, histories, on_error)
        _refuse_given("rows, not for a log", histories=histories, on_error=None if on_error == "raise" else on_error)
        parts = self.parts(cast(LogOrStore, payments), start=start, end=end, quarantine=quarantine, progress=progress)
        return pl.concat(list(parts), rechunk=True)

    def parts(
        self,
        payments: LogOrStore,
        *,
        start: str | datetime | None = None,
        end: str | datetime | None = None,
        quarantine: QuarantineLike = None,
        progress: Progress = silent,
        part_rows: int = PART_ROWS,
    ) -> Iterator[pl.DataFrame]:
        """Yield the result of `score` for a log in parts of `part_rows` payments, in time order; at least one part.

        Payments without a finite score are quarantined after all others are scored.
        """
        rows_in, unscored = window_seconds(start, end), set[str]()
        with self.encoded(payments, quarantine=quarantine, progress=progress) as store:
            first, last = (int(row) for row in np.searchsorted(store.time_seconds, rows_in))
            collected = None if quarantine is None else unscored
            yield from self._store_parts(store, first, last, part_rows, progress, collected)
            if unscored:
                self.quarantine_unscored(payments, quarantine, frozenset(unscored))

    def score_store(self, store: EventStore, *, progress: Progress = silent) -> pl.DataFrame:
        """The result of `score` for a log already encoded with this bundle's encoder: all its payments, in time order."""
        return pl.concat(list(self._store_parts(store, 0, len(store), PART_ROWS, progress, None)), rechunk=True)

    def _store_parts(
        self, store: EventStore, first: int, last: int, part_rows: int, progress: Progress, unscored: set[str] | None
    ) -> Iterator[pl.DataFrame]:
        """Score the payments from `first` to `last` in parts. unscored: collects the ids of payments without a finite score;
        if None, they raise DataError."""
        scored = store.scored_rows(first, last)
        with progress("scoring", len(scored)) as advance:
            for begin in range(0, max(len(scored), 1), part_rows):
                # reopen for each part, to release the memory of the previous memory maps
                store = store.reopened()
                rows = scored[begin : begin + part_rows]
                scores = self.score_rows(store, rows, advance=advance)
                ids = store.ids_of(rows)
                if not (valid := np.isfinite(scores)).all():
                    if unscored is None:
                        check_finite(ids, scores)
                    else:
                        unscored |= set(ids.filter(~valid).cast(pl.String))
                        ids, scores = ids.filter(valid), scores[valid]
                yield pl.DataFrame({"id": ids, **self.with_calibration(scores)})

    def quarantine_unscored(self, payments: LogOrStore, quarantine: QuarantineLike, unscored: frozenset[str]) -> None:
        """Write the quarantine file again, including payments without a score. Raises DataError if that exceeds the limit."""
        quarantine_file = Quarantine.of(quarantine)
        assert quarantine_file is not None
        with self.encoded(payments, quarantine=replace(quarantine_file, unscored=unscored)):
            pass

    def requests(self, payments: EncodedPayments, histories: Past | None = None) -> Requests:
        """Encoded payments with their histories, from earlier events of their keys, including those of this batch."""
        past = (histories(payments) if callable(histories) else histories) or {}
        seen = event_histories(self.bundle.market, payments, past)
        return Requests(
            ids=payments.ids,
            time_seconds=payments.time_seconds,
            histories=gather_histories(self.bundle.market, self.bundle.encoder, seen),
            engineered=payments.engineered,
            seen=seen,
        )

    def score_requests(self, requests: Requests) -> dict[str, NDArray[Any]]:
        """The scores of B payments by name, (B,) each: `raw_score`, then those that the bundle is calibrated for.

        Raises DataError if a score is not finite.
        """
        scores = self.model.of_requests(requests)
        check_finite(requests.ids, scores)
        return self.with_calibration(scores)

    def encoded(self, payments: LogOrStore, **settings: Any) -> AbstractContextManager[EventStore]:
        """A context with a temporary store of a log, made with the bundle's encoder: `tsa.data.store.prepare.encoded_log`.

        A store is taken as it is.

        Raises:
            StoreError: For a store that another encoder made.
            ConfigError: For a store with a quarantine file.
        """
        if isinstance(payments, EventStore):
            _refuse_given("a log, not for a store", quarantine=settings.get("quarantine"))
            if payments.encoder.to_dict() != self.bundle.encoder.to_dict():
                raise StoreError(
                    f"{payments.url or payments.path} must have the encoder of the bundle (got another one): score the log"
                )
            return nullcontext(payments)
        return encoded_log(self.bundle.market, payments, self.bundle.encoder, **settings)

    def with_calibration(self, scores: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The columns of raw scores (m,), `raw_score` first, then those that the bundle is calibrated for."""
        calibration = self.bundle.calibration
        return {"raw_score": scores, **({} if calibration is None else calibration.columns(scores))}

    def score_rows(self, store: EventStore, rows: NDArray[np.int64], **settings: Any) -> NDArray[np.float32]:
        """(m,) raw scores of the events `rows` (m,) of a store made with this bundle's encoder."""
        return self.model.of_store(store, rows, **settings)

    def explain(self, payments: Files, ids: Sequence[Any], **settings: Any) -> list[Explanation]:
        """Explain the scores of the payments `ids` of a log; settings as for `tsa.explain.explain_log`."""
        from tsa.explain import explain_log

        return explain_log(self.bundle, payments, ids, **settings)


def _check_cap(bundle: Bundle) -> None:
    """Raise ConfigError for an age cap above the network's: ages beyond that would all count the same."""
    wire, config = bundle.market.wire, bundle.config
    if wire is not None and config.time_attention == "exponential" and wire.age_cap_seconds > config.age_cap_seconds:
        rule = f"wire.age_cap_seconds must be at most the model's {config.age_cap_seconds:g}"
        raise ConfigError(f"{rule} (got {wire.age_cap_seconds:g}): train or import the model with another cap")


def _refuse_given(what: str, **arguments: Any) -> None:
    """Raise ConfigError for an argument that is not None and would be ignored."""
    if given := [name for name, value in arguments.items() if value is not None]:
        raise ConfigError(
            f"{', '.join(given)} must be left out: {'it is' if len(given) == 1 else 'they are'} for {what}"
        )


def _is_rows(payments: Payments) -> TypeGuard[Rows]:
    """Whether these are rows, not a table or file names. One that is no row among others breaks a rule of rows."""
    if isinstance(payments, pl.DataFrame | str | Path | EventStore):
        return False
    return not payments or any(isinstance(row, Mapping) for row in payments)


def check_finite(ids: Sequence[Any] | pl.Series, scores: NDArray[np.float32]) -> None:
    """Raise DataError if a score is not finite."""
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        got = f"{len(bad)} of {len(scores)} not finite, such as {[brief(ids[at], 40) for at in bad[:5].tolist()]}"
        raise DataError(
            f"scores must be finite (got {got}); for a log, give a quarantine file to exclude these payments"
        )
