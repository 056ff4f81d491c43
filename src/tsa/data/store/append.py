"""Add later payments, and outcomes that are known now, to a store, without reading its logs again.

What is encoded already is copied; new rows are encoded, and the histories indexed again. The files are those that
`prepare` would make of all logs with the same encoder.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tsa.config.market import Market
from tsa.data.log.id_and_joined_columns import ROW_ID
from tsa.data.log.quarantine import Quarantine, QuarantineLike, quarantine_path
from tsa.data.log.reader import read_log
from tsa.data.store.appended_rows import NewRows, match_rows, refuse_other_types
from tsa.data.store.build import write_store
from tsa.data.store.encoded_rows import Encoded
from tsa.data.store.manifest import ROWS
from tsa.data.store.object_store import manifest_sha256, new_store
from tsa.data.store.prepare import Logs, log_names
from tsa.data.store.store import EventStore
from tsa.data.workers import HERE, Workers
from tsa.errors import ConfigError, StoreError
from tsa.files.object_folder import object_url
from tsa.files.outputs import check_outputs
from tsa.progress import Progress, silent
from tsa.value_differences import differing_keys

logger = logging.getLogger(__name__)

MAY_DIFFER = ("split", "monitoring", "reasons", "serving", "trees", "legacy", "promotion")
"""Tables of the market that have no effect on the rows of a store: the given market may have others."""


@dataclass(frozen=True, kw_only=True)
class Appended:
    """The store after appending, and what was new."""

    store: EventStore
    payments: int
    """Payments that the store did not have."""
    outcomes: int
    """Payments of the store whose outcome is another now."""
    repeated: int
    """Rows of the log that the store had."""
    unmatched: int
    """Outcomes of payments that are in neither the store nor the log."""

    @property
    def is_changed(self) -> bool:
        """Whether anything was new. If not, the store was not written again."""
        return bool(self.payments or self.outcomes)


def append(
    store: str | Path,
    logs: Logs = (),
    *,
    outcomes: Logs = (),
    market: Market | None = None,
    out: str | Path | None = None,
    quarantine: QuarantineLike = None,
    refit_encoder: bool = False,
    progress: Progress = silent,
    workers: Workers = HERE,
) -> Appended:
    """Add payments and outcomes to a store. The new store replaces it when it is complete.

    A row whose id the store has must be the same payment; its outcome, if known, replaces the one in the store. With
    nothing new the store is left as it is.

    Args:
        store: The folder of a store of a log, or its URL.
        logs: Logs whose payments come after those of the store, in (time, id) order.
        outcomes: Files with the columns of the id, the label and, if the market has it, `label.known_at`.
        market: None: the store's. Another one may differ in the splits and in tables that do not affect the rows.
        out: Where to write the new store; None: it replaces the old one.
        quarantine: A file for rows of the logs that break a rule. Without it such rows are an error.
        refit_encoder: Fit the encoder on the training rows of the new store, as `prepare` does. Otherwise it stays.
        progress: Reports long work.
        workers: Work on parts of the rows.

    Raises:
        DataError: For rows that cannot be used, earlier payments, or payments that differ from those of the store.
        StoreError: For another market, or if the store changed meanwhile.
        ConfigError: If an output is an input, or nothing is given to append.
    """
    source, target = (object_url(name) or Path(name) for name in (store, out or store))
    names, outcome_files = log_names(logs), log_names(outcomes)
    if not names and not outcome_files:
        raise ConfigError("append needs a log or a file of outcomes (got neither)")
    inputs: list[str | Path | None] = [*names, *outcome_files, *([] if target == source else [source])]
    check_outputs(
        inputs,
        files={"quarantine": quarantine_path(quarantine)},
        replaced={"out": target if isinstance(target, Path) else None},
    )
    before, old = manifest_sha256(store), EventStore.open(store)
    market = _market_for(old, market)
    with tempfile.TemporaryDirectory(prefix=".append-", suffix=".new", dir=_parent(target, old)) as name:
        workers = replace(workers, folder=Path(name))
        new = _read(old, market, names, outcome_files, quarantine, workers, refit_encoder=refit_encoder)
        if not (new.payments or len(new.outcomes) or market.fingerprint != old.market.fingerprint or target != source):
            logger.info("%s has all of it already", source)
            return _result(old, new)
        with new_store(target) as made:
            new.write(made / ROWS)
            write_store(
                market,
                made.absolute(),
                new.report(),
                encoder=None if refit_encoder else old.encoder,
                with_splits=bool(old.manifest["splits"]),
                encoded=None if refit_encoder else _encoded(old),
                progress=progress,
                workers=workers,
            )
            if manifest_sha256(store) != before:
                raise StoreError(f"{source} was changed by another program meanwhile: append again")
    return _result(EventStore.open(target), new)


def _parent(target: Path | str, old: EventStore) -> Path:
    """The folder for temporary files: that of the new store, or for a URL that of the copy of the old one."""
    if not isinstance(target, Path):
        return old.path.absolute().parent
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    return target.absolute().parent


def _result(store: EventStore, new: NewRows) -> Appended:
    return Appended(
        store=store,
        payments=new.payments,
        outcomes=len(new.outcomes),
        repeated=new.repeated,
        unmatched=new.unmatched,
    )


def _market_for(old: EventStore, market: Market | None) -> Market:
    """The market to use. Raises StoreError if payments of the store would be read otherwise."""
    own = old.market
    if own.wire is not None:
        raise StoreError(
            f"{old.path} holds rows that carry their own history, which cannot be appended to: prepare all files again"
        )
    if own.event.id == ROW_ID:
        raise StoreError(
            f"{old.path} has ids made of the names of all files (event.id = {ROW_ID!r}), which more files may change: "
            "prepare all files again, or name a column with ids"
        )
    if market is None:
        return own
    one, other = (
        {key: value for key, value in market.to_dict().items() if key not in MAY_DIFFER} for market in (own, market)
    )
    if keys := differing_keys(one, other):
        what = f"{old.path} was made for another market (store, then market given: {keys})"
        raise StoreError(f"{what}: prepare all logs again for it")
    return market


def _read(
    old: EventStore,
    market: Market,
    logs: Sequence[str],
    outcomes: Sequence[str],
    quarantine: QuarantineLike,
    workers: Workers,
    *,
    refit_encoder: bool,
) -> NewRows:
    types = old.clean.collect_schema()
    clean = None
    if logs:
        assert workers.folder is not None
        checked = Quarantine.of(quarantine)
        clean = read_log(
            market,
            logs,
            workers.folder / ROWS,
            quarantine=checked,
            domains=None if refit_encoder else old.encoder.domains,
            may_be_integers=frozenset(name for name, dtype in types.items() if dtype.is_integer()),
            workers=workers,
        )
        refuse_other_types(types, clean.path)
    return match_rows(old, market, clean, outcomes)


def _encoded(old: EventStore) -> Encoded:
    names = (*old.encoder.columns, "tokens", "raw_numerical")
    rates = old.data_report["unknown_rates"]
    return Encoded(
        arrays={name: getattr(old, name) for name in names},
        unknown={name: round(rate * len(old)) for name, rate in rates.items()},
    )
