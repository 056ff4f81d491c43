"""The command `tsa doctor`."""

from __future__ import annotations

from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.table import Table

from tsa.cli.app import Quiet, app
from tsa.cli.console import command_session, console, print_line
from tsa.cli.terminal.results import result

GB = 2**30


@app.command()
def doctor(quiet: Quiet = False) -> None:
    """Show what this installation can do: versions, extras, processor, threads, and what is slow and why."""
    from tsa.installation import EXTRAS, examine

    with command_session(quiet, log=None) as bars, bars("looking at the installation", 1):
        this = examine()
    result(this.to_dict())
    versions = ", ".join(f"{name} {number or 'missing'}" for name, number in this.versions.items())
    print_line(f"Python {this.python} on {this.system}")
    print_line(versions)
    print_line(f"{this.processor}: {', '.join(this.flags) or 'no known extensions'}")
    threads = ", ".join(f"{name} {count}" for name, count in this.threads.items())
    print_line(
        f"{this.cores:g} of {this.cores_of_machine} cores; threads: {threads}; GPUs: {', '.join(this.gpus) or 'none'}"
    )
    memory = "unknown" if this.memory is None else f"{this.memory / GB:.1f} GB"
    print_line(f"memory: {memory}; free for temporary files: {this.free_disk / GB:.1f} GB")
    speeds = ", ".join(f"{speed:,.0f} with {name}" for name, speed in this.speed.items())
    print_line(f"matrix products, billions of operations a second: {speeds}")
    table = Table("extra", "what it is for", "installed", box=SIMPLE_HEAD, title="extras")
    for name, (purpose, _) in EXTRAS.items():
        missing = this.extras[name]
        table.add_row(name, purpose, "yes" if not missing else f"pip install 'tsa-fraud[{name}]'")
    console.print(table)
    table = Table("what is slow or missing", "why", "what to do", box=SIMPLE_HEAD)
    for finding in this.findings:
        table.add_row(*asdict(finding).values())
    console.print(table)
