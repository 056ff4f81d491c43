"""A SageMaker Pipeline of one bundle: preprocess, train, calibrate, evaluate, condition, register.

`definition` gives the JSON document. Everything that differs between markets is a parameter of it, so that two markets are two
sets of parameters of one pipeline: `tsa sagemaker pipeline`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

VERSION = "2020-12-01"
"""The version of the schema of definitions."""
PROCESSING = "/opt/ml/processing"
PARAMETERS: Mapping[str, tuple[str, str | int | float | None]] = {
    "Market": ("String", None),
    "MarketFolder": ("String", None),
    "Logs": ("String", None),
    "Output": ("String", None),
    "Registry": ("String", None),
    "Role": ("String", None),
    "TrainingImage": ("String", None),
    "ProcessingImage": ("String", None),
    "Preset": ("String", "default"),
    "TrainingInstance": ("String", "ml.g5.xlarge"),
    "TrainingInstances": ("Integer", 1),
    "ProcessingInstance": ("String", "ml.m5.2xlarge"),
    "CalibrationMethod": ("String", "bspline"),
    "MinAveragePrecision": ("Float", 0.0),
    "Alias": ("String", "challenger"),
}
"""Name -> type and default; those without a default have to be given."""
MAX_SECONDS, MAX_WAIT_SECONDS, VOLUME_GB = 86_400, 172_800, 100

Definition = dict[str, Any]


def parameter(name: str) -> dict[str, str]:
    """A reference to a parameter. Raises KeyError for one that the pipeline does not have."""
    PARAMETERS[name]
    return {"Get": f"Parameters.{name}"}


def definition(*, spot: bool = True) -> Definition:
    """The pipeline's definition.

    Args:
        spot: Whether training uses spot instances; it continues from its checkpoints when one is taken away.
    """
    return {
        "Version": VERSION,
        "Metadata": {},
        "Parameters": [
            {"Name": name, "Type": kind, **({} if default is None else {"DefaultValue": default})}
            for name, (kind, default) in PARAMETERS.items()
        ],
        "PipelineExperimentConfig": {
            "ExperimentName": {"Get": "Execution.PipelineName"},
            "TrialName": {"Get": "Execution.PipelineExecutionId"},
        },
        "Steps": [_preprocess(), _train(spot), _calibrate(), _evaluate(), _condition()],
    }


def _join(*values: Any, on: str = "/") -> dict[str, Any]:
    return {"Std:Join": {"On": on, "Values": list(values)}}


def _place(name: str) -> dict[str, Any]:
    """A folder in S3 for what a step writes; each execution has its own."""
    return _join(parameter("Output"), {"Get": "Execution.PipelineExecutionId"}, name)


def _preprocess() -> Definition:
    return _processing(
        "Preprocess",
        ["preprocess", "--market", parameter("Market")],
        inputs={"logs": parameter("Logs"), "market": parameter("MarketFolder")},
        outputs=("store",),
    )


def _train(spot: bool) -> Definition:
    channel = {
        "ChannelName": "training",
        "DataSource": {
            "S3DataSource": {
                "S3DataType": "S3Prefix",
                "S3Uri": _output_of("Preprocess", "store"),
                "S3DataDistributionType": "FullyReplicated",
            }
        },
    }
    arguments = {
        "AlgorithmSpecification": {"TrainingImage": parameter("TrainingImage"), "TrainingInputMode": "File"},
        "RoleArn": parameter("Role"),
        "HyperParameters": {"preset": parameter("Preset"), "evaluate": "false"},
        "InputDataConfig": [channel],
        "OutputDataConfig": {"S3OutputPath": _place("model")},
        "ResourceConfig": {
            "InstanceType": parameter("TrainingInstance"),
            "InstanceCount": parameter("TrainingInstances"),
            "VolumeSizeInGB": VOLUME_GB,
        },
        "EnableManagedSpotTraining": spot,
        "CheckpointConfig": {"S3Uri": _place("checkpoints")},
        "StoppingCondition": stopping_condition(spot),
    }
    return {"Name": "Train", "Type": "Training", "Arguments": arguments}


def stopping_condition(spot: bool) -> dict[str, int]:
    """How long a training may take, and wait for spot instances."""
    waiting = {"MaxWaitTimeInSeconds": MAX_WAIT_SECONDS} if spot else {}
    return {"MaxRuntimeInSeconds": MAX_SECONDS, **waiting}


def _calibrate() -> Definition:
    return _processing(
        "Calibrate",
        ["calibrate", "--method", parameter("CalibrationMethod")],
        inputs={
            "logs": parameter("Logs"),
            "model": {"Get": "Steps.Train.ModelArtifacts.S3ModelArtifacts"},
        },
        outputs=("bundle",),
    )


def _evaluate() -> Definition:
    step = _processing(
        "Evaluate",
        ["evaluate"],
        inputs={"logs": parameter("Logs"), "bundle": _output_of("Calibrate", "bundle")},
        outputs=("bundle", "report"),
    )
    files = [{"PropertyFileName": "Evaluation", "OutputName": "report", "FilePath": "evaluation.json"}]
    return {**step, "PropertyFiles": files}


def _condition() -> Definition:
    """Register the bundle if its average precision is at least the parameter; else the execution ends without one."""
    measured = {
        "Std:JsonGet": {
            "PropertyFile": {"Get": "Steps.Evaluate.PropertyFiles.Evaluation"},
            "Path": "metrics.average_precision.value",
        }
    }
    return {
        "Name": "GoodEnough",
        "Type": "Condition",
        "Arguments": {
            "Conditions": [
                {
                    "Type": "GreaterThanOrEqualTo",
                    "LeftValue": measured,
                    "RightValue": parameter("MinAveragePrecision"),
                }
            ],
            "IfSteps": [_register()],
            "ElseSteps": [
                {
                    "Name": "NotGoodEnough",
                    "Type": "Fail",
                    "Arguments": {"ErrorMessage": "the average precision is below MinAveragePrecision"},
                }
            ],
        },
    }


def _register() -> Definition:
    return _processing(
        "Register",
        ["register", "--registry", parameter("Registry"), "--alias", parameter("Alias"), "--by", "pipeline"],
        inputs={"bundle": _output_of("Evaluate", "bundle")},
        outputs=(),
    )


def _output_of(step: str, name: str) -> dict[str, str]:
    return {"Get": f"Steps.{step}.ProcessingOutputConfig.Outputs['{name}'].S3Output.S3Uri"}


def _processing(name: str, words: Sequence[Any], *, inputs: Mapping[str, Any], outputs: Sequence[str]) -> Definition:
    arguments: Definition = {
        "ProcessingResources": {
            "ClusterConfig": {
                "InstanceCount": 1,
                "InstanceType": parameter("ProcessingInstance"),
                "VolumeSizeInGB": VOLUME_GB,
            }
        },
        "AppSpecification": {
            "ImageUri": parameter("ProcessingImage"),
            "ContainerEntrypoint": ["python", "-m", "tsa.integrations.sagemaker.steps"],
            "ContainerArguments": list(words),
        },
        "RoleArn": parameter("Role"),
        "StoppingCondition": {"MaxRuntimeInSeconds": MAX_SECONDS},
        "ProcessingInputs": [
            {
                "InputName": input_name,
                "AppManaged": False,
                "S3Input": {
                    "S3Uri": uri,
                    "LocalPath": f"{PROCESSING}/input/{input_name}",
                    "S3DataType": "S3Prefix",
                    "S3InputMode": "File",
                    "S3DataDistributionType": "FullyReplicated",
                    "S3CompressionType": "None",
                },
            }
            for input_name, uri in inputs.items()
        ],
    }
    if outputs:
        arguments["ProcessingOutputConfig"] = {
            "Outputs": [
                {
                    "OutputName": output,
                    "AppManaged": False,
                    "S3Output": {
                        "S3Uri": _place(f"{name.lower()}/{output}"),
                        "LocalPath": f"{PROCESSING}/output/{output}",
                        "S3UploadMode": "EndOfJob",
                    },
                }
                for output in outputs
            ]
        }
    return {"Name": name, "Type": "Processing", "Arguments": arguments}
