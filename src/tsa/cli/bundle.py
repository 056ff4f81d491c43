"""Commands about bundles: `tsa bundle show | pack | decide | diff | keygen | sign | verify`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from tsa.cli.app import Quiet, app, log_path_for
from tsa.cli.console import command_session, console, print_line
from tsa.cli.score import BundleFolder
from tsa.errors import ConfigError
from tsa.files.outputs import check_outputs

bundles = typer.Typer(no_args_is_help=True, help="Show, pack, sign, verify and compare bundles.")
app.add_typer(bundles, name="bundle")

Log = Annotated[list[str] | None, typer.Argument(help="A log to see how scores move on.", show_default=False)]


@bundles.command()
def show(bundle: BundleFolder) -> None:
    """Check a bundle and print its model card, its files and who signed it."""
    from rich.markdown import Markdown

    from tsa.bundle.bundle import Bundle
    from tsa.bundle.model_card import model_card
    from tsa.bundle.signing import read_bundle, signer_of

    opened, (contents, _) = Bundle.open(bundle), read_bundle(bundle)
    console.print(Markdown(model_card(opened)))
    table = Table("file", "bytes", box=SIMPLE_HEAD)
    for name in sorted(contents):
        table.add_row(name, f"{len(contents[name]):,}")
    console.print(table)
    signer = signer_of(contents)
    print_line(f"sha256: {opened.sha256}")
    print_line(f"signed with the key {signer} (unchecked: tsa bundle verify)" if signer else "not signed")


@bundles.command()
def pack(
    bundle: BundleFolder,
    out: Annotated[Path, typer.Option("--out", help="A folder, or a file that ends in .tar.gz.", show_default=False)],
    sagemaker: Annotated[bool, typer.Option("--sagemaker", help="As SageMaker's model.tar.gz, with its code.")] = False,
    wheel: Annotated[
        Path | None,
        typer.Option(help="With --sagemaker: a wheel of this package to go along, where no index has it."),
    ] = None,
) -> None:
    """Copy a bundle, checked, into one file or into a folder. A signature stays with it."""
    from tsa.bundle.archive import ENDS

    kind = "files" if out.name.endswith(ENDS) else "replaced"
    check_outputs([bundle, wheel], **{kind: {"--out": out}})
    if sagemaker:
        from tsa.integrations.sagemaker.packing import pack_for_sagemaker

        print_line(f"{out}: {pack_for_sagemaker(bundle, out, wheel)} files")
        return
    if wheel is not None:
        raise ConfigError("--wheel goes with --sagemaker alone")
    from tsa.bundle.archive import write_contents
    from tsa.bundle.bundle import Bundle
    from tsa.bundle.signing import read_bundle

    Bundle.open(bundle)
    contents, _ = read_bundle(bundle)
    write_contents(contents, out)
    print_line(f"{out}: {len(contents)} files")


@bundles.command("set-thresholds")
def set_thresholds(
    bundle: BundleFolder,
    threshold: Annotated[
        list[str], typer.Option(help="NAME=LIMIT: decided from this score on, such as review=0.98. Repeatable.")
    ],
    score: Annotated[str, typer.Option(help="raw_score, percentile or probability.")] = "percentile",
    default: Annotated[str, typer.Option(help="The decision below all limits.")] = "accept",
) -> None:
    """Write into a bundle what is to be decided from which score on; the endpoint then says so with each score."""
    from tsa.bundle.bundle import set_decision_policy

    made = set_decision_policy(bundle, threshold, score=score, otherwise=default)
    limits = ", ".join(f"{found.name} from {found.at_least:g} on" for found in made.decisions)
    print_line(f"{bundle}: by {made.score}: {limits}, else {made.default}")


@bundles.command()
def diff(
    one: BundleFolder,
    other: BundleFolder,
    log: Log = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write all of it to this JSON file.")] = None,
    quiet: Quiet = False,
) -> None:
    """Say what changed from one bundle to another, and, given a log, how its payments' scores move."""
    from tsa.evaluation.bundle_diff import diff_paths
    from tsa.files.writing import need_suffix, write_json

    check_outputs([one, other, *(log or [])], files={"--out": out, "its log file": log_path_for(other)})
    if out is not None:
        need_suffix("--out", out, ".json")
    with command_session(quiet, log_path_for(other)) as bars:
        found = diff_paths(one, other, log or None, bars)
    if out is not None:
        write_json(out, found)
    print_diff(found)


def print_diff(found: Mapping[str, Any]) -> None:
    """The differences, a table per kind."""
    for name in ("schema", "scaling", "model", "training"):
        print_line(f"{name}: " + ("; ".join(found[name]) if found[name] else "the same"))
    for feature, values in found["vocabulary"].items():
        print_line(
            f"vocabulary {feature}: {len(values['added'])} added, {len(values['removed'])} removed, {values['kept']} kept"
        )
    weights = found["weights"]
    largest = ", ".join(f"{name} {value:.2g}" for name, value in list(weights["relative"].items())[:5])
    alone = f", {len(weights['of_one_alone'])} in one alone" if weights["of_one_alone"] else ""
    changed = f"weights: {weights['changed']} tensors changed{alone}" + (f", most: {largest}" if largest else "")
    print_line("weights: the same" if weights["equal"] else changed)
    methods = " → ".join(method or "none" for method in found["calibration"]["methods"])
    print_line(
        "calibration: " + ("the same" if found["calibration"]["equal"] else f"another, probabilities by {methods}")
    )
    print_line("thresholds: " + ("; ".join(found["thresholds"]) if found["thresholds"] else "the same"))
    if found["metrics"]:
        table = Table("metric", "one", "other", box=SIMPLE_HEAD)
        for name, values in found["metrics"].items():
            table.add_row(name, *("–" if value is None else f"{value:.4f}" for value in values.values()))
        console.print(table)
    if "scores" in found:
        print_movement(found["scores"])


def print_movement(moved: Mapping[str, Any]) -> None:
    """How scores move."""
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


@bundles.command()
def keygen(
    private: Annotated[Path, typer.Option(help="File for the private key; only its owner can read it.")],
    public: Annotated[Path, typer.Option(help="File for the public key.")],
) -> None:
    """Make a pair of Ed25519 keys to sign bundles with."""
    from tsa.bundle.signing import make_keys

    check_outputs([], files={"--private": private, "--public": public})
    make_keys(private, public)
    print_line(f"{private} signs, {public} verifies")


@bundles.command()
def sign(bundle: BundleFolder, key: Annotated[Path, typer.Option(help="The private key.", show_default=False)]) -> None:
    """Sign a bundle: from then on `verify` tells whether one byte of it was changed, and by whom it was made."""
    from tsa.bundle.signing import sign as sign_bundle

    print_line(f"{bundle}: signed with the key {sign_bundle(bundle, key.read_bytes())}")


@bundles.command()
def verify(
    bundle: BundleFolder,
    key: Annotated[Path | None, typer.Option(help="The public key that it must be signed with.")] = None,
) -> None:
    """Check every byte of a bundle, and, given a key, its signature. Exit code 2 and one sentence where it is not sound."""
    from tsa.bundle.bundle import Bundle
    from tsa.bundle.signing import verify as verify_bundle

    opened = Bundle.open(bundle)
    if key is None:
        print_line(f"{bundle}: whole ({opened.sha256}); its signature was not asked for (--key)")
    else:
        print_line(f"{bundle}: whole, and signed with the key {verify_bundle(bundle, key.read_bytes())}")
