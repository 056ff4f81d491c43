"""The pipeline's definition: references lead to parameters and steps that exist, and its requests are those of the service."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.validate import ParamValidator

from tsa.integrations.sagemaker.pipeline import PARAMETERS, definition, parameter

OPERATIONS = {"Training": "CreateTrainingJob", "Processing": "CreateProcessingJob"}
ASSIGNED = {"Training": {"TrainingJobName": "n"}, "Processing": {"ProcessingJobName": "n"}}
"""What the service adds to the arguments of a step."""
OUTPUT = re.compile(r"Steps\.(\w+)\.ProcessingOutputConfig\.Outputs\['(\w+)'\]\.S3Output\.S3Uri")
TEXT = "s3://bucket/a-prefix-that-is-long"
NUMBERS = {"TrainingInstances": 1, "MinAveragePrecision": 0.5}


def steps() -> list[dict[str, Any]]:
    """All steps, those of the condition after it."""
    listed = []
    for step in definition()["Steps"]:
        listed.append(step)
        if step["Type"] == "Condition":
            listed += step["Arguments"]["IfSteps"] + step["Arguments"]["ElseSteps"]
    return listed


def references(value: Any) -> Iterator[str]:
    """Every reference in a value."""
    if isinstance(value, dict):
        if "Get" in value:
            yield value["Get"]
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def resolved(value: Any) -> Any:
    """A value whose references and functions are texts, or numbers where the parameter is one."""
    if isinstance(value, dict):
        if "Get" in value:
            return NUMBERS.get(value["Get"].removeprefix("Parameters."), TEXT)
        if "Std:Join" in value:
            return TEXT
        return {key: resolved(part) for key, part in value.items()}
    return [resolved(part) for part in value] if isinstance(value, list) else value


def test_the_steps_are_those_of_the_legacy_pipeline() -> None:
    names = [step["Name"] for step in steps()]
    assert names == ["Preprocess", "Train", "Calibrate", "Evaluate", "GoodEnough", "Register", "NotGoodEnough"]
    assert json.loads(json.dumps(definition())) == definition()


def test_every_reference_leads_somewhere() -> None:
    before: dict[str, dict[str, Any]] = {}
    for step in steps():
        for name in references(step["Arguments"]):
            if name.startswith("Parameters."):
                assert name.removeprefix("Parameters.") in PARAMETERS
            elif match := OUTPUT.fullmatch(name):
                outputs = before[match[1]]["Arguments"]["ProcessingOutputConfig"]["Outputs"]
                assert match[2] in {output["OutputName"] for output in outputs}
            elif name.startswith("Steps.Evaluate.PropertyFiles."):
                (file,) = before["Evaluate"]["PropertyFiles"]
                assert name.endswith(f".{file['PropertyFileName']}")
                assert file["OutputName"] == "report"
            else:
                assert name in ("Steps.Train.ModelArtifacts.S3ModelArtifacts", "Execution.PipelineExecutionId")
        before[step["Name"]] = step
    used = set(references(definition()["Steps"]))
    assert {f"Parameters.{name}" for name in PARAMETERS} <= used


@pytest.mark.parametrize("step", [s for s in steps() if s["Type"] in OPERATIONS], ids=lambda step: step["Name"])
def test_arguments_are_requests_of_the_service(step: dict[str, Any]) -> None:
    """Checked against the service's model in botocore: names, types, required fields."""
    client = boto3.client("sagemaker", region_name="eu-central-1", aws_access_key_id="a", aws_secret_access_key="b")
    shape = client.meta.service_model.operation_model(OPERATIONS[step["Type"]]).input_shape
    request = {**ASSIGNED[step["Type"]], **resolved(step["Arguments"])}
    assert ParamValidator().validate(request, shape).generate_report() == ""


def test_without_spot_instances() -> None:
    training = definition(spot=False)["Steps"][1]["Arguments"]
    assert training["EnableManagedSpotTraining"] is False
    assert training["StoppingCondition"] == {"MaxRuntimeInSeconds": 86_400}


def test_a_parameter_that_is_not_there() -> None:
    with pytest.raises(KeyError):
        parameter("Zone")
