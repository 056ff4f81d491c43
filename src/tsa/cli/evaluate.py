"""The commands `tsa evaluate`, `calibrate`, `compare` and `thresholds`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tsa.cli.app import (
    AmountColumn,
    CostFraud,
    CostReview,
    EvaluationSets,
    Executor,
    Logs,
    MarketSets,
    Quarantine,
    QuarantineLimit,
    Quiet,
    RayAddress,
    Recovered,
    RunFolder,
    app,
    cluster_of,
    log_path_for,
    need_ray,
    quarantine_of,
)
from tsa.cli.console import command_session, print_line
from tsa.cli.score import BundleFolder
from tsa.cli.terminal.metric_tables import print_metrics, print_thresholds
from tsa.cli.terminal.results import result
from tsa.errors import ConfigError
from tsa.files.outputs import check_outputs


@app.command()
def evaluate(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|BUNDLE", help="A run folder; or, with --log, a bundle (folder or .tar.gz).", show_default=False
        ),
    ],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="LOG", help="Further logs, after --log.", show_default=False)
    ] = None,
    log: Annotated[
        list[str] | None,
        typer.Option(help="Evaluate the bundle on this log, whose outcomes are known. Repeatable.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="With --log: the folder to write into; default: evaluation.", show_default=False),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", help="With --log: evaluate payments from this time on, such as 2025-04-16; UTC."),
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="With --log: evaluate payments before this time.")] = None,
    quarantine: Quarantine = None,
    quarantine_limit: QuarantineLimit = None,
    segment: Annotated[
        list[str] | None, typer.Option(help="A column to break the metrics down by. Repeatable.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Payments with at least this raw score count as flagged. Default: the threshold with the best F1 on validation. "
            "With --log: the one that the bundle was evaluated at, or 0.5 if it has none.",
            show_default=False,
        ),
    ] = None,
    replicates: Annotated[int, typer.Option(help="Bootstrap samples for the intervals.")] = 200,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Override the run's market: evaluation.KEY=VALUE; with --log any key of the bundle's market. Repeatable.",
            show_default=False,
        ),
    ] = None,
    unfinished: Annotated[
        bool,
        typer.Option(
            "--unfinished", help="Evaluate a stopped run as it is: its best epoch so far. It can still be resumed."
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a run on its test range with confidence intervals; write report.html and report.json.

    Give RUN alone, or BUNDLE --log LOG [LOG...]: that evaluates a bundle, also an imported one, on any log whose outcomes
    are known. Histories are built from the complete log, so include earlier payments and use --from. The bundle is not
    changed.
    """
    quarantine_target = quarantine_of(quarantine, quarantine_limit)
    if unfinished and (log or more):
        raise ConfigError("--unfinished must go with a run folder, not with --log, which evaluates a bundle (got both)")
    if log or more:
        bundle = run / "bundle" if (run / "run.json").is_file() else run
        folder = out or Path("evaluation")
        _evaluate_on_log(
            bundle,
            [*(log or []), *(more or [])],
            folder,
            quiet,
            start=start,
            end=end,
            quarantine=quarantine_target,
            segments=segment or [],
            threshold=threshold,
            replicates=replicates,
            overrides=set_ or [],
        )
        return
    given = {"--out": out, "--from": start, "--to": end, "--quarantine": quarantine}
    if alone := [name for name, value in given.items() if value is not None]:
        raise ConfigError(f"{', '.join(alone)} must go with --log (got no --log)")
    from tsa.bundle.archive import is_archive
    from tsa.bundle.manifest import WEIGHTS

    if is_archive(run) or (run / WEIGHTS).is_file():
        raise ConfigError(f"a bundle must be evaluated on a log (got no --log): tsa evaluate {run} --log LOG")
    from tsa.evaluation.evaluate import evaluate as evaluate_run
    from tsa.evaluation.trained_run import TrainedRun

    if unfinished:
        _evaluate_unfinished(
            run, quiet, overrides=set_ or [], segments=segment or [], threshold=threshold, replicates=replicates
        )
        return
    opened = TrainedRun.open(run, set_ or ())
    with command_session(quiet, run / "evaluate.log") as bars:
        report = evaluate_run(opened, segments=segment or [], threshold=threshold, replicates=replicates, progress=bars)
    result({"out": str(run), "report": report})
    print_metrics(report)
    print_line(f"report: {run / 'report.html'}")


def _evaluate_unfinished(run: Path, quiet: bool, **settings: Any) -> None:
    from tsa.training.evaluate_and_bundle import measure_trained, trained_so_far

    if not run.is_dir():
        raise ConfigError(f"{run} must be the folder of a run, but is no folder")
    with command_session(quiet, run / "evaluate.log") as bars:
        trained = trained_so_far(run, progress=bars)
        report = measure_trained(trained, comparison=False, progress=bars, **settings)
    result({"out": str(run), "report": report, "outlook": trained.metadata["outlook"]})
    print_metrics(report)
    print_line(str(trained.metadata["outlook"]))
    print_line(f"report: {run / 'report.html'}")


def _evaluate_on_log(bundle: Path, logs: list[str], out: Path, quiet: bool, **settings: Any) -> None:
    from tsa.evaluation.evaluate_log import WRITTEN, evaluate_bundle

    quarantine = settings["quarantine"]
    files = {
        "--quarantine": None if quarantine is None else quarantine.path,
        **{f"--out, {name}": out / name for name in WRITTEN},
    }
    check_outputs([bundle, *logs], files=files, into={"--out": out})
    with command_session(quiet, out / "evaluate.log") as bars:
        report = evaluate_bundle(bundle, logs, out, progress=bars, **settings)
    result({"out": str(out), "report": report})
    print_metrics(report)
    print_line(f"report: {out / 'report.html'}")


@app.command()
def calibrate(
    bundle: BundleFolder,
    logs: Logs,
    out: Annotated[
        Path,
        typer.Option("--out", help="The bundle to write, a folder or a file that ends in .tar.gz.", show_default=False),
    ],
    method: Annotated[
        str, typer.Option(help="Method for the probabilities: bspline, isotonic, platt or beta.")
    ] = "bspline",
    start: Annotated[
        str | None, typer.Option("--from", help="Fit to payments from this time on, such as 2025-04-16; UTC.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Fit to payments before this time.")] = None,
    quarantine: Quarantine = None,
    quarantine_limit: QuarantineLimit = None,
    set_: MarketSets = None,
    quiet: Quiet = False,
) -> None:
    """Refit a bundle's percentiles and probabilities on a log whose outcomes are known; write a new bundle.

    The network does not change, and the given bundle is not modified. Percentiles use all payments, probabilities those with
    a known outcome: at least 1,000 with 10 frauds. Use payments that the network was not trained on.
    Histories are built from the complete log, so include earlier payments and use --from.
    """
    from tsa.bundle.archive import ENDS
    from tsa.inference.recalibrate import calibrate_bundle

    kind = "files" if out.name.endswith(ENDS) else "replaced"
    side_files: dict[str, str | Path | None] = {"--quarantine": quarantine, "its log file": log_path_for(out)}
    outputs = {"files": side_files, kind: {**(side_files if kind == "files" else {}), "--out": out}}
    check_outputs([bundle, *logs], **outputs)
    quarantine_target = quarantine_of(quarantine, quarantine_limit)
    with command_session(quiet, log_path_for(out)) as bars:
        calibrated = calibrate_bundle(
            bundle,
            logs,
            out,
            method=method,
            start=start,
            end=end,
            quarantine=quarantine_target,
            overrides=set_ or (),
            progress=bars,
        )
    assert calibrated.calibration is not None
    counts = calibrated.calibration.counts
    result({"out": str(out), "method": method, **counts})
    labelled, frauds = counts["labelled"], counts["frauds"]
    print_line(
        f"{out}: percentiles of {counts['payments']:,} payments, {method} of {labelled:,} with a known outcome, {frauds:,} frauds"
    )


@app.command()
def compare(
    run: RunFolder,
    seed: Annotated[int, typer.Option(help="Seed of LightGBM.")] = 0,
    replicates: Annotated[int, typer.Option(help="Bootstrap samples for the intervals.")] = 200,
    executor: Annotated[
        Executor,
        typer.Option(
            help="Who computes the features: local, this process; ray, the workers of a Ray cluster, whose nodes must see the "
            "store. LightGBM is trained here."
        ),
    ] = Executor.LOCAL,
    ray_address: RayAddress = None,
    set_: EvaluationSets = None,
    quiet: Quiet = False,
) -> None:
    """Train LightGBM on the same rows with automatic aggregate features and report which model is better."""
    from tsa.evaluation.evaluate import compare_run
    from tsa.evaluation.trained_run import TrainedRun, read_report

    need_ray(executor, ray_address)
    opened = TrainedRun.open(run, set_ or ())
    with command_session(quiet, run / "compare.log") as bars, cluster_of(executor, ray_address) as cluster:
        comparison = compare_run(opened, seed=seed, replicates=replicates, cluster=cluster, progress=bars)
    result({"out": str(run), "comparison": comparison})
    print_metrics({**read_report(run), "comparison": comparison})


@app.command()
def thresholds(
    run: RunFolder,
    cost_review: CostReview = 5.0,
    review_capacity: Annotated[
        int | None,
        typer.Option(help="Reviews per day that the team can do; default: as many as pay off.", show_default=False),
    ] = None,
    amount_column: AmountColumn = None,
    cost_fraud: CostFraud = None,
    recovered: Recovered = 1.0,
    cost_false_decline: Annotated[
        float | None,
        typer.Option(
            help="Cost of declining a genuine payment: chooses a decline threshold together with the review threshold.",
            show_default=False,
        ),
    ] = None,
    save: Annotated[
        bool,
        typer.Option(
            "--save",
            help="Store the best threshold in the bundle: from this score on, the decision is review. With "
            "--cost-false-decline: both thresholds.",
        ),
    ] = False,
    replicates: Annotated[int, typer.Option(help="Bootstrap samples for the interval.")] = 200,
    set_: EvaluationSets = None,
    quiet: Quiet = False,
) -> None:
    """Choose a review threshold: what each threshold catches, costs and saves on the test range, and the best one.

    Each day the team reviews the flagged payments, the riskiest first, until its capacity is used up. Writes
    thresholds.html and thresholds.json next to the report; the run must be evaluated first.
    """
    from tsa.evaluation.daily_queue import Costs
    from tsa.evaluation.report.thresholds import thresholds as choose
    from tsa.evaluation.trained_run import TrainedRun

    costs = Costs(
        review=cost_review,
        capacity=review_capacity,
        fraud=cost_fraud,
        recovered=recovered,
        false_decline=cost_false_decline,
    )
    opened = TrainedRun.open(run, set_ or ())
    with command_session(quiet, run / "thresholds.log"):
        chosen = choose(opened, costs, amount_column=amount_column, replicates=replicates)
    result({"out": str(run), "saved": save, **chosen})
    print_thresholds(chosen)
    for sentence in (chosen["summary"], chosen["policy_summary"], chosen["keys_summary"]):
        if sentence:
            print_line(sentence)
    if save:
        policy, best = chosen["policy"], chosen["best"]
        limits = {"review": None if best is None else best["threshold"]}
        if policy is not None:
            limits = {"review": policy["review"], "decline": policy["decline"]}
        save_decisions(run / "bundle", limits)
    print_line(f"page: {run / 'thresholds.html'}")


def save_decisions(bundle: Path, limits: Mapping[str, float | None]) -> None:
    """Store thresholds as the bundle's decisions, by name. Raises ConfigError if there is none."""
    from tsa.bundle.bundle import set_decision_policy

    given = {name: limit for name, limit in limits.items() if limit is not None}
    if not given:
        raise ConfigError("--save needs a best threshold, but no review pays at these costs")
    set_decision_policy(bundle, [f"{name}={limit!r}" for name, limit in given.items()], score="raw_score")
    for name, limit in given.items():
        print_line(f"{bundle}: {name} from a raw score of {limit:.6g} on")
