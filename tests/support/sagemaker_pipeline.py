"""Runs the steps of a pipeline's definition on this machine, on the folders that SageMaker would mount."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tsa.integrations.sagemaker import steps, training

OUTPUT = re.compile(r"Steps\.(\w+)\.ProcessingOutputConfig\.Outputs\['(\w+)'\]\.S3Output\.S3Uri")


class LocalPipeline:
    """One execution. Places in S3 are folders below `root`."""

    def __init__(
        self, definition: Mapping[str, Any], parameters: Mapping[str, Any], root: Path, *, processes: bool = False
    ) -> None:
        """Prepare an execution.

        Args:
            definition: As the service gets it.
            parameters: Values by name, over the defaults.
            root: For everything that is written.
            processes: Run each step's command as a process, instead of its `main` in this one.
        """
        self.definition, self.root, self.processes = definition, root, processes
        defaults = {p["Name"]: p["DefaultValue"] for p in definition["Parameters"] if "DefaultValue" in p}
        assert set(parameters) <= {p["Name"] for p in definition["Parameters"]}
        self.parameters = {**defaults, **parameters}
        self.outputs: dict[str, Path] = {}
        self.ran: list[str] = []

    def run(self, hyperparameters: Mapping[str, str]) -> None:
        """Run all steps; the hyperparameters are added to those of the training, to make it small."""
        for step in self.definition["Steps"]:
            self._step(step, hyperparameters)

    def value(self, text: Any) -> Any:
        """Resolve references and functions as the service does."""
        if isinstance(text, dict) and "Get" in text:
            name = text["Get"]
            if match := OUTPUT.fullmatch(name):
                return str(self.outputs[f"{match[1]}/{match[2]}"])
            if name == "Steps.Train.ModelArtifacts.S3ModelArtifacts":
                return str(self.outputs["Train"])
            kind, _, rest = name.partition(".")
            return self.parameters[rest] if kind == "Parameters" else {"PipelineExecutionId": "execution1"}[rest]
        if isinstance(text, dict) and "Std:Join" in text:
            return text["Std:Join"]["On"].join(str(self.value(part)) for part in text["Std:Join"]["Values"])
        if isinstance(text, dict) and "Std:JsonGet" in text:
            found = json.loads((self.outputs["Evaluate/report"] / "evaluation.json").read_text())
            for key in text["Std:JsonGet"]["Path"].split("."):
                found = found[key]
            return found
        return text

    def _step(self, step: Mapping[str, Any], hyperparameters: Mapping[str, str]) -> None:
        if step["Type"] == "Condition":
            (condition,) = step["Arguments"]["Conditions"]
            good = self.value(condition["LeftValue"]) >= self.value(condition["RightValue"])
            for inner in step["Arguments"]["IfSteps" if good else "ElseSteps"]:
                self._step(inner, hyperparameters)
            return
        self.ran.append(step["Name"])
        if step["Type"] == "Processing":
            self._process(step["Name"], step["Arguments"])
        elif step["Type"] == "Training":
            self._train(step["Arguments"], hyperparameters)

    def _process(self, name: str, arguments: Mapping[str, Any]) -> None:
        base = self.root / name
        for given in arguments["ProcessingInputs"]:
            source = Path(self.value(given["S3Input"]["S3Uri"]))
            target = base / Path(given["S3Input"]["LocalPath"]).relative_to("/opt/ml")
            target.mkdir(parents=True)
            for file in [source] if source.is_file() else list(source.iterdir()):
                (shutil.copytree if file.is_dir() else shutil.copy)(file, target / file.name)
        words = [str(self.value(word)) for word in arguments["AppSpecification"]["ContainerArguments"]]
        entry = arguments["AppSpecification"]["ContainerEntrypoint"]
        self._command(base, [*entry, *words], lambda: steps.main(words))
        for output in arguments.get("ProcessingOutputConfig", {"Outputs": []})["Outputs"]:
            folder = base / Path(output["S3Output"]["LocalPath"]).relative_to("/opt/ml")
            assert any(folder.iterdir())
            self.outputs[f"{name}/{output['OutputName']}"] = folder

    def _train(self, arguments: Mapping[str, Any], hyperparameters: Mapping[str, str]) -> None:
        base, (channel,) = self.root / "Train", arguments["InputDataConfig"]
        data = base / "input" / "data" / channel["ChannelName"]
        shutil.copytree(self.value(channel["DataSource"]["S3DataSource"]["S3Uri"]), data)
        config = base / "input" / "config"
        config.mkdir(parents=True)
        given = {key: self.value(value) for key, value in arguments["HyperParameters"].items()}
        (config / "hyperparameters.json").write_text(json.dumps({**given, **hyperparameters}))
        mode = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}
        (config / "inputdataconfig.json").write_text(json.dumps({channel["ChannelName"]: mode}))
        self._command(base, ["python", "-m", "tsa.integrations.sagemaker.training"], training.main)
        with tarfile.open(base / "model.tar.gz", "w:gz") as tar:  # as the platform does it
            for path in sorted((base / "model").iterdir()):
                tar.add(path, path.name)
        self.outputs["Train"] = base / "model.tar.gz"

    def _command(self, base: Path, command: list[str], main: Any) -> None:
        environment = {"SAGEMAKER_BASE_DIR": str(base)}
        if self.processes:
            words = [sys.executable, *command[1:]]
            done = subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            return
        with patch.dict(os.environ, environment):
            assert main() == 0
