"""A registry as a group of SageMaker's Model Registry: `SageMakerPlace`.

The bundles, the records and the moves of aliases are objects in S3, as in a registry of `s3://`, since SageMaker has no aliases
and no operation that changes something only if nobody else has. Each version is a model package of the group, too: with the
bundle as model data, the metrics of the test range, an approval status and customer metadata.

    versions/SHA256/metrics.json   the bundle's metrics, for the model package
    versions/SHA256/package.json   the ARN of the model package
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl

from tsa.bundle.manifest import METRICS
from tsa.bundle.signing import read_bundle
from tsa.errors import RegistryError
from tsa.optional_libraries import imported
from tsa.registry.place import ObjectPlace
from tsa.registry.records import AliasEntry, Version
from tsa.registry.storage import S3Storage, advice

FORM = re.compile(r"sagemaker://([A-Za-z0-9](?:-*[A-Za-z0-9]){0,62})(?:\?(.*))?")
OPTIONS = ("bucket", "prefix", "image")
PENDING, APPROVED, REJECTED = "PendingManualApproval", "Approved", "Rejected"
CHAMPION = "champion"
"""The alias whose promotion approves a model package."""
NOT_ALLOWED = re.compile(r"[^\w\s.:/=+\-@]")
"""Characters that values of customer metadata must not have."""
CONTENT_TYPES = ["application/json", "application/jsonlines", "text/csv", "application/x-parquet"]
MAX_VALUE, MAX_TEXT = 256, 1024
EXISTS = re.compile(r"already exists")


class SageMakerPlace(ObjectPlace):
    """The model package group of one name, and its objects in S3."""

    def __init__(
        self, group: str, *, bucket: str | None = None, prefix: str | None = None, image: str | None = None
    ) -> None:
        """Use a group; `open` does this from a URL.

        Args:
            group: It need not exist.
            bucket: Of the bundles; None for SageMaker's own of this account and region.
            prefix: None for tsa/GROUP.
            image: The serving image; without it a model package has no container, and `tsa sagemaker deploy` names one.

        Raises:
            ConfigError: If boto3 is not installed.
            RegistryError: If there are no credentials.
        """
        session = imported("a registry in sagemaker://", "boto3", "sagemaker").Session()
        self.group, self.image = group, image
        with _reached(f"sagemaker://{group}"):
            self._client = session.client("sagemaker")
            self.bucket = bucket or default_bucket(session)
            storage = S3Storage(self.bucket, f"tsa/{group}" if prefix is None else prefix, client=session.client("s3"))
        super().__init__(storage)

    @classmethod
    def open(cls, url: str) -> Self:
        """Read a URL: `sagemaker://GROUP`, and after a `?` bucket, prefix and image. Raises RegistryError for any other."""
        match = FORM.fullmatch(url)
        options = dict(parse_qsl(match[2] or "", keep_blank_values=True)) if match else {}
        if match is None or set(options) - set(OPTIONS) or not all(options.values()):
            form = "sagemaker://GROUP or sagemaker://GROUP?bucket=NAME&prefix=PREFIX&image=IMAGE"
            raise RegistryError(f"a registry in SageMaker must be {form} (got {url!r})")
        return cls(match[1], **options)

    @property
    def url(self) -> str:
        """As `RegistryPlace`."""
        return f"sagemaker://{self.group}"

    def add(self, version: Version, archive: bytes, signature: bytes | None) -> None:
        """As `RegistryPlace`. The model package is made before the record that makes the version complete."""
        folder = f"versions/{version.sha256}"
        if self.storage.read(f"{folder}/package.json") is None:
            self.storage.create(f"{folder}/bundle.tar.gz", archive)
            arn = self._package(version, archive)
            self.storage.create(f"{folder}/package.json", json.dumps({"arn": arn}).encode())
        super().add(version, archive, signature)

    def package_arn(self, sha: str) -> str:
        """The ARN of the model package of a version. Raises RegistryError if it has none."""
        data = self.storage.read(f"versions/{sha}/package.json")
        if data is None:
            raise RegistryError(f"{self.url} has no model package for {sha[:12]}; publish the bundle again")
        return str(json.loads(data)["arn"])

    def append(self, entry: AliasEntry) -> AliasEntry:
        """As `RegistryPlace`. A rejected model package cannot be promoted; a champion's is approved.

        If this program dies after the move, the move is in force and the model packages show it with the next one.
        """
        arn = self.package_arn(entry.sha256)
        with _reached(self.url):
            package = self._client.describe_model_package(ModelPackageName=arn)
        if package.get("ModelApprovalStatus") == REJECTED:
            why = package.get("ApprovalDescription") or "no reason is given"
            raise RegistryError(f"{entry.sha256[:12]} was rejected in SageMaker ({why}); approve {arn} first")
        before = self.current(entry.alias)
        written = super().append(entry)
        if written == entry:
            self._show(entry, package, None if before is None else before.sha256)
        return written

    def _show(self, entry: AliasEntry, package: Mapping[str, Any], before: str | None) -> None:
        """Let the model packages show a move: the alias in the metadata of one, no longer in that of the other."""
        key = f"tsa.alias.{entry.alias}"
        status = APPROVED if entry.alias == CHAMPION else package.get("ModelApprovalStatus", PENDING)
        metadata = {**package.get("CustomerMetadataProperties", {}), key: _value(entry.at)}
        with _reached(self.url):
            self._client.update_model_package(
                ModelPackageArn=package["ModelPackageArn"],
                ModelApprovalStatus=status,
                ApprovalDescription=f"{entry.action} {entry.alias} by {entry.by}: {entry.why}"[:MAX_TEXT],
                CustomerMetadataProperties=metadata,
            )
            if before is not None and before != entry.sha256:
                other = self._client.describe_model_package(ModelPackageName=self.package_arn(before))
                self._client.update_model_package(
                    ModelPackageArn=other["ModelPackageArn"],
                    ModelApprovalStatus=other.get("ModelApprovalStatus", PENDING),
                    CustomerMetadataProperties=other.get("CustomerMetadataProperties", {}),
                    CustomerMetadataPropertiesToRemove=[key],
                )

    def _package(self, version: Version, archive: bytes) -> str:
        """Make the model package of a version. The same version gives the same package, by its token."""
        folder = f"{self.storage.url}/versions/{version.sha256}"
        request: dict[str, Any] = {
            "ModelPackageGroupName": self.group,
            "ModelPackageDescription": (version.note or f"bundle {version.short} of market {version.market}")[
                :MAX_TEXT
            ],
            "ModelApprovalStatus": PENDING,
            "CustomerMetadataProperties": customer_metadata(version),
            "ClientToken": version.sha256[:36],
        }
        if metrics := _metrics(archive):
            self.storage.create(f"versions/{version.sha256}/metrics.json", metrics)
            statistics = {"ContentType": "application/json", "S3Uri": f"{folder}/metrics.json"}
            request["ModelMetrics"] = {"ModelQuality": {"Statistics": statistics}}
        if self.image:
            request["InferenceSpecification"] = {
                "Containers": [{"Image": self.image, "ModelDataUrl": f"{folder}/bundle.tar.gz"}],
                "SupportedContentTypes": CONTENT_TYPES,
                "SupportedResponseMIMETypes": CONTENT_TYPES[:3],
            }
        self._create_group()
        with _reached(self.url):
            known = self._known_package(version.sha256)
            return known or str(self._client.create_model_package(**request)["ModelPackageArn"])

    def _known_package(self, sha: str) -> str | None:
        """The ARN of the group's model package with this bundle, if a publisher died after making it."""
        pages = self._client.get_paginator("list_model_packages").paginate(ModelPackageGroupName=self.group)
        for arn in [summary["ModelPackageArn"] for page in pages for summary in page["ModelPackageSummaryList"]]:
            package = self._client.describe_model_package(ModelPackageName=arn)
            if package.get("CustomerMetadataProperties", {}).get("tsa.sha256") == sha:
                return str(arn)
        return None

    def _create_group(self) -> None:
        from botocore.exceptions import ClientError

        with _reached(self.url):
            try:
                self._client.create_model_package_group(
                    ModelPackageGroupName=self.group, ModelPackageGroupDescription="Bundles of tsa"
                )
            except ClientError as error:
                if not EXISTS.search(str(error)):
                    raise


def default_bucket(session: Any) -> str:
    """SageMaker's own bucket of the account and region; it is made if there is none."""
    account = session.client("sts").get_caller_identity()["Account"]
    region, client = session.region_name, session.client("s3")
    name = f"sagemaker-{region}-{account}"
    place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    try:
        client.head_bucket(Bucket=name)
    except client.exceptions.ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        client.create_bucket(Bucket=name, **place)
    return name


def customer_metadata(version: Version) -> dict[str, str]:
    """What a model package's customer metadata say of a version; SageMaker limits characters and lengths."""
    values = {
        "tsa.sha256": version.sha256,
        "tsa.market": version.market,
        "tsa.published": version.published,
        "tsa.by": version.by,
        "tsa.decisions": "/".join(version.decisions),
    }
    for name, span in version.ranges.items():
        values[f"tsa.range.{name}"] = f"{span['start']} - {span['end']}"
    for name, measured in version.metrics.items():
        if isinstance(measured, Mapping) and isinstance(measured.get("value"), int | float):
            values[f"tsa.test.{name}"] = f"{measured['value']:.6f}"
    return {name: text for name, value in values.items() if (text := _value(value))}


def _value(text: str) -> str:
    return NOT_ALLOWED.sub("_", text)[:MAX_VALUE]


def _metrics(archive: bytes) -> bytes | None:
    with tempfile.TemporaryDirectory(prefix="tsa-registry-") as folder:
        path = Path(folder) / "bundle.tar.gz"
        path.write_bytes(archive)
        return read_bundle(path)[0].get(METRICS)


@contextmanager
def _reached(url: str) -> Iterator[None]:
    """Raise boto3's errors as RegistryError."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise RegistryError(f"{url} cannot be used: {error}; {advice(error, 'the region')}") from error
