"""Requests to SageMaker: training jobs, models, endpoints, transform jobs and pipelines. `Jobs` sends them with boto3."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tsa.errors import ConfigError
from tsa.integrations.sagemaker.pipeline import definition, stopping_condition
from tsa.integrations.sagemaker.steps import MODEL, unpacked
from tsa.optional import imported
from tsa.registry import Registry, Version
from tsa.registry.sagemaker import default_bucket

NAME = re.compile(r"[A-Za-z0-9](?:-*[A-Za-z0-9]){0,62}")
EPOCH = "'validation_average_precision': ([0-9.]+)"
"""What the training job logs in each epoch."""
KINDS = {
    "training": ("describe_training_job", "TrainingJobName", "TrainingJobStatus"),
    "transform": ("describe_transform_job", "TransformJobName", "TransformJobStatus"),
    "endpoint": ("describe_endpoint", "EndpointName", "EndpointStatus"),
    "pipeline": ("describe_pipeline_execution", "PipelineExecutionArn", "PipelineExecutionStatus"),
}
"""What `status` can look at: the call, the name of its argument, and the field with the status."""
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


class Jobs:
    """Sends requests. Credentials and region come from where boto3 looks for them."""

    def __init__(self) -> None:
        """Connect. Raises ConfigError if boto3 or the region is missing."""
        self._session = imported("tsa sagemaker", "boto3", "sagemaker").Session()
        with self._reached():
            self._sagemaker, self._s3 = self._session.client("sagemaker"), self._session.client("s3")

    def bucket(self) -> str:
        """SageMaker's own bucket of the account and region."""
        with self._reached():
            return default_bucket(self._session)

    def upload(self, source: str, place: str) -> str:
        """Upload a file or folder, unless it is in S3 already.

        Args:
            source: A path, or a place in S3, which is returned as it is.
            place: A prefix in S3.

        Returns:
            The place in S3.

        Raises:
            ConfigError: If there is no such file, or S3 cannot be reached.
        """
        if source.startswith("s3://"):
            return source
        path, (bucket, _, prefix) = Path(source), place.removeprefix("s3://").partition("/")
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise ConfigError(f"an input must be a file, a folder with files or a place in s3:// (got {source})")
        with self._reached():
            for file in files:
                name = file.relative_to(path).as_posix() if path.is_dir() else file.name
                self._s3.upload_file(str(file), bucket, f"{prefix}/{name}")
        return place

    def train(self, job: Training) -> str:
        """Start a training job. Returns its ARN."""
        with self._reached():
            return str(self._sagemaker.create_training_job(**job.request())["TrainingJobArn"])

    def register(self, name: str, url: str, *, by: str) -> Version:
        """Publish the bundle of a training job that is complete.

        Args:
            name: Of the job.
            url: Of the registry.
            by: Who publishes it.

        Returns:
            The version.

        Raises:
            ConfigError: If the job is not complete.
        """
        with self._reached():
            job = self._sagemaker.describe_training_job(TrainingJobName=name)
        if job["TrainingJobStatus"] != "Completed":
            raise ConfigError(f"the job must be complete to be registered (got {job['TrainingJobStatus']})")
        place = job["ModelArtifacts"]["S3ModelArtifacts"]
        bucket, _, key = place.removeprefix("s3://").partition("/")
        with tempfile.TemporaryDirectory(prefix="tsa-model-") as folder:
            archive = Path(folder) / MODEL
            with self._reached():
                self._s3.download_file(bucket, key, str(archive))
            (Path(folder) / "bundle").mkdir()
            bundle = unpacked(archive, Path(folder) / "bundle")
            return Registry.open(url).publish(bundle, by=by, note=f"of the training job {name}")

    def deploy(self, endpoint: Endpoint, registry: Registry, image: str, environment: Mapping[str, str]) -> str:
        """Let an endpoint serve the registry's champion and, if there is one, its challenger. Creates or updates it.

        Args:
            endpoint: The endpoint.
            registry: A registry in S3 or SageMaker, since SageMaker reads the bundle from there.
            image: The serving image.
            environment: Of the containers, such as TSA_HISTORY.

        Returns:
            Its ARN.

        Raises:
            ConfigError: If SageMaker refuses or cannot be reached.
            RegistryError: If there is no champion.
        """
        shas = {CHAMPION: registry.current(CHAMPION).sha256}
        challenger = registry.aliases().get(CHALLENGER)
        if challenger is not None and challenger.sha256 != shas[CHAMPION]:
            shas[CHALLENGER] = challenger.sha256
        models = {alias: self._model(sha, registry, image, endpoint.role, environment) for alias, sha in shas.items()}
        config = f"{endpoint.name[:40]}-{'-'.join(sha[:8] for sha in shas.values())}-{_now()}"[:63]
        with self._reached():
            self._sagemaker.create_endpoint_config(**endpoint.config(config, models))
            if self._exists("describe_endpoint", EndpointName=endpoint.name):
                return str(self._sagemaker.update_endpoint(**endpoint.update(config))["EndpointArn"])
            made = self._sagemaker.create_endpoint(EndpointName=endpoint.name, EndpointConfigName=config)
            return str(made["EndpointArn"])

    def transform(
        self,
        name: str,
        registry: Registry,
        version: str,
        *,
        image: str,
        role: str,
        source: str,
        out: str,
        instance: str = "ml.m5.xlarge",
        instances: int = 1,
    ) -> str:
        """Start a job that scores files of rows in JSON lines.

        Args:
            name: Of the job.
            registry: A registry in S3 or SageMaker.
            version: An alias, or the beginning of a sha256.
            image: The serving image.
            role: The ARN of the job's role.
            source, out: Prefixes in S3.
            instance, instances: The machines.

        Returns:
            Its ARN.
        """
        model = self._model(registry.resolve(version).sha256, registry, image, role, {})
        kind = "application/jsonlines"
        with self._reached():
            made = self._sagemaker.create_transform_job(
                TransformJobName=name,
                ModelName=model,
                MaxPayloadInMB=6,
                BatchStrategy="MultiRecord",
                TransformInput={
                    "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": source}},
                    "ContentType": kind,
                    "SplitType": "Line",
                },
                TransformOutput={"S3OutputPath": out, "Accept": kind, "AssembleWith": "Line"},
                TransformResources={"InstanceType": instance, "InstanceCount": instances},
            )
            return str(made["TransformJobArn"])

    def pipeline(self, name: str, role: str, *, spot: bool = True) -> str:
        """Create or update the pipeline. Returns its ARN."""
        text = json.dumps(definition(spot=spot))
        with self._reached():
            if self._exists("describe_pipeline", PipelineName=name):
                return str(
                    self._sagemaker.update_pipeline(PipelineName=name, PipelineDefinition=text, RoleArn=role)[
                        "PipelineArn"
                    ]
                )
            made = self._sagemaker.create_pipeline(
                PipelineName=name,
                PipelineDefinition=text,
                RoleArn=role,
                ClientRequestToken=f"{name}-{_now()}".ljust(32, "0")[:128],
            )
            return str(made["PipelineArn"])

    def start_pipeline(self, name: str, parameters: Mapping[str, str]) -> str:
        """Start an execution of the pipeline. Returns its ARN."""
        values = [{"Name": key, "Value": value} for key, value in parameters.items()]
        with self._reached():
            started = self._sagemaker.start_pipeline_execution(PipelineName=name, PipelineParameters=values)
            return str(started["PipelineExecutionArn"])

    def status(self, kind: str, name: str) -> dict[str, Any]:
        """What SageMaker says of a job, endpoint or execution: `status`, `failure` and the time of the last change."""
        call, argument, field = KINDS[kind]
        with self._reached():
            answer = getattr(self._sagemaker, call)(**{argument: name})
        return {
            "name": name,
            "status": answer[field],
            "failure": answer.get("FailureReason"),
            "changed": str(answer.get("LastModifiedTime", "")) or None,
        }

    def _model(self, sha: str, registry: Registry, image: str, role: str, environment: Mapping[str, str]) -> str:
        """The model of a version, which is made if there is none. Raises ConfigError for a registry that is not in S3."""
        storage = getattr(registry.place, "storage", None)
        url = "" if storage is None else str(storage.url)
        if not url.startswith("s3://"):
            raise ConfigError(
                f"the registry must be s3://BUCKET/PREFIX or sagemaker://GROUP (got {registry.place.url})"
            )
        setting = _short_hash([image, role, sorted(environment.items())])
        name = f"tsa-{sha[:16]}-{setting}"
        with self._reached():
            if not self._exists("describe_model", ModelName=name):
                container = {"Image": image, "ModelDataUrl": f"{url}/versions/{sha}/bundle.tar.gz"}
                if environment:
                    container |= {"Environment": dict(environment)}  # type: ignore[dict-item]
                self._sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=role)
        return name

    def _exists(self, call: str, **argument: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            getattr(self._sagemaker, call)(**argument)
        except ClientError as error:
            if error.response["Error"]["Code"] in (
                "ValidationException",
                "ResourceNotFound",
                "ResourceNotFoundException",
            ):
                return False
            raise
        return True

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Raise boto3's errors as ConfigError."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError, Boto3Error) as error:
            check = "check the names, the role, the region and the credentials"
            raise ConfigError(f"SageMaker cannot do this: {error}; {check}") from error


def job_name(given: str | None, kind: str) -> str:
    """The name of a job: the one given, or one with the time. Raises ConfigError if it is no name for SageMaker."""
    if given is None:
        return f"tsa-{kind}-{_now()}"
    if not NAME.fullmatch(given):
        raise ConfigError(f"a name must have 1 to 63 letters, digits and single hyphens (got {given!r:.80})")
    return given


def pairs(texts: Sequence[str], what: str) -> dict[str, str]:
    """`KEY=VALUE` texts as a dict. Raises ConfigError for any other text."""
    for text in texts:
        if "=" not in text[1:]:
            raise ConfigError(f"{what} must be KEY=VALUE (got {text!r:.80})")
    return {key: value for key, _, value in (text.partition("=") for text in texts)}


def _short_hash(value: Any) -> str:
    from tsa.bundle.manifest import sha256

    return sha256(json.dumps(value).encode())[:8]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y%m%d%H%M%S")
