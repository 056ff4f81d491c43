"""Commands on bundles: `tsa bundle show | pack | set-thresholds | diff | keygen | sign | verify`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from tsa.cli.app import Logs, Quiet, app, log_path_for
from tsa.cli.console import command_session, console, print_line
from tsa.cli.groups import make_group
from tsa.cli.score import BundleFolder
from tsa.cli.terminal.results import result
from tsa.errors import ConfigError
from tsa.files.outputs import check_outputs

bundles = make_group("Show, pack, sign, verify and compare bundles.")
app.add_typer(bundles, name="bundle")

Log = Annotated[list[str] | None, typer.Argument(help="A log on which to compare the scores.", show_default=False)]


@bundles.command()
def show(bundle: BundleFolder) -> None:
    """Check a bundle and print its model card, its files and who signed it."""
    from rich.markdown import Markdown

    from tsa.bundle.bundle import Bundle
    from tsa.bundle.model_card import model_card
    from tsa.bundle.signing import read_bundle, signer_of

    opened, (contents, _) = Bundle.open(bundle), read_bundle(bundle)
    signer = signer_of(contents)
    result(
        {
            **{"bundle": str(bundle), "sha256": opened.sha256, "signed_by": signer, "market": opened.market.name},
            **{"files": {name: len(contents[name]) for name in sorted(contents)}, "metrics": opened.metrics},
            **{"model": opened.config.to_dict(), "training": opened.training, "choice": opened.choice},
        }
    )
    console.print(Markdown(model_card(opened)))
    table = Table("file", "bytes", box=SIMPLE_HEAD)
    for name in sorted(contents):
        table.add_row(name, f"{len(contents[name]):,}")
    console.print(table)
    print_line(f"sha256: {opened.sha256}")
    print_line(f"signed with the key {signer} (unchecked: tsa bundle verify)" if signer else "not signed")


@bundles.command()
def pack(
    bundle: BundleFolder,
    out: Annotated[Path, typer.Option("--out", help="A folder, or a file that ends in .tar.gz.", show_default=False)],
    sagemaker: Annotated[
        bool, typer.Option("--sagemaker", help="Write SageMaker's model.tar.gz, which also contains code.")
    ] = False,
    wheel: Annotated[
        Path | None,
        typer.Option(help="With --sagemaker: a wheel of this package to include, if no package index has it."),
    ] = None,
) -> None:
    """Check a bundle and copy it, with its signature, into one file or a folder."""
    from tsa.bundle.archive import ENDS

    kind = "files" if out.name.endswith(ENDS) else "replaced"
    check_outputs([bundle, wheel], **{kind: {"--out": out}})
    if sagemaker:
        from tsa.integrations.sagemaker.packing import pack_for_sagemaker

        count = pack_for_sagemaker(bundle, out, wheel)
        result({"out": str(out), "files": count})
        print_line(f"{out}: {count} files")
        return
    if wheel is not None:
        raise ConfigError("--wheel needs --sagemaker")
    from tsa.bundle.archive import write_contents
    from tsa.bundle.bundle import Bundle
    from tsa.bundle.signing import read_bundle

    Bundle.open(bundle)
    contents, _ = read_bundle(bundle)
    write_contents(contents, out)
    result({"out": str(out), "files": len(contents)})
    print_line(f"{out}: {len(contents)} files")


@bundles.command("set-thresholds")
def set_thresholds(
    bundle: BundleFolder,
    threshold: Annotated[
        list[str], typer.Option(help="NAME=LIMIT: the decision from this score on, such as review=0.98. Repeatable.")
    ],
    score: Annotated[str, typer.Option(help="raw_score, percentile or probability.")] = "percentile",
    default: Annotated[str, typer.Option(help="The decision below all thresholds.")] = "accept",
) -> None:
    """Store decision thresholds in a bundle; the endpoint returns the decision with each score."""
    from tsa.bundle.bundle import set_decision_policy

    policy = set_decision_policy(bundle, threshold, score=score, otherwise=default)
    result({"bundle": str(bundle), **policy.to_dict()})
    limits = ", ".join(f"{decision.name} from {decision.at_least:g} on" for decision in policy.decisions)
    print_line(f"{bundle}: by {policy.score}: {limits}, else {policy.default}")


@bundles.command()
def diff(
    one: BundleFolder,
    other: BundleFolder,
    log: Log = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write all differences to this JSON file.")] = None,
    quiet: Quiet = False,
) -> None:
    """Show the differences between two bundles and, given a log, between their scores of its payments."""
    from tsa.evaluation.bundle_diff import diff_paths
    from tsa.files.writing import need_suffix, write_json

    check_outputs([one, other, *(log or [])], files={"--out": out, "its log file": log_path_for(other)})
    if out is not None:
        need_suffix("--out", out, ".json")
    with command_session(quiet, log_path_for(other)) as bars:
        differences = diff_paths(one, other, log or None, bars)
    if out is not None:
        write_json(out, differences)
    result(differences)
    print_diff(differences)


def print_diff(differences: Mapping[str, Any]) -> None:
    """Print the differences by kind."""
    for name in ("schema", "scaling", "model", "training"):
        print_line(f"{name}: " + ("; ".join(differences[name]) if differences[name] else "the same"))
    for feature, values in differences["vocabulary"].items():
        print_line(
            f"vocabulary {feature}: {len(values['added'])} added, {len(values['removed'])} removed, {values['unchanged']} unchanged"
        )
    weights = differences["weights"]
    largest = ", ".join(f"{name} {value:.2g}" for name, value in list(weights["relative"].items())[:5])
    alone = f", {len(weights['of_one_alone'])} in one alone" if weights["of_one_alone"] else ""
    changed = f"weights: {weights['changed']} tensors changed{alone}" + (f", most: {largest}" if largest else "")
    print_line("weights: the same" if weights["equal"] else changed)
    print_line("trees and weights of the parts: " + ("; ".join(differences["parts"]) or "the same"))
    calibration, thresholds = differences["calibration"], differences["thresholds"]
    methods = " → ".join(method or "none" for method in calibration["methods"])
    print_line("calibration: " + ("the same" if calibration["equal"] else f"different, probabilities by {methods}"))
    print_line("thresholds: " + ("; ".join(thresholds) if thresholds else "the same"))
    if differences["metrics"]:
        table = Table("metric", "one", "other", box=SIMPLE_HEAD)
        for name, values in differences["metrics"].items():
            table.add_row(name, *("–" if value is None else f"{value:.4f}" for value in values.values()))
        console.print(table)
    if "scores" in differences:
        print_movement(differences["scores"])
    if "outcomes" in differences:
        print_comparison(differences["outcomes"])


def print_movement(moved: Mapping[str, Any]) -> None:
    """Print how the scores differ."""
    correlation = moved["rank_correlation"]
    shown = "–" if correlation is None else f"{correlation:.4f}"
    overlap = ", ".join(f"{share:.1%} of the top {name}" for name, share in moved["top_overlap"].items())
    print_line(
        f"scores of {moved['n']:,} payments: rank correlation {shown}, PSI {moved['psi']:.4f}; agreed on {overlap}"
    )
    table = Table("payment", "one", "other", title="moved most", box=SIMPLE_HEAD)
    for row in moved["moved_most"]:
        table.add_row(str(row["id"]), f"{row['one']:.4f}", f"{row['other']:.4f}")
    console.print(table)


@app.command("compare-bundles")
def compare_bundles(
    a: BundleFolder,
    b: BundleFolder,
    logs: Logs,
    start: Annotated[
        str | None, typer.Option("--from", help="Compare payments from this time on, such as 2025-04-16; UTC.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Compare payments before this time.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the comparison to this JSON file.")] = None,
    replicates: Annotated[int, typer.Option(help="Bootstrap samples for the intervals.")] = 200,
    quiet: Quiet = False,
) -> None:
    """Compare two bundles on the same payments with known outcomes: metrics, intervals of their difference, decisions.

    Histories are built from the complete log, so include earlier payments and use --from. Use payments that neither
    bundle was trained on.
    """
    from tsa.evaluation.compare_bundles import compare_bundles as compare
    from tsa.files.writing import need_suffix, write_json

    check_outputs([a, b, *logs], files={"--out": out, "its log file": log_path_for(b)})
    if out is not None:
        need_suffix("--out", out, ".json")
    with command_session(quiet, log_path_for(b)) as bars:
        compared = compare(a, b, logs, start=start, end=end, replicates=replicates, progress=bars)
    if out is not None:
        write_json(out, compared)
    result(compared)
    print_comparison(compared)


def print_comparison(compared: Mapping[str, Any]) -> None:
    """Print which of two bundles is better on the payments of a log."""
    title = f"{compared['payments']:,} payments, {compared['frauds']:,} frauds"
    table = Table("metric", "A", "B", "difference", box=SIMPLE_HEAD, title=title)
    for name, values in compared["metrics"].items():
        shown = ("–" if values[key] is None else f"{values[key]:.3f}" for key in ("a", "b"))
        limits = "" if values["low"] is None else f" [{values['low']:+.3f}, {values['high']:+.3f}]"
        difference = "–" if values["difference"] is None else f"{values['difference']:+.3f}{limits}"
        table.add_row(name, *shown, difference)
    console.print(table)
    print_line(compared["summary"])
    print_line(f"PSI of the raw scores: {compared['psi']:.4f}")
    if compared["decisions"] is not None:
        decisions = Table("decision of A", "of B", "payments", "frauds", box=SIMPLE_HEAD)
        for row in compared["decisions"]:
            decisions.add_row(row["a"], row["b"], f"{row['payments']:,}", f"{row['frauds']:,}")
        console.print(decisions)
    for name, count in compared["only_in"].items():
        if count:
            print_line(f"left out: {count:,} payments that only {name.upper()} could use")
    for name, bundle in compared["bundles"].items():
        if bundle["note"]:
            print_line(f"warning: {name.upper()}: {bundle['note']}")


@bundles.command()
def keygen(
    private: Annotated[Path, typer.Option(help="File for the private key; only its owner can read it.")],
    public: Annotated[Path, typer.Option(help="File for the public key.")],
) -> None:
    """Create a pair of Ed25519 keys to sign bundles with."""
    from tsa.bundle.signing import make_keys

    check_outputs([], files={"--private": private, "--public": public})
    make_keys(private, public)
    result({"private": str(private), "public": str(public)})
    print_line(f"{private} signs, {public} verifies")


@bundles.command()
def sign(bundle: BundleFolder, key: Annotated[Path, typer.Option(help="The private key.", show_default=False)]) -> None:
    """Sign a bundle, so that `tsa bundle verify` detects any change and shows who signed it."""
    from tsa.bundle.signing import sign as sign_bundle

    signer = sign_bundle(bundle, key.read_bytes())
    result({"bundle": str(bundle), "signed_by": signer})
    print_line(f"{bundle}: signed with the key {signer}")


@bundles.command()
def verify(
    bundle: BundleFolder,
    key: Annotated[Path | None, typer.Option(help="The public key that it must be signed with.")] = None,
) -> None:
    """Check every byte of a bundle and, given a key, its signature. Exit code 2 if it is not valid."""
    from tsa.bundle.bundle import Bundle
    from tsa.bundle.signing import verify as verify_bundle

    opened = Bundle.open(bundle)
    signer = None if key is None else verify_bundle(bundle, key.read_bytes())
    result({"bundle": str(bundle), "sha256": opened.sha256, "valid": True, "signed_by": signer})
    if signer is None:
        print_line(f"{bundle}: valid ({opened.sha256}); signature not checked (use --key)")
    else:
        print_line(f"{bundle}: valid, signed with the key {signer}")
