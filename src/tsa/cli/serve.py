"""The command that serves a bundle over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tsa.cli.app import MarketSets, app
from tsa.cli.history import AllowEviction
from tsa.cli.score import BundleFolder
from tsa.files.outputs import check_outputs


@app.command()
def serve(
    bundle: BundleFolder,
    history: Annotated[
        str | None,
        typer.Option(
            envvar="TSA_HISTORY",
            help="Where histories are kept: sqlite:///FILE or redis://HOST:PORT/0.",
            show_default=False,
        ),
    ] = None,
    new_store: Annotated[
        bool,
        typer.Option(
            "--new-store", envvar="TSA_NEW_STORE", help="Start with an empty history store where there is none yet."
        ),
    ] = False,
    allow_eviction: AllowEviction = False,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8080,
    workers: Annotated[int, typer.Option(help="Processes; they share the history store.")] = 1,
    engine: Annotated[str, typer.Option(help="torch, onnxruntime, or auto: the latter where it can be.")] = "auto",
    precision: Annotated[str, typer.Option(help="float32, bf16 or int8.")] = "float32",
    threads: Annotated[int, typer.Option(help="Threads of the model in each worker.")] = 1,
    shadow: Annotated[
        Path | None, typer.Option(help="A second bundle that scores the same payments, unseen.", show_default=False)
    ] = None,
    shadow_file: Annotated[
        Path | None, typer.Option(help="JSON lines with the shadow's differences.", show_default=False)
    ] = None,
    max_batch: Annotated[int, typer.Option(help="Payments that the model takes at a time.")] = 32,
    batch_wait_ms: Annotated[float, typer.Option(help="How long a batch that is not full waits for more.")] = 0.0,
    max_queue: Annotated[int, typer.Option(help="Payments that may wait; more are refused with 429.")] = 64,
    max_queue_wait_ms: Annotated[
        float, typer.Option(help="How long the first of a whole batch may wait before more are refused with 429.")
    ] = 100.0,
    max_list: Annotated[int, typer.Option(help="Payments in a request.")] = 1000,
    max_bytes: Annotated[int, typer.Option(help="Bytes of a request's body.")] = 4 * 2**20,
    rate: Annotated[
        float | None, typer.Option(help="Payments a second that one client may send.", show_default=False)
    ] = None,
    token_env: Annotated[
        list[str] | None, typer.Option(help="An environment variable with a token that may score. Repeatable.")
    ] = None,
    token_file: Annotated[
        list[Path] | None, typer.Option(help="A file of such tokens, one a line. Repeatable.")
    ] = None,
    admin_token_env: Annotated[
        list[str] | None, typer.Option(help="An environment variable with a token that may reload. Repeatable.")
    ] = None,
    admin_token_file: Annotated[list[Path] | None, typer.Option(help="A file of such tokens. Repeatable.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM file for TLS.", show_default=False)] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file with its key.", show_default=False)] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="PEM file: clients must show a certificate of these.", show_default=False)
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="PEM file: serve only bundles that its private key signed.", show_default=False)
    ] = None,
    drain_seconds: Annotated[
        float, typer.Option(help="Seconds of saying 503 after SIGTERM before the socket closes.")
    ] = 1.0,
    set_: MarketSets = None,
) -> None:
    """Serve a bundle over HTTP: POST /v1/score, SageMaker's routes, the Open Inference Protocol, /metrics, a page at /.

    BUNDLE may be a link: when it comes to point at another bundle, that one is taken over without a pause. SIGTERM ends the
    server once what it accepted is answered. docs/serving.md has the rest.
    """
    from tsa.serving import run
    from tsa.serving.settings import ServeSettings

    secrets = [*(token_file or []), *(admin_token_file or []), certificate, key, client_ca, public_key]
    check_outputs([bundle, shadow, *secrets], files={"--shadow-file": shadow_file})
    run(
        ServeSettings(
            bundle=bundle,
            history=history,
            new_store=new_store,
            allow_eviction=allow_eviction,
            overrides=tuple(set_ or ()),
            public_key=public_key,
            host=host,
            port=port,
            workers=workers,
            engine=engine,
            precision=precision,
            threads=threads,
            shadow=shadow,
            shadow_file=shadow_file,
            max_batch=max_batch,
            batch_wait_ms=batch_wait_ms,
            max_queue=max_queue,
            max_queue_wait_ms=max_queue_wait_ms,
            max_list=max_list,
            max_bytes=max_bytes,
            rate=rate,
            token_env=tuple(token_env or ()),
            token_files=tuple(token_file or ()),
            admin_token_env=tuple(admin_token_env or ()),
            admin_token_files=tuple(admin_token_file or ()),
            ssl_certificate=certificate,
            ssl_key=key,
            ssl_client_ca=client_ca,
            drain_seconds=drain_seconds,
        )
    )
