"""What SageMaker is asked for: training jobs, endpoints and transform jobs, as the requests that create them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tsa.errors import ConfigError
from tsa.integrations.sagemaker.pipeline import stopping_condition
from tsa.text import truncate_repr

NAME = re.compile(r"[A-Za-z0-9](?:-*[A-Za-z0-9]){0,62}")
EPOCH = "'validation_average_precision': ([0-9.]+)"
"""What the training job logs in each epoch."""
CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training job."""

    name: str
    image: str
    role: str
    inputs: Mapping[str, str]
    """Channel -> place in S3."""
    output: str
    """A prefix in S3; checkpoints are next to the models."""
    hyperparameters: Mapping[str, str]
    instance: str = "ml.g5.xlarge"
    instances: int = 1
    """With several, each starts its processes with torchrun."""
    spot: bool = True
    volume_gb: int = 100

    def request(self) -> dict[str, Any]:
        """The request that creates it."""
        return {
            "TrainingJobName": self.name,
            "AlgorithmSpecification": {
                "TrainingImage": self.image,
                "TrainingInputMode": "File",
                "MetricDefinitions": [{"Name": "validation:average_precision", "Regex": EPOCH}],
            },
            "RoleArn": self.role,
            "HyperParameters": dict(self.hyperparameters),
            "InputDataConfig": [
                {
                    "ChannelName": name,
                    "DataSource": {
                        "S3DataSource": {
                            "S3DataType": "S3Prefix",
                            "S3Uri": place,
                            "S3DataDistributionType": "FullyReplicated",
                        }
                    },
                }
                for name, place in self.inputs.items()
            ],
            "OutputDataConfig": {"S3OutputPath": f"{self.output}/models"},
            "ResourceConfig": {
                "InstanceType": self.instance,
                "InstanceCount": self.instances,
                "VolumeSizeInGB": self.volume_gb,
            },
            "EnableManagedSpotTraining": self.spot,
            "CheckpointConfig": {"S3Uri": f"{self.output}/checkpoints/{self.name}"},
            "StoppingCondition": stopping_condition(self.spot),
        }


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An endpoint with a champion and perhaps a challenger, which get their shares of the requests."""

    name: str
    role: str
    instance: str = "ml.m5.large"
    instances: int = 1
    challenger_share: float = 0.1
    capture: str | None = None
    """A prefix in S3 for requests and answers."""
    capture_percent: int = 100
    alarms: tuple[str, ...] = ()
    """Names of CloudWatch alarms: an update that sets one off is rolled back."""

    def variants(self, models: Mapping[str, str]) -> list[dict[str, Any]]:
        """The production variants of models, by champion and challenger."""
        share = self.challenger_share if CHALLENGER in models else 0.0
        weights = {CHAMPION: 1.0 - share, CHALLENGER: share}
        return [
            {
                "VariantName": name,
                "ModelName": model,
                "InitialInstanceCount": self.instances,
                "InstanceType": self.instance,
                "InitialVariantWeight": weights[name],
            }
            for name, model in models.items()
        ]

    def config(self, name: str, models: Mapping[str, str]) -> dict[str, Any]:
        """The request that creates its configuration."""
        request: dict[str, Any] = {"EndpointConfigName": name, "ProductionVariants": self.variants(models)}
        if self.capture is not None:
            request["DataCaptureConfig"] = {
                "EnableCapture": True,
                "InitialSamplingPercentage": self.capture_percent,
                "DestinationS3Uri": self.capture,
                "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
                "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"], "CsvContentTypes": ["text/csv"]},
            }
        return request

    def update(self, config: str) -> dict[str, Any]:
        """The request that lets the endpoint use a configuration: new instances take over at once, or nothing changes."""
        deployment: dict[str, Any] = {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 300},
                "TerminationWaitInSeconds": 300,
            }
        }
        if self.alarms:
            deployment["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": name} for name in self.alarms]}
        return {"EndpointName": self.name, "EndpointConfigName": config, "DeploymentConfig": deployment}


@dataclass(frozen=True, kw_only=True)
class Transform:
    """A job that scores files of rows in JSON lines."""

    name: str
    source: str
    out: str
    """Prefixes in S3."""
    instance: str = "ml.m5.xlarge"
    instances: int = 1

    def request(self, model: str) -> dict[str, Any]:
        """The request that starts it with a model."""
        kind = "application/jsonlines"
        return {
            "TransformJobName": self.name,
            "ModelName": model,
            "MaxPayloadInMB": 6,
            "BatchStrategy": "MultiRecord",
            "TransformInput": {
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": self.source}},
                "ContentType": kind,
                "SplitType": "Line",
            },
            "TransformOutput": {"S3OutputPath": self.out, "Accept": kind, "AssembleWith": "Line"},
            "TransformResources": {"InstanceType": self.instance, "InstanceCount": self.instances},
        }


def job_name(given: str | None, kind: str) -> str:
    """The name of a job: the one given, or one with the time. Raises ConfigError if it is no name for SageMaker."""
    if given is None:
        return f"tsa-{kind}-{now()}"
    if not NAME.fullmatch(given):
        raise ConfigError(
            f"a name must have 1 to 63 letters, digits and single hyphens (got {truncate_repr(given, 80)})"
        )
    return given


def pairs(texts: Sequence[str], what: str, form: str = "KEY=VALUE") -> dict[str, str]:
    """Texts of this form as a dict. Raises ConfigError for any other text."""
    for text in texts:
        if "=" not in text[1:]:
            raise ConfigError(f"{what} must be {form} (got {truncate_repr(text, 80)})")
    return {key: value for key, _, value in (text.partition("=") for text in texts)}


def now() -> str:
    """The time as the end of a name."""
    return datetime.now(UTC).strftime("%Y%m%d%H%M%S")
