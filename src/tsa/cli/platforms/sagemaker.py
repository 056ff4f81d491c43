"""Commands on SageMaker: `tsa sagemaker train | deploy | transform | pipeline | status`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tsa.cli.app import app
from tsa.cli.console import print_line
from tsa.cli.groups import make_group
from tsa.cli.registry import Place, VersionName, user_name
from tsa.cli.terminal.results import result
from tsa.errors import ConfigError
from tsa.text import truncate_repr

sagemaker = make_group("Train, serve and score on SageMaker, by jobs, endpoints and a pipeline.")
app.add_typer(sagemaker, name="sagemaker")

Role = Annotated[str, typer.Option(help="The ARN of the role that SageMaker uses.", show_default=False)]
Image = Annotated[str, typer.Option(help="The image in ECR.", show_default=False)]
Name = Annotated[
    str | None, typer.Option("--name", help="Name of the job; default: made from the time.", show_default=False)
]
Instances = Annotated[int, typer.Option(min=1, help="Number of instances.")]


@sagemaker.command()
def train(
    inputs: Annotated[
        list[str],
        typer.Argument(help="CHANNEL=PLACE: training, market; a file, folder or s3://PREFIX.", show_default=False),
    ],
    role: Role,
    image: Image,
    output: Annotated[
        str | None, typer.Option(help="s3://PREFIX for models and checkpoints.", show_default=False)
    ] = None,
    name: Name = None,
    instance: Annotated[str, typer.Option(help="The instance type.")] = "ml.g5.xlarge",
    instances: Instances = 1,
    spot: Annotated[bool, typer.Option(help="Use spot instances; training continues from its checkpoints.")] = True,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A hyperparameter, such as training.epochs=20. Repeatable.")
    ] = None,
) -> None:
    """Upload the inputs and start a training job with the training image."""
    from tsa.integrations.sagemaker.client import Jobs
    from tsa.integrations.sagemaker.requests import Training, job_name, pairs

    channels = pairs(inputs, "an input", "CHANNEL=PLACE, such as training=s3://bucket/store")
    chosen, jobs = job_name(name, "training"), Jobs()
    place = (output or f"s3://{jobs.bucket()}/tsa").rstrip("/")
    uploaded = {
        channel: jobs.upload(source, f"{place}/inputs/{chosen}/{channel}") for channel, source in channels.items()
    }
    job = Training(
        name=chosen,
        image=image,
        role=role,
        inputs=uploaded,
        output=place,
        hyperparameters=pairs(set_ or [], "--set"),
        instance=instance,
        instances=instances,
        spot=spot,
    )
    arn = jobs.train(job)
    result({"job": chosen, "arn": arn})
    print_line(f"{chosen}: started ({arn})")


@sagemaker.command()
def deploy(
    endpoint: Annotated[str, typer.Argument(help="The endpoint's name.", show_default=False)],
    url: Place,
    role: Role,
    image: Image,
    instance: Annotated[str, typer.Option(help="The instance type.")] = "ml.m5.large",
    instances: Instances = 1,
    challenger_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="The challenger's share of the requests.")
    ] = 0.1,
    capture: Annotated[
        str | None, typer.Option(help="s3://PREFIX for requests and answers.", show_default=False)
    ] = None,
    alarm: Annotated[
        list[str] | None, typer.Option(help="A CloudWatch alarm that rolls an update back. Repeatable.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="A variable of the containers, such as TSA_HISTORY=URL. Repeatable.")
    ] = None,
) -> None:
    """Create or update an endpoint that serves the registry's champion and challenger."""
    from tsa.integrations.sagemaker.client import Jobs
    from tsa.integrations.sagemaker.requests import Endpoint, job_name, pairs
    from tsa.registry import Registry

    settings: dict[str, Any] = {"instance": instance, "instances": instances, "challenger_share": challenger_share}
    made = Endpoint(
        name=job_name(endpoint, "endpoint"), role=role, capture=capture, alarms=tuple(alarm or ()), **settings
    )
    arn = Jobs().deploy(made, Registry.open(url), image, pairs(env or [], "--env"))
    result({"endpoint": endpoint, "arn": arn})
    print_line(f"{endpoint}: {arn}")


@sagemaker.command()
def transform(
    version: VersionName,
    source: Annotated[str, typer.Argument(help="Rows as JSON lines: a file, folder or s3://PREFIX.")],
    url: Place,
    role: Role,
    image: Image,
    out: Annotated[str, typer.Option("--out", help="s3://PREFIX for the scores.", show_default=False)],
    name: Name = None,
    instance: Annotated[str, typer.Option(help="The instance type.")] = "ml.m5.xlarge",
    instances: Instances = 1,
) -> None:
    """Start a batch transform job that scores files with a version of the registry."""
    from tsa.integrations.sagemaker.client import Jobs
    from tsa.integrations.sagemaker.requests import Transform, job_name
    from tsa.registry import Registry

    if not out.startswith("s3://"):
        raise ConfigError(f"--out must be s3://BUCKET/PREFIX (got {truncate_repr(out, 80)})")
    chosen, jobs = job_name(name, "transform"), Jobs()
    uploaded = jobs.upload(source, f"{out.rstrip('/')}/inputs/{chosen}")
    job = Transform(name=chosen, source=uploaded, out=out, instance=instance, instances=instances)
    arn = jobs.transform(job, Registry.open(url), version, image=image, role=role)
    result({"job": chosen, "arn": arn})
    print_line(f"{chosen}: started ({arn})")


@sagemaker.command()
def pipeline(
    name: Annotated[str, typer.Option("--name", help="The pipeline's name.")] = "tsa",
    role: Annotated[
        str | None, typer.Option(help="Create or update the pipeline, with this role (ARN).", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the definition into this file.", show_default=False)
    ] = None,
    start: Annotated[
        list[str] | None,
        typer.Option("--start", help="Start the pipeline with this parameter, NAME=VALUE. Repeatable."),
    ] = None,
    spot: Annotated[bool, typer.Option(help="Train on spot instances.")] = True,
) -> None:
    """Write, create or start the pipeline: preprocess, train, calibrate, evaluate, condition, register."""
    from tsa.files.outputs import check_outputs
    from tsa.files.writing import need_suffix, write_json
    from tsa.integrations.sagemaker.client import Jobs
    from tsa.integrations.sagemaker.pipeline import PARAMETERS, definition
    from tsa.integrations.sagemaker.requests import job_name, pairs

    parameters = pairs(start or [], "--start")
    if unknown := sorted(set(parameters) - set(PARAMETERS)):
        raise ConfigError(f"the pipeline has no parameter {unknown[0]!r} (it has {', '.join(PARAMETERS)})")
    if start and (
        missing := [key for key, (_, value) in PARAMETERS.items() if value is None and key not in parameters]
    ):
        raise ConfigError(f"the pipeline needs {', '.join(missing)} (got {', '.join(parameters)})")
    if out is None and role is None and not start:
        raise ConfigError("tsa sagemaker pipeline needs --out, --role or --start (got none of them)")
    chosen = job_name(name, "pipeline")
    if out is not None:
        check_outputs([], files={"--out": out})
        need_suffix("--out", out, ".json")
        write_json(out, definition(spot=spot))
        result({"out": str(out)})
        print_line(f"{out}: the definition")
    if role is not None:
        arn = Jobs().pipeline(chosen, role, spot=spot)
        result({"pipeline": chosen, "arn": arn})
        print_line(f"{chosen}: {arn}")
    if start:
        arn = Jobs().start_pipeline(chosen, parameters)
        result({"pipeline": chosen, "arn": arn})
        print_line(f"{chosen}: started ({arn})")


@sagemaker.command()
def status(
    kind: Annotated[str, typer.Argument(help="training, transform, endpoint or pipeline.", show_default=False)],
    name: Annotated[str, typer.Argument(help="Its name; of a pipeline, the ARN of an execution.", show_default=False)],
    register: Annotated[
        str | None,
        typer.Option(
            help="Publish the bundle of a finished training job in this registry, such as sagemaker://GROUP.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show what has become of a job, an endpoint or an execution. The exit code is 1 if it failed."""
    from tsa.integrations.sagemaker.client import KINDS, Jobs

    if kind not in KINDS:
        *others, last = KINDS
        raise ConfigError(f"KIND must be {', '.join(others)} or {last} (got {truncate_repr(kind, 80)})")
    if register is not None and kind != "training":
        raise ConfigError(f"--register must go with a training job (got {kind})")
    jobs = Jobs()
    answer = jobs.status(kind, name)
    failure = "" if answer["failure"] is None else f": {answer['failure']}"
    result(answer)
    print_line(f"{name}: {answer['status']}{failure}")
    if register is not None:
        version = jobs.register(name, register, by=user_name())
        print_line(f"{register}: version {version.short} of market {version.market}")
    if answer["status"] == "Failed":
        raise typer.Exit(1)
