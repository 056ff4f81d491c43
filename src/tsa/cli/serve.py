"""The `tsa serve` command."""

from __future__ import annotations

from typing import Any

from tsa.cli.app import MarketSets, app
from tsa.cli.options import options_of
from tsa.cli.score import BundleFolder
from tsa.files.outputs import check_outputs
from tsa.serving.settings import ServeSettings


@app.command()
@options_of(ServeSettings)
def serve(bundle: BundleFolder, set_: MarketSets = None, **values: Any) -> None:
    """Serve a bundle over HTTP: POST /v1/score, SageMaker's routes, the Open Inference Protocol, /metrics, a page at /.

    BUNDLE may be a link: when the link changes, the new bundle is loaded without a pause. SIGTERM ends the server once all
    accepted requests are answered. See docs/serving.md.
    """
    from tsa.serving import run

    settings = ServeSettings.make({"bundle": bundle, "overrides": tuple(set_ or ()), **values})
    secrets = (*settings.token_files, *settings.admin_token_files, settings.ssl_certificate, settings.ssl_key)
    read = (settings.bundle, settings.shadow, *secrets, settings.ssl_client_ca, settings.public_key)
    check_outputs(read, files={"--shadow-file": settings.shadow_file})
    run(settings)
