"""A registry in SageMaker's Model Registry, on a server on loopback that speaks its API: packages, approval, moves of aliases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from support.endpoint import made_bundle
from tsa.bundle.bundle import Bundle
from tsa.errors import RegistryError
from tsa.registry import Registry
from tsa.registry.sagemaker import SageMakerPlace, customer_metadata

IMAGE = "1.dkr.ecr.eu-central-1.amazonaws.com/tsa-serving:1"
BUCKET = "sagemaker-eu-central-1-123456789012"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a server on loopback. It has what earlier tests wrote, so each test has a group of its own."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    values = {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "eu-central-1"}
    for name, value in values.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    client = boto3.Session().client("sagemaker")
    yield client
    server.stop()


def test_a_life(aws: Any, tmp_path: Path) -> None:
    url = f"sagemaker://cards?image={IMAGE}"
    registry = Registry.open(url)
    first, second = (registry.publish(made_bundle(tmp_path / name, seed=at), by="ann") for at, name in enumerate("ab"))
    assert registry.publish(tmp_path / "a", by="bob") == first
    packages = aws.list_model_packages(ModelPackageGroupName="cards")["ModelPackageSummaryList"]
    assert len(packages) == 2
    place = registry.place
    assert isinstance(place, SageMakerPlace)
    package = aws.describe_model_package(ModelPackageName=place.package_arn(first.sha256))
    folder = f"s3://{BUCKET}/tsa/cards/versions/{first.sha256}"
    assert package["ModelApprovalStatus"] == "PendingManualApproval"
    assert package["CustomerMetadataProperties"] == customer_metadata(first)
    assert package["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"] == f"{folder}/metrics.json"
    container = package["InferenceSpecification"]["Containers"][0]
    assert (container["Image"], container["ModelDataUrl"]) == (IMAGE, f"{folder}/bundle.tar.gz")

    def shown(sha: str) -> tuple[str, bool]:
        package = aws.describe_model_package(ModelPackageName=place.package_arn(sha))
        return package["ModelApprovalStatus"], "tsa.alias.champion" in package["CustomerMetadataProperties"]

    registry.promote(first.short, by="ann")
    registry.promote(second.short, by="bob", why="better", evidence={"difference": 0.1})
    assert (shown(first.sha256), shown(second.sha256)) == (("Approved", False), ("Approved", True))
    registry.rollback(by="cat")
    assert (shown(first.sha256), shown(second.sha256)) == (("Approved", True), ("Approved", False))
    assert Registry.open(url).pull("champion", tmp_path / "out") == first
    assert [entry.action for entry in registry.history("champion")] == ["promote", "promote", "rollback"]
    assert Bundle.open(tmp_path / "out").sha256 == first.sha256


def test_of_promotions_at_the_same_time_one_wins(aws: Any, tmp_path: Path) -> None:
    """The second one has read the moves before the first one was written."""
    registry = Registry.open("sagemaker://both")
    first, second = (registry.publish(made_bundle(tmp_path / name, seed=at), by="ann") for at, name in enumerate("ab"))
    place = registry.place
    assert isinstance(place, SageMakerPlace)
    registry.promote(first.short, by="ann")
    place.entries = lambda alias: []  # type: ignore[method-assign]
    with pytest.raises(RegistryError, match=f"ann moved champion to {first.short} at the same time; nothing was ch"):
        registry.promote(second.short, by="bob")
    assert [entry.by for entry in Registry.open("sagemaker://both").history("champion")] == ["ann"]
    package = aws.describe_model_package(ModelPackageName=place.package_arn(second.sha256))
    assert package["ModelApprovalStatus"] == "PendingManualApproval"
    with pytest.raises(RegistryError, match=r"has no alias 'next'"):
        registry.current("next")
    with pytest.raises(RegistryError, match=r"has no alias or version '123456'"):
        registry.promote("123456", by="bob")


def test_a_rejected_package_is_not_promoted(aws: Any, tmp_path: Path) -> None:
    registry = Registry.open("sagemaker://rejected")
    version = registry.publish(made_bundle(tmp_path / "a"), by="ann")
    place = registry.place
    assert isinstance(place, SageMakerPlace)
    aws.update_model_package(
        ModelPackageArn=place.package_arn(version.sha256),
        ModelApprovalStatus="Rejected",
        ApprovalDescription="too many alarms",
    )
    with pytest.raises(RegistryError, match=r"was rejected in SageMaker \(too many alarms\); approve arn:"):
        registry.promote(version.short, by="ann")
    assert registry.aliases() == {}


def test_a_publisher_that_died_is_completed(aws: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry.open("sagemaker://died")
    place = registry.place
    assert isinstance(place, SageMakerPlace)
    create, names = place.storage.create, ["package.json", "version.json"]
    for ends in names:

        def dying(name: str, data: bytes, ends: str = ends) -> bool:
            if name.endswith(ends):
                raise KeyboardInterrupt
            return create(name, data)

        monkeypatch.setattr(place.storage, "create", dying)
        with pytest.raises(KeyboardInterrupt):
            registry.publish(made_bundle(tmp_path / "a"), by="ann")
        assert Registry.open("sagemaker://died").versions() == []
    monkeypatch.setattr(place.storage, "create", create)
    assert registry.publish(tmp_path / "a", by="bob").by == "bob"
    assert len(aws.list_model_packages(ModelPackageGroupName="died")["ModelPackageSummaryList"]) == 1


def test_no_credentials_are_one_clear_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(f"AWS_{name}", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with pytest.raises(RegistryError, match="sagemaker://cards cannot be used: Unable to locate credentials; check"):
        Registry.open("sagemaker://cards")


@pytest.mark.parametrize("url", ["sagemaker://", "sagemaker://a_b", "sagemaker://a?zone=1", "sagemaker://a?image="])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(RegistryError, match="a registry in SageMaker must be"):
        Registry.open(url)
