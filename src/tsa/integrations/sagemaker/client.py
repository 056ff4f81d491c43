"""`Jobs` sends requests to SageMaker with boto3: for training, models, endpoints, transform jobs and pipelines."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tsa.errors import ConfigError
from tsa.integrations.sagemaker.pipeline import definition
from tsa.integrations.sagemaker.requests import CHALLENGER, CHAMPION, Endpoint, Training, Transform, now
from tsa.integrations.sagemaker.steps import MODEL, unpacked
from tsa.optional_libraries import imported
from tsa.registry import Registry, Version
from tsa.registry.sagemaker import default_bucket

KINDS = {
    "training": ("describe_training_job", "TrainingJobName", "TrainingJobStatus"),
    "transform": ("describe_transform_job", "TransformJobName", "TransformJobStatus"),
    "endpoint": ("describe_endpoint", "EndpointName", "EndpointStatus"),
    "pipeline": ("describe_pipeline_execution", "PipelineExecutionArn", "PipelineExecutionStatus"),
}
"""What `status` can look at: the call, the name of its argument, and the field with the status."""


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
        config = f"{endpoint.name[:40]}-{'-'.join(sha[:8] for sha in shas.values())}-{now()}"[:63]
        with self._reached():
            self._sagemaker.create_endpoint_config(**endpoint.config(config, models))
            if self._exists("describe_endpoint", EndpointName=endpoint.name):
                return str(self._sagemaker.update_endpoint(**endpoint.update(config))["EndpointArn"])
            made = self._sagemaker.create_endpoint(EndpointName=endpoint.name, EndpointConfigName=config)
            return str(made["EndpointArn"])

    def transform(self, job: Transform, registry: Registry, version: str, *, image: str, role: str) -> str:
        """Start a job that scores files.

        Args:
            job: The job.
            registry: A registry in S3 or SageMaker.
            version: An alias, or the beginning of a sha256.
            image: The serving image.
            role: The ARN of the job's role.

        Returns:
            Its ARN.
        """
        model = self._model(registry.resolve(version).sha256, registry, image, role, {})
        with self._reached():
            return str(self._sagemaker.create_transform_job(**job.request(model))["TransformJobArn"])

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
                ClientRequestToken=f"{name}-{now()}".ljust(32, "0")[:128],
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


def _short_hash(value: Any) -> str:
    from tsa.bundle.manifest import sha256

    return sha256(json.dumps(value).encode())[:8]
