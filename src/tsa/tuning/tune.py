"""Hyper-parameter search with Optuna (Akiba et al. 2019) and its TPE sampler (Bergstra et al. 2011).

A search can be resumed: the choice of each trial depends only on the seed and the trials of earlier rounds. A round is one
trial, or several that may be trained at the same time.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import polars as pl

from tsa.errors import ConfigError, TrainingError
from tsa.files.locking import used_alone
from tsa.files.writing import atomic_file, write_text
from tsa.optional_libraries import need
from tsa.progress import Advance, Progress, silent
from tsa.scale.cluster import in_cluster
from tsa.tuning.search import Search, Settings, SharedSearch, acquire_folder
from tsa.tuning.space import SECTIONS, Choice, Range
from tsa.tuning.trial import PlannedTrial, TrialResult, read_result, run_in_cluster, run_trial

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

SECONDS = "seconds"
"""The attribute of a trial with the seconds that it took."""


@dataclass(frozen=True, kw_only=True)
class BestTrial:
    """The best trial: its number, its value and all settings that differ from the preset."""

    trial: int
    metric: str
    value: float
    settings: Settings
    tried: int


def tune(
    search: Search, out: str | Path, *, trials: int = 20, cluster: Any = None, progress: Progress = silent
) -> BestTrial:
    """Search until the folder `out` has `trials` trials, or resume a search. The first trial has the default settings.

    Writes `trials.csv`, and `best.toml` for `tsa train --settings`.

    Args:
        search: What is searched.
        out: The folder of the search.
        trials: Number of trials, those before an interruption included.
        cluster: A Ray cluster (`tsa.scale.cluster.ray_cluster`) whose workers train the trials of a round, one each, instead of
            this process. All nodes must see the store and `out`. The results are the same.
        progress: Reports progress.

    Raises:
        ConfigError: If the folder has other content or another search.
        TrainingError: If no trial was completed.
    """
    need("a search", "optuna", extra="tune")
    out = Path(out)
    if trials < 1:
        raise ConfigError(f"trials must be at least 1 (got {trials})")
    acquire_folder(search, out)
    with used_alone(out, "tsa tune"), progress("tuning", trials) as advance:
        study = _open(search, out)
        advance(min(len(_counted_trials(study)), trials))
        while (number := len(_counted_trials(study))) < trials:
            # rounds begin at the same trials, however many were asked for before
            count = min(search.round - number % search.round, trials - number)
            _run_round(search, study, count, out, cluster, progress, advance)
            _write(search, study, out)
        return _write(search, study, out) or _no_trial_completed(study)


def _run_round(
    search: Search, study: Study, count: int, out: Path, cluster: Any, progress: Progress, advance: Advance
) -> None:
    """Run the next `count` trials of a round. A trial that is pruned or cannot be trained counts.

    One that is stopped by a signal does not: the next search makes the same choices and resumes its training.
    """
    first = len(_counted_trials(study))
    start = first - first % search.round
    earlier = _counted_trials(study)[:start]
    chosen = _choose(search, earlier, range(start, first + count))[first - start :]
    curves = tuple(dict(trial.intermediate_values) for trial in earlier if trial.state.name == "COMPLETE")
    planned = [
        PlannedTrial(number=number, settings=trial.params, earlier=curves, folder=out / "trials" / f"{number:04}")
        for number, trial in enumerate(chosen, first)
    ]
    results: dict[int, TrialResult] = {}
    for at, result in _results(search, planned, cluster, progress):
        results[at] = result
        advance(1)
    for at, trial in enumerate(chosen):
        _add(study, trial, results[at])


def _choose(search: Search, earlier: Sequence[FrozenTrial], numbers: Sequence[int]) -> list[Trial]:
    """Choose the settings of a round's trials from the trials before it. Each choice is seeded by the number of the trial."""
    import optuna

    study = optuna.create_study(direction=search.direction)
    study.add_trials(earlier)
    chosen = []
    for number in numbers:
        seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
        if number == 0:
            study.enqueue_trial(search.default_settings)
        trial = study.ask()
        for key, entry in search.space.entries.items():
            _suggest(trial, key, entry)
        chosen.append(trial)
    return chosen


def _suggest(trial: Trial, key: str, entry: Range | Choice) -> None:
    if isinstance(entry, Choice):
        trial.suggest_categorical(key, list(entry.values))
    elif entry.is_integer:
        trial.suggest_int(key, int(entry.low), int(entry.high), log=entry.log)
    else:
        trial.suggest_float(key, entry.low, entry.high, log=entry.log)


def _results(
    search: Search, planned: Sequence[PlannedTrial], cluster: Any, progress: Progress
) -> Iterator[tuple[int, TrialResult]]:
    """The results of trials with their places, as they end."""
    if cluster is None:
        yield from ((at, run_trial(search, trial, progress)) for at, trial in enumerate(planned))
        return
    planned = [replace(trial, folder=trial.folder.resolve()) for trial in planned]
    for at, result in in_cluster(cluster, run_in_cluster, SharedSearch.of(search), planned):
        if read_result(planned[at]) is None:
            rule = f"{planned[at].folder.parent} must be a folder that all nodes of the cluster share"
            raise ConfigError(f"{rule} (a worker wrote a trial that is not there): use another folder")
        yield at, result


def _add(study: Study, trial: Trial, result: TrialResult) -> None:
    """Record a trial with its result. A pruned one has a value too, its last."""
    import optuna

    last = next(reversed(result.curve.values()), None)
    state = optuna.trial.TrialState.PRUNED if result.value is None else optuna.trial.TrialState.COMPLETE
    attributes = {SECONDS: result.seconds} | ({} if result.refused is None else {"refused": result.refused})
    study.add_trial(
        optuna.create_trial(
            state=state,
            value=last if result.value is None else result.value,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values=result.curve,
            user_attrs=attributes,
        )
    )


def _open(search: Search, out: Path) -> Study:
    """The study in the folder."""
    import optuna

    optuna.logging.disable_default_handler()
    # a connection instead of a URL, in which some characters of a path are not allowed
    connect = partial(sqlite3.connect, out / "study.db", check_same_thread=False)
    return optuna.create_study(
        study_name="tsa",
        storage=optuna.storages.RDBStorage("sqlite:///study.db", engine_kwargs={"creator": connect}),
        direction=search.direction,
        load_if_exists=True,
    )


def _counted_trials(study: Study) -> list[FrozenTrial]:
    """The trials that count, in order."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _best(search: Search, study: Study) -> BestTrial | None:
    """The best completed trial; None if there is none."""
    tried = _counted_trials(study)
    sign = 1 if search.higher_is_better else -1
    values = [trial.value if trial.state.name == "COMPLETE" else None for trial in tried]
    ended = [(sign * value, -number) for number, value in enumerate(values) if value is not None]
    if not ended:
        return None
    value, number = max(ended)  # of equal ones the first
    settings = {**search.fixed, **tried[-number].params}
    return BestTrial(trial=-number, metric=search.metric, value=sign * value, settings=settings, tried=len(tried))


def _no_trial_completed(study: Study) -> NoReturn:
    raise TrainingError(f"at least one trial must be completed (got none of {len(_counted_trials(study))})")


def _write(search: Search, study: Study, out: Path) -> BestTrial | None:
    """The table of all trials so far, and the preset of the best."""
    rows = [
        {
            "trial": number,
            "state": trial.state.name.lower(),
            search.metric: trial.value,
            "seconds": trial.user_attrs.get(SECONDS, trial.duration.total_seconds() if trial.duration else None),
            **trial.params,
            "refused": trial.user_attrs.get("refused"),
        }
        for number, trial in enumerate(_counted_trials(study))
    ]
    with atomic_file(out / "trials.csv") as temporary:
        pl.DataFrame(rows, infer_schema_length=None, strict=False).write_csv(temporary)
    if best := _best(search, study):
        write_text(out / "best.toml", _preset(search, best))
    return best


def _preset(search: Search, best: BestTrial) -> str:
    """The best settings as TOML, with the sections that `tsa train --settings` reads."""
    lines = [
        f"# The best of {best.tried} trials: number {best.trial}, {best.metric} {best.value:.5f}.",
        f"# Over the preset {search.preset}: tsa train STORE --preset {search.preset} --settings best.toml --out RUN",
    ]
    for section in SECTIONS:
        own = {key.partition(".")[2]: value for key, value in best.settings.items() if key.startswith(f"{section}.")}
        # JSON writes numbers, texts, truth values and lists of them as TOML reads them
        lines += ["", f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in sorted(own.items()))]
    return "\n".join(lines) + "\n"
