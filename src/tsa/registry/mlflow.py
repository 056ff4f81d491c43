"""A registry in MLflow: `MLflowPlace`.

    registered model NAME           its tag tsa.registry says what the registry demands
    its versions                    each from a run with the bundle as a pyfunc model; tag tsa.sha256 says which bundle it is,
                                    tag tsa.version what is known of it, tag tsa.signature its signature
    registered model NAME-aliases   one version for each move of an alias; tag tsa.entry has who, when, why and the evidence

MLflow has no operation that moves an alias only if nobody else has moved it. But the server numbers the versions of a
registered model, each number once. So a move of an alias is a version of NAME-aliases whose tag tsa.after names the move that
its writer saw last. It counts only if that move is the last one that counts before it. Of two promotions at the same time the
one with the lower number counts, for every reader. The alias in MLflow itself follows, for `models:/NAME@champion`.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from tsa.errors import RegistryError
from tsa.optional_libraries import bound_mlflow, need
from tsa.registry.mlflow_model import ARCHIVE, MODEL, write_model
from tsa.registry.place import signed
from tsa.registry.records import AliasEntry, Version, entry_from, to_bytes, version_from

FORM = re.compile(r"mlflow(?:\+(https?|file))?://(.*?)/+([^/]+)/*")
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,199}")
TAKEN = re.compile(r"latest|v[0-9]+")
"""Aliases that MLflow does not allow."""
REGISTRY, SHA, VERSION, SIGNATURE, ALIAS, ENTRY, AFTER = (
    f"tsa.{name}" for name in ("registry", "sha256", "version", "signature", "alias", "entry", "after")
)
MISSING, EXISTS = "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"
PAGE = 1000


class MLflowPlace:
    """The registered model of one name, on a tracking server or in a folder of MLflow's."""

    def __init__(self, tracking_uri: str, name: str, url: str) -> None:
        """Use a registered model; `open` does this from a URL.

        Args:
            tracking_uri: As MLflow has it, such as `http://127.0.0.1:5000`.
            name: Of the registered model; it need not exist.
            url: For messages.

        Raises:
            ConfigError: If MLflow is not installed.
        """
        need("a registry in mlflow://", "mlflow", "pandas", extra="mlflow")
        bound_mlflow()
        self._uri, self.name, self._url = tracking_uri, name, url
        self._moves = f"{name}-aliases"

    @classmethod
    def open(cls, url: str) -> Self:
        """Read a URL.

        Args:
            url: `mlflow://HOST:PORT/NAME` (http), `mlflow+https://HOST/NAME` or `mlflow+file:///FOLDER/NAME`.

        Raises:
            RegistryError: For any other URL.
        """
        match = FORM.fullmatch(url)
        if match is None or not (match[2] or match[1] == "file") or not MODEL_NAME.fullmatch(match[3]):
            forms = "mlflow://HOST:PORT/NAME, mlflow+https://HOST/NAME or mlflow+file:///FOLDER/NAME"
            raise RegistryError(f"a registry in MLflow must be {forms} (got {_without_password(url)!r})")
        if "@" in match[2].partition("/")[0]:
            rule = "must have no user or password; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            raise RegistryError(f"the URL of a registry {rule} (got {_without_password(url)!r})")
        return cls(f"{match[1] or 'http'}://{match[2]}", match[3], url)

    @property
    def url(self) -> str:
        """As `RegistryPlace`."""
        return self._url

    @cached_property
    def _client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)

    def settings(self) -> bytes | None:
        """As `RegistryPlace`."""
        with self._reached():
            model = self._model()
        if model is None or REGISTRY not in model.tags:
            return None
        return str(model.tags[REGISTRY]).encode()

    def create(self, settings: bytes) -> bool:
        """As `RegistryPlace`. A registered model that somebody made without this program becomes a registry."""
        with self._reached():
            if self._create_model(self.name, {REGISTRY: settings.decode()}):
                return True
            if REGISTRY in self._model().tags:
                return False
            self._client.set_registered_model_tag(self.name, REGISTRY, settings.decode())
        return True

    def add(self, version: Version, archive: bytes, signature: bytes | None) -> None:
        """As `RegistryPlace`. The version is made last, by one request; of two equal ones the later is removed."""
        with self._reached():
            if self._known(version.sha256) is None:
                self._upload(version, archive)
            known = self._known(version.sha256)
            if known is not None and signature is not None and SIGNATURE not in known.tags:
                self._client.set_model_version_tag(self.name, known.version, SIGNATURE, signature.decode())

    def shas(self) -> list[str]:
        """As `RegistryPlace`."""
        with self._reached():
            return list(self._versions())

    def version(self, sha: str) -> Version | None:
        """As `RegistryPlace`."""
        with self._reached():
            known = self._known(sha)
        if known is None:
            return None
        where = f"{self.url}, version {known.version}"
        return signed(version_from(known.tags.get(VERSION, "").encode(), where), _signature_of(known))

    def archive(self, sha: str) -> bytes | None:
        """As `RegistryPlace`."""
        with self._reached(), tempfile.TemporaryDirectory(prefix="tsa-registry-") as folder:
            known = self._known(sha)
            if known is None:
                return None
            return Path(self._client.download_artifacts(known.run_id, f"{MODEL}/{ARCHIVE}", folder)).read_bytes()

    def signature(self, sha: str) -> bytes | None:
        """As `RegistryPlace`."""
        with self._reached():
            known = self._known(sha)
        return None if known is None else _signature_of(known)

    def alias_names(self) -> list[str]:
        """As `RegistryPlace`."""
        with self._reached():
            return sorted({move.tags[ALIAS] for move in self._all(self._moves) if ALIAS in move.tags})

    def entries(self, alias: str) -> list[AliasEntry]:
        """As `RegistryPlace`."""
        with self._reached():
            return [entry for _, entry in self._counting(alias)]

    def current(self, alias: str) -> AliasEntry | None:
        """As `RegistryPlace`."""
        entries = self.entries(alias)
        return entries[-1] if entries else None

    def append(self, entry: AliasEntry) -> AliasEntry:
        """As `RegistryPlace`. Then the alias in MLflow is set; if this program dies before that, the next move sets it."""
        if TAKEN.fullmatch(entry.alias):
            raise RegistryError(f"an alias in MLflow must not be latest or v and digits (got {entry.alias!r})")
        with self._reached():
            before = self._counting(entry.alias)
            if len(before) >= entry.number:
                return before[entry.number - 1][1]
            known = self._known(entry.sha256)
            if known is None:
                raise RegistryError(f"{self.url} has no version {entry.sha256[:12]}; publish the bundle again")
            self._create_model(self._moves, {}, f"The moves of the aliases of {self.name}, for tsa. Never remove any.")
            written = self._client.create_model_version(
                self._moves,
                known.source,
                known.run_id,
                tags={
                    ALIAS: entry.alias,
                    AFTER: str(before[-1][0] if before else 0),
                    ENTRY: to_bytes(entry).decode(),
                },
                description=f"{entry.action} {entry.alias} to version {known.version} by {entry.by}: {entry.why}"[
                    :1000
                ],
                await_creation_for=0,
            )
            moves = self._counting(entry.alias)
            self._set_alias(entry.alias)
        if any(number == int(written.version) for number, _ in moves):
            return entry
        return moves[entry.number - 1][1]

    def _counting(self, alias: str) -> list[tuple[int, AliasEntry]]:
        """The moves that count, with their numbers in MLflow. A move counts if its writer saw the one before."""
        counting: list[tuple[int, AliasEntry]] = []
        for move in self._all(self._moves):
            last = counting[-1][0] if counting else 0
            if move.tags.get(ALIAS) == alias and move.tags.get(AFTER) == str(last):
                entry = entry_from(move.tags.get(ENTRY, "").encode(), f"{self.url}, {self._moves} {move.version}")
                counting.append((int(move.version), replace(entry, number=len(counting) + 1)))
        return counting

    def _set_alias(self, alias: str) -> None:
        """Set MLflow's alias to the version in force; again if another process moves it meanwhile."""
        while True:
            sha = self._counting(alias)[-1][1].sha256
            known = self._known(sha)
            if known is not None:
                self._client.set_registered_model_alias(self.name, alias, known.version)
            if self._counting(alias)[-1][1].sha256 == sha:
                return

    def _upload(self, version: Version, archive: bytes) -> None:
        """Log the bundle as a model of a new run, and make it a version."""
        run = self._client.create_run(
            self._experiment(), run_name=f"{version.market} {version.short}", tags={SHA: version.sha256}
        )
        with tempfile.TemporaryDirectory(prefix="tsa-registry-") as folder:
            write_model(Path(folder) / MODEL, archive)
            self._client.log_artifacts(run.info.run_id, folder)
        for name, value in metric_values(version).items():
            self._client.log_metric(run.info.run_id, name, value)
        self._client.set_terminated(run.info.run_id)
        made = self._client.create_model_version(
            self.name,
            f"{run.info.artifact_uri}/{MODEL}",
            run.info.run_id,
            tags={SHA: version.sha256, "tsa.market": version.market, VERSION: to_bytes(version).decode()},
            description=version.note or None,
            await_creation_for=0,
        )
        first = self._known(version.sha256)
        if first is not None and first.version != made.version:
            self._client.delete_model_version(self.name, made.version)

    def _experiment(self) -> str:
        """The id of the experiment of the registry's runs, which is made if there is none."""
        known = self._client.get_experiment_by_name(self.name)
        if known is None:
            with self._allowed(EXISTS):
                return str(self._client.create_experiment(self.name))
            known = self._client.get_experiment_by_name(self.name)
        return str(known.experiment_id)

    def _versions(self) -> dict[str, Any]:
        """MLflow's versions by the sha256 of the bundle; the first of several with one bundle."""
        by_sha: dict[str, Any] = {}
        for version in self._all(self.name):
            if SHA in version.tags:
                by_sha.setdefault(version.tags[SHA], version)
        return by_sha

    def _known(self, sha: str) -> Any:
        return self._versions().get(sha)

    def _all(self, name: str) -> list[Any]:
        """All versions of a registered model, in the order of their numbers."""
        versions: list[Any] = []
        token: str | None = None
        while token or not versions:
            page = self._client.search_model_versions(f"name='{name}'", max_results=PAGE, page_token=token)
            versions, token = versions + list(page), page.token
            if not token:
                break
        return sorted(versions, key=lambda version: int(version.version))

    def _model(self) -> Any:
        """The registered model; None if there is none."""
        with self._allowed(MISSING):
            return self._client.get_registered_model(self.name)
        return None

    def _create_model(self, name: str, tags: dict[str, str], description: str | None = None) -> bool:
        """Make a registered model. Returns False if there is one of this name."""
        with self._allowed(EXISTS):
            self._client.create_registered_model(name, tags, description)
            return True
        return False

    @contextmanager
    def _allowed(self, code: str) -> Iterator[None]:
        """Ignore an answer with this error code."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            if error.error_code != code:
                raise

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Raise MLflow's errors as RegistryError."""
        from mlflow.exceptions import MlflowException
        from requests import RequestException

        try:
            yield
        except (MlflowException, RequestException, OSError) as error:
            text = str(error).partition("\n")[0][:400]
            check = "check the address, the server, and MLFLOW_TRACKING_USERNAME or MLFLOW_TRACKING_TOKEN if it asks for one"
            raise RegistryError(f"{self.url} cannot be used: {text}; {check}") from error


def metric_values(version: Version) -> dict[str, float]:
    """Metrics of the test range as single numbers: `test_NAME`, and `test_NAME_low` and `_high` of its interval."""
    values: dict[str, float] = {}
    for name, measured in version.metrics.items():
        ends = {"": "value", "_low": "low", "_high": "high"}
        for end, key in ends.items():
            with suppress(TypeError, KeyError):
                values[f"test_{name}{end}"] = float(measured[key])
    return values


def _signature_of(version: Any) -> bytes | None:
    text = version.tags.get(SIGNATURE)
    return None if text is None else str(text).encode()


def _without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", url)
