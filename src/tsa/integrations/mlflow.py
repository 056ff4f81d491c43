"""`BundleModel`: a bundle that MLflow loads, for `mlflow models serve` and `mlflow.pyfunc.load_model`.

Rows, limits, scores and answers are those of the server's route /invocations. The settings are those of SageMaker's containers,
such as TSA_HISTORY for the history store; without one, payments of a log have to bring their `histories`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pandas as pd
from mlflow.pyfunc.model import PythonModel

from tsa.errors import DataError
from tsa.integrations.sagemaker.serving import input_fn, model_fn, predict_fn, request_bounds
from tsa.serving.problems import ProblemError


class BundleModel(PythonModel):
    """The bundle in the artifact `bundle`."""

    def load_context(self, context: Any) -> None:
        """Open the bundle. Raises what opening it raises."""
        self.model = model_fn(str(Path(context.artifacts["bundle"]).parent))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Score payments.

        Args:
            context: Not used.
            model_input: One row per payment, with the columns of a request; NaN and None are missing values.
            params: Not used.

        Returns:
            One row per payment, in the same order, with the fields of an answer; a refused payment has only `problem`.
            Missing fields are None.

        Raises:
            DataError: If no row can be read.
        """
        rows = [
            {name: None if _is_missing(value) else value for name, value in row.items()}
            for row in model_input.to_dict("records")
        ]
        most = request_bounds()["max_list"]
        parts = [self._answers(rows[start : start + most]) for start in range(0, len(rows), most)]
        answers = [answer for part in parts for answer in part]
        names = dict.fromkeys(name for answer in answers for name in answer)
        # objects, so that a missing field is None, which JSON has, and not NaN, which it has not
        return pd.DataFrame({name: pd.Series([a.get(name) for a in answers], dtype=object) for name in names})

    def _answers(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        request = input_fn(orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY), "application/json")
        answer = predict_fn(request, self.model)
        if isinstance(answer, ProblemError):
            raise DataError(f"the payments cannot be scored: {answer.detail} (rule {answer.rule})")
        return answer.documents


def _is_missing(value: Any) -> bool:
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))
