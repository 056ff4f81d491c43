"""Requests to SageMaker, against a server on loopback that speaks its API: all fields of each are compared."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from support.endpoint import made_bundle
from tsa.integrations.sagemaker.client import Jobs
from tsa.integrations.sagemaker.pipeline import PARAMETERS, definition
from tsa.integrations.sagemaker.requests import EPOCH, Endpoint
from tsa.registry import Registry

Tsa = Callable[..., Any]
ROLE = "arn:aws:iam::123456789012:role/SageMaker"
IMAGE = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/tsa:1"
NEEDED = ["--role", ROLE, "--image", IMAGE]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """The requests that this process sends to SageMaker: operation and parameters, checked by botocore against the service."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    httpx.post(f"http://{host}:{port}/moto-api/reset")  # what other tests of this process left
    values = {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "eu-central-1"}
    for name, value in {**values, "ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    boto3.client("s3").create_bucket(Bucket="models", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    requests: list[tuple[str, dict[str, Any]]] = []

    def record(params: dict[str, Any], model: Any, **other: Any) -> None:
        if not model.name.startswith(("Describe", "List")):
            requests.append((model.name, json.loads(json.dumps(params))))

    def updated(model: Any, **other: Any) -> tuple[Any, dict[str, str]]:
        """The server knows no update of an endpoint: answered here, after the request was checked."""
        return type("Answer", (), {"status_code": 200})(), {"EndpointArn": "arn:updated"}

    connect = Jobs.__init__

    def connected(jobs: Jobs) -> None:
        connect(jobs)
        jobs._sagemaker.meta.events.register("provide-client-params.sagemaker.*", record)
        jobs._sagemaker.meta.events.register("before-call.sagemaker.UpdateEndpoint", updated)

    monkeypatch.setattr(Jobs, "__init__", connected)
    yield requests
    server.stop()


@pytest.fixture
def registry(sent: list[Any], tmp_path: Path) -> Registry:
    """Two versions in a bucket, the first of them the champion."""
    registry = Registry.open(f"s3://models/{tmp_path.name}")
    for seed in range(2):
        registry.publish(made_bundle(tmp_path / str(seed), seed=seed), by="ann")
    registry.promote(registry.publish(tmp_path / "0", by="ann").sha256, by="ann")
    return registry


def test_a_training_job(sent: list[Any], tsa: Tsa, tmp_path: Path) -> None:
    (tmp_path / "logs" / "05").mkdir(parents=True)
    (tmp_path / "logs" / "05" / "rows.csv").write_text("rows")
    (tmp_path / "my.toml").write_text("market")
    inputs = [f"training={tmp_path}/logs", f"market={tmp_path}/my.toml", "store=s3://other/store"]
    options = ["--output", "s3://models/tsa", "--name", "job-1", "--instances", "2", "--set", "training.epochs=3"]
    done = tsa("sagemaker", "train", *inputs, *NEEDED, *options)
    assert done.code == 0, done.err
    places = {
        "training": "s3://models/tsa/inputs/job-1/training",
        "market": "s3://models/tsa/inputs/job-1/market",
        "store": "s3://other/store",
    }
    source = {"S3DataType": "S3Prefix", "S3DataDistributionType": "FullyReplicated"}
    assert sent == [
        (
            "CreateTrainingJob",
            {
                "TrainingJobName": "job-1",
                "AlgorithmSpecification": {
                    "TrainingImage": IMAGE,
                    "TrainingInputMode": "File",
                    "MetricDefinitions": [{"Name": "validation:average_precision", "Regex": EPOCH}],
                },
                "RoleArn": ROLE,
                "HyperParameters": {"training.epochs": "3"},
                "InputDataConfig": [
                    {"ChannelName": name, "DataSource": {"S3DataSource": {**source, "S3Uri": place}}}
                    for name, place in places.items()
                ],
                "OutputDataConfig": {"S3OutputPath": "s3://models/tsa/models"},
                "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 2, "VolumeSizeInGB": 100},
                "EnableManagedSpotTraining": True,
                "CheckpointConfig": {"S3Uri": "s3://models/tsa/checkpoints/job-1"},
                "StoppingCondition": {"MaxRuntimeInSeconds": 86_400, "MaxWaitTimeInSeconds": 172_800},
            },
        )
    ]
    files = boto3.client("s3").list_objects_v2(Bucket="models", Prefix="tsa/inputs/job-1/")["Contents"]
    assert [file["Key"].removeprefix("tsa/inputs/job-1/") for file in files] == [
        "market/my.toml",
        "training/05/rows.csv",
    ]
    assert "job-1: Completed" in tsa("sagemaker", "status", "training", "job-1").out
    bucket, _, key = (
        boto3.client("sagemaker")
        .describe_training_job(TrainingJobName="job-1")["ModelArtifacts"]["S3ModelArtifacts"]
        .removeprefix("s3://")
        .partition("/")
    )
    made_bundle(tmp_path / "bundle")
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "bundle", ".")
    boto3.client("s3").upload_file(str(tmp_path / "model.tar.gz"), bucket, key)
    done = tsa("sagemaker", "status", "training", "job-1", "--register", tmp_path / "registry")
    assert done.code == 0, done.err
    assert [version.note for version in Registry.open(str(tmp_path / "registry")).versions()] == [
        "of the training job job-1"
    ]


def test_an_endpoint_is_created_and_updated(sent: list[Any], registry: Registry, tsa: Tsa) -> None:
    url = registry.place.url
    options = [
        "--registry",
        url,
        "--capture",
        "s3://models/seen",
        "--alarm",
        "errors",
        "--env",
        "TSA_HISTORY=redis://h/0",
    ]
    created = tsa("sagemaker", "deploy", "cards", *NEEDED, *options)
    assert created.code == 0, created.err
    first, second = (version.sha256 for version in registry.versions())
    assert [operation for operation, _ in sent] == ["CreateModel", "CreateEndpointConfig", "CreateEndpoint"]
    model = sent[0][1]
    assert model == {
        "ModelName": model["ModelName"],
        "PrimaryContainer": {
            "Image": IMAGE,
            "ModelDataUrl": f"{url}/versions/{registry.current('champion').sha256}/bundle.tar.gz",
            "Environment": {"TSA_HISTORY": "redis://h/0"},
        },
        "ExecutionRoleArn": ROLE,
    }
    variant = {"InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    config = sent[1][1]
    assert config == {
        "EndpointConfigName": config["EndpointConfigName"],
        "ProductionVariants": [
            {"VariantName": "champion", "ModelName": model["ModelName"], "InitialVariantWeight": 1.0, **variant}
        ],
        "DataCaptureConfig": {
            "EnableCapture": True,
            "InitialSamplingPercentage": 100,
            "DestinationS3Uri": "s3://models/seen",
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"], "CsvContentTypes": ["text/csv"]},
        },
    }
    assert sent[2][1] == {"EndpointName": "cards", "EndpointConfigName": config["EndpointConfigName"]}
    sent.clear()
    other = second if registry.current("champion").sha256 == first else first
    registry.promote(other, "challenger", by="ann")
    updated = tsa("sagemaker", "deploy", "cards", *NEEDED, *options, "--challenger-share", "0.25")
    assert updated.code == 0, updated.err
    assert [operation for operation, _ in sent] == ["CreateModel", "CreateEndpointConfig", "UpdateEndpoint"]
    variants = sent[1][1]["ProductionVariants"]
    assert [(v["VariantName"], v["InitialVariantWeight"]) for v in variants] == [
        ("champion", 0.75),
        ("challenger", 0.25),
    ]
    assert variants[1]["ModelName"] == sent[0][1]["ModelName"]
    assert sent[2][1] == {
        "EndpointName": "cards",
        "EndpointConfigName": sent[1][1]["EndpointConfigName"],
        "DeploymentConfig": {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 300},
                "TerminationWaitInSeconds": 300,
            },
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "errors"}]},
        },
    }


def test_a_batch(sent: list[Any], registry: Registry, tsa: Tsa, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    places = ["--registry", registry.place.url, "--out", "s3://models/scores", "--name", "batch-1"]
    done = tsa("sagemaker", "transform", "champion", tmp_path / "rows.jsonl", *NEEDED, *places)
    assert done.code == 0, done.err
    assert [operation for operation, _ in sent] == ["CreateModel", "CreateTransformJob"]
    assert sent[1][1] == {
        "TransformJobName": "batch-1",
        "ModelName": sent[0][1]["ModelName"],
        "MaxPayloadInMB": 6,
        "BatchStrategy": "MultiRecord",
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://models/scores/inputs/batch-1"}},
            "ContentType": "application/jsonlines",
            "SplitType": "Line",
        },
        "TransformOutput": {
            "S3OutputPath": "s3://models/scores",
            "Accept": "application/jsonlines",
            "AssembleWith": "Line",
        },
        "TransformResources": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1},
    }


def test_two_markets_are_two_sets_of_parameters_of_one_pipeline(sent: list[Any], tsa: Tsa, tmp_path: Path) -> None:
    common = {name: "x" for name, (_, default) in PARAMETERS.items() if default is None}
    for market in ("eu", "na"):
        words = [
            word
            for name, value in {**common, "Market": f"{market}.toml"}.items()
            for word in ("--start", f"{name}={value}")
        ]
        role = ["--role", ROLE, "--out", tmp_path / "pipeline.json"]
        done = tsa("sagemaker", "pipeline", "--name", "steps", *role, *words)
        assert done.code == 0, done.err
    assert [operation for operation, _ in sent] == [
        "CreatePipeline",
        "StartPipelineExecution",
        "UpdatePipeline",
        "StartPipelineExecution",
    ]
    assert (
        json.loads(sent[0][1]["PipelineDefinition"])
        == definition()
        == json.loads((tmp_path / "pipeline.json").read_text())
    )
    given = [{p["Name"]: p["Value"] for p in request["PipelineParameters"]} for _, request in sent[1::2]]
    assert given == [{**common, "Market": "eu.toml"}, {**common, "Market": "na.toml"}]


def test_the_challengers_share() -> None:
    endpoint = Endpoint(name="e", role=ROLE, challenger_share=0.2)
    alone = endpoint.variants({"champion": "m"})
    assert [variant["InitialVariantWeight"] for variant in alone] == [1.0]
    assert "DataCaptureConfig" not in endpoint.config("c", {"champion": "m"})
    assert "AutoRollbackConfiguration" not in endpoint.update("c")["DeploymentConfig"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "logs", *NEEDED], "an input must be CHANNEL=PLACE"),
        (
            ["train", "training=none", *NEEDED, "--output", "s3://models/x"],
            "an input must be a file, a folder with files",
        ),
        (["train", "training=s3://a/b", *NEEDED, "--name", "a_b"], "a name must have 1 to 63 letters"),
        (["deploy", "cards", *NEEDED, "--registry", "{tmp}/none"], "has no alias 'champion'"),
        (["transform", "champion", "x", *NEEDED, "--registry", "r", "--out", "y"], "--out must be s3://"),
        (["pipeline", "--start", "Zone=1"], "the pipeline has no parameter 'Zone'"),
        (["pipeline", "--start", "Market=eu.toml"], "the pipeline needs MarketFolder"),
        (["pipeline"], "needs --out, --role or --start"),
        (["status", "job", "x"], "KIND must be training, transform, endpoint or pipeline"),
        (["status", "training", "none"], "SageMaker cannot do this: "),
    ],
)
def test_bad_input_is_one_sentence(sent: list[Any], tsa: Tsa, words: list[str], said: str, tmp_path: Path) -> None:
    refused = tsa("sagemaker", *[word.replace("{tmp}", str(tmp_path)) for word in words])
    assert refused.code == 2
    assert said in refused.err
    assert sent == []


def test_a_registry_that_sagemaker_cannot_read_is_refused(sent: list[Any], tsa: Tsa, tmp_path: Path) -> None:
    registry = Registry.open(str(tmp_path / "r"))
    registry.promote(registry.publish(made_bundle(tmp_path / "b"), by="ann").sha256, by="ann")
    refused = tsa("sagemaker", "deploy", "cards", *NEEDED, "--registry", tmp_path / "r")
    assert refused.code == 2
    assert "the registry must be s3://BUCKET/PREFIX or sagemaker://GROUP" in refused.err
    assert sent == []
