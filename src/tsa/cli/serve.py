"""The `tsa serve` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tsa.cli.app import MarketSets, app
from tsa.cli.console import logger
from tsa.cli.options import options_of
from tsa.errors import ConfigError, TSAError
from tsa.files.outputs import check_outputs
from tsa.serving.settings import ServeSettings

ServedBundle = Annotated[Path | None, typer.Argument(help="A bundle, such as RUN/bundle.", show_default=False)]


@app.command(has_result=False)
@options_of(ServeSettings)
def serve(bundle: ServedBundle = None, set_: MarketSets = None, **values: Any) -> None:
    """Serve a bundle over HTTP: POST /v1/score, SageMaker's routes, the Open Inference Protocol, /metrics, a page at /.

    BUNDLE may be a link: when the link changes, the new bundle is loaded without a pause. With --bundle-from, give no
    BUNDLE: a promotion in the registry is live within seconds. SIGTERM ends the server once all accepted requests are
    answered. See docs/how-to/serving.md.
    """
    from tsa.serving import run

    bundle = _bundle(bundle, values["bundle_from"], values["bundle_cache"])
    values["shadow"] = _shadow(values["shadow"], values["shadow_from"], values["bundle_cache"])
    settings = ServeSettings.make({"bundle": bundle, "overrides": tuple(set_ or ()), **values})
    secrets = (*settings.token_files, *settings.admin_token_files, settings.ssl_certificate, settings.ssl_key)
    read = (
        settings.bundle,
        settings.challenger,
        settings.shadow,
        *secrets,
        settings.ssl_client_ca,
        settings.public_key,
    )
    check_outputs(
        read, files={"--shadow-file": settings.shadow_file}, into={"--decision-log": settings.decision_folder}
    )
    run(settings)


def _bundle(bundle: Path | None, bundle_from: str | None, cache: Path) -> Path:
    """The bundle to serve: the one given, or the copy of the one that a registry's alias names."""
    from tsa.registry import AliasFollower

    if (bundle is None) == (bundle_from is None):
        rule = "tsa serve needs a bundle or --bundle-from"
        raise ConfigError(f"{rule} (got {'neither' if bundle is None else 'both'}); give one of them")
    if bundle_from is None:
        assert bundle is not None
        return bundle
    source = AliasFollower(bundle_from, cache.expanduser())
    try:
        source.refresh()
    except TSAError as error:
        if not source.path.exists():
            raise
        logger.warning("the last copy of the bundle is served, since its registry cannot be read: %s", error)
    return source.path


def _shadow(shadow: Path | None, shadow_from: str | None, cache: Path) -> Path | None:
    """The shadow's bundle: the one given, or the copy of the one that a registry's alias names, which may come later."""
    from tsa.registry import AliasFollower

    if shadow_from is None:
        return shadow
    if shadow is not None:
        raise ConfigError("tsa serve takes --shadow or --shadow-from (got both); give one of them")
    source = AliasFollower(shadow_from, cache.expanduser(), "shadow_from")
    try:
        source.refresh()
    except TSAError as error:
        now = "the last copy of the shadow is used" if source.path.exists() else "the server starts without a shadow"
        logger.warning("%s, since its registry cannot be read: %s", now, error)
    return source.path
