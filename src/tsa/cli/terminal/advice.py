"""What to do after an error: a line below the message, unless the message says it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import BaseModel

from tsa import errors

NEXT: dict[type[Exception], str] = {
    errors.MarketError: "correct the market file or the setting; docs/reference/settings.md has every key",
    errors.DataError: "correct the log or the market file; tsa check --market FILE LOG shows what does not fit",
    errors.StoreError: "make the store again with tsa prepare, from the log and the market file",
    errors.ConfigError: "correct the option or the setting; --help shows what a command takes",
    errors.ModelError: "use weights and settings of one model, or train it again with tsa train",
    errors.TrainingStopped: "continue with the same command and --resume",
    errors.TrainingError: "change what the message names, then train again; --resume continues from the last checkpoint",
    errors.CalibrationError: "calibrate with a log that has more known frauds: tsa calibrate",
    errors.BundleError: "copy the bundle again from where it was made, or make it again with tsa train",
    errors.RegistryError: "correct the address or the name; tsa registry list ADDRESS shows what a registry has",
    errors.HistoryLost: "see docs/concepts/history-store.md; tsa history adopt accepts the store as it is",
    errors.HistoryUnavailable: "start the store, or correct --history; tsa history show tries it",
    errors.HistoryError: "use the store of this market, or load a new one with tsa history load",
    errors.ClusterError: "see the state of the cluster with ray status, then run the command again",
    errors.ServerError: "read the log above this line; docs/how-to/operations.md says what ends workers",
    errors.ArtefactError: "compare the folder with docs/how-to/legacy.md, then import it again",
}
"""By class of error, the most special first."""
OTHERWISE = "check the path, its permissions and the free space, then run the command again"
"""After an error of the system."""

VERBS = (
    "add|answer|ask|calibrate|change|check|choose|compare|continue|convert|copy|correct|evaluate|export|finish|free|give|"
    "install|keep|leave|load|make|mount|move|name|pip|prepare|publish|raise|read|remove|rename|run|save|say|score|see|send|"
    "set|start|stop|train|try|tsa|unpack|upload|use|wait|write"
)
HAS_ADVICE = re.compile(
    rf"(?:[:;,.)] (?:in [^ ]+ |with [^ ]+ |then |first |or |and )?)(?:{VERBS})\b(?! (?:must|is|was|has)\b)"
)
"""A message in which a clause begins with what to do."""


MISSING = re.compile(r"columns do not fit (the market '[^']*')\n(?:.|\n)*: missing")

UNKNOWN = re.compile(r"(?:^ *|settings only \(got )([a-z_]+)(?:: unknown key|=)", re.MULTILINE)
"""A key without a section that the market does not have."""


def next_step(error: Exception, text: str, arguments: Sequence[str] = ()) -> str | None:
    """What to do after an error with this message; None if the message says it.

    Args:
        arguments: The command and its arguments, by which the step differs.
    """
    lines = text.splitlines()
    if isinstance(error, errors.DataError) and arguments:
        return _step_for_data(text, arguments)
    if (match := UNKNOWN.search(text)) is not None and (meant := _section_of(match[1])) is not None:
        return f"write {meant}.{match[1]}, which is a setting of the {meant}"
    if lines and (HAS_ADVICE.search(lines[-1]) or ("; did you mean " in lines[-1] and len(lines) == 1)):
        return None
    if text.endswith("no such file"):
        return OTHERWISE
    return next((step for kind, step in NEXT.items() if isinstance(error, kind)), OTHERWISE)


def _section_of(name: str) -> str | None:
    """The section that has a setting of this name, which was given without it."""
    from tsa.model.config import ModelConfig
    from tsa.training.config import TrainingConfig

    sections: dict[str, type[BaseModel]] = {"training": TrainingConfig, "model": ModelConfig}
    return next((section for section, config in sections.items() if name in config.model_fields), None)


def _step_for_data(text: str, arguments: Sequence[str]) -> str | None:
    """The step for a log: a command without a market file takes the market of its bundle, store or run."""
    if HAS_ADVICE.search(text.splitlines()[-1] if text else ""):
        return None
    if text.endswith("it is empty") or text.endswith(": is empty"):
        return "give a log with rows"
    if arguments[0] == "init":
        return "correct the log"
    if arguments[0] == "check":
        return "correct the log or the market file"
    if any(argument.partition("=")[0] in ("--market", "-m") for argument in arguments):
        return NEXT[errors.DataError]
    if (missing := MISSING.search(text)) is not None:
        return f"add the columns to the log: {missing[1]} needs them"
    return "correct the log"
