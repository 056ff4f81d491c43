"""`FraudClassifier`: from a data frame of payments to a model, its report, and scores.

It follows the conventions of scikit-learn, except where payments have an order in time: see the class.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from tsa.config.market import Market
from tsa.data.log.quarantine import QuarantineLike
from tsa.errors import CalibrationError, ConfigError, DataError
from tsa.estimator.fitted import FittedModel
from tsa.estimator.fitting import FitSettings, fit_frame
from tsa.estimator.frames import Frame, like, to_polars
from tsa.estimator.report import Report
from tsa.estimator.roles import table_of_roles
from tsa.explain import Explanation
from tsa.files.outputs import check_outputs
from tsa.progress_bars import automatic_bars


class FraudClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fraud model of a data frame of payments, one row each, with their outcomes.

    Columns that are not named are guessed as `tsa init` does; `roles_` says what was guessed, and why. For anything else
    a market can say, give `market`.

    It works as scikit-learn's classifiers do: `get_params`, `clone`, the last step of a `Pipeline`, `cross_validate` with
    `TimeSeriesSplit`. It differs where payments have an order in time:

    - It takes complete frames with the columns of time, id and keys, not a matrix of numbers. The outcome is a column; a
      separate `y` takes its place.
    - A payment's score depends on earlier payments of its keys: of the frame it was fitted on, or of `history`, and of
      the frame that is scored. Never on later ones. Outcomes of earlier payments count once they are known.
    - `score` returns scores, no accuracy. Give `cross_validate` a metric: `scoring="average_precision"`.
    - `predict_proba` needs frauds to calibrate with; `decision_function` does not.
    - Only `TimeSeriesSplit`, of a frame sorted by time, measures what happens in use. Folds that mix times let a model
      learn from the future.

    Attributes:
        classes_: The values of genuine and fraud.
        market_: What the columns mean, a `tsa.Market`.
        roles_: A table of the uses of the columns.
        threshold_: The raw score from which `predict` says fraud.

    Example:
        >>> import polars as pl
        >>> df = pl.read_parquet("payments.parquet").sort("paid_at")
        >>> small = {"training.epochs": 1, "model.width": 16, "model.parts": "network"}
        >>> model = tsa.FraudClassifier(label="is_fraud", keys="card_id", settings=small, compare=False)
        >>> model.fit(df[:5000]).decision_function(df[5000:]).shape
        (1000,)
    """

    def __init__(
        self,
        *,
        label: str | None = None,
        time: str | None = None,
        id: str | None = None,
        keys: Sequence[str] | str | None = None,
        amount: str | None = None,
        market: Market | Mapping[str, Any] | str | Path | None = None,
        preset: str = "default",
        settings: Mapping[str, Any] | None = None,
        compare: bool = True,
        quarantine: QuarantineLike = None,
        progress: bool | None = None,
    ) -> None:
        """Set the parameters. They are checked by `fit`.

        Args:
            label: The column of the outcome: 1 or yes for fraud, 0 or no for genuine, nothing if it is not known.
            time: The column of the time of the payment.
            id: The column of its id. Without one rows are numbered, and payments that `score` gets a second time
                cannot be recognised.
            keys: The columns that name a customer, a card, a merchant ...: the payments of a key are its history.
            amount: The column of the amount.
            market: A market, the path of a market file, or a dict of its tables; instead of the columns.
            preset: The network. default: the one of this project; reference or reference-two-history: that of the
                legacy system, with the sizes and histories of the market.
            settings: Settings by their names, such as {"training.epochs": 5, "history.0.length": 20}.
            compare: Whether to train LightGBM too, for the comparison in the report.
            quarantine: A file for rows that break a rule. Without it such rows are an error.
            progress: Whether to show progress. None: on a terminal and in a notebook.
        """
        self.label = label
        self.time = time
        self.id = id
        self.keys = keys
        self.amount = amount
        self.market = market
        self.preset = preset
        self.settings = settings
        self.compare = compare
        self.quarantine = quarantine
        self.progress = progress

    def fit(self, df: Frame, y: Any = None) -> Self:
        """Train on a frame: its oldest payments are learned from, its newest are the test of the report.

        Args:
            df: n payments, in any order.
            y: (n,) outcomes, instead of the column `label`.

        Raises:
            DataError: If a column is missing or cannot be guessed, or rows break a rule.
            ConfigError, MarketError: If a parameter breaks a rule.
            TrainingError: If there is too little to learn from.
        """
        given = FitSettings.of(self.get_params(deep=False))
        frame = to_polars(df, given.columns)
        if y is not None:
            frame = _with_outcomes(frame, y, given.label_column)
        with tempfile.TemporaryDirectory(prefix="tsa-fit-") as folder, automatic_bars(shown=self._shows()) as bars:
            self._use(fit_frame(frame, given, Path(folder), bars))
        self.n_features_in_ = frame.width
        self.feature_names_in_ = np.array(frame.columns, dtype=object)
        return self

    def score(self, df: Frame, y: None = None, *, history: Frame = None, quarantine: QuarantineLike = None) -> Frame:
        """Score payments. This is no accuracy: see the class.

        Args:
            df: n payments. Their outcomes, if they have any, count for later payments once they are known.
            y: Not used; scikit-learn's `Pipeline` passes it.
            history: Earlier payments, instead of those that the model was fitted on. A payment of both is taken from df.
            quarantine: A file for rows that break a rule. Without it such rows are an error.

        Returns:
            (n, ...) a frame of the same kind, in the order of df: id, raw_score, and, if the model is calibrated for
            them, percentile and probability. A row without a score has nulls.

        Raises:
            DataError: For rows that cannot be scored.
            NotFittedError: Before `fit`.
        """
        if y is not None:
            raise ConfigError(
                "score takes no outcomes (got y): it returns scores; measure them with sklearn.metrics, or give "
                'cross_validate scoring="average_precision"'
            )
        return like(self._scores(df, history, quarantine), df)

    def predict_proba(self, df: Frame, *, history: Frame = None) -> NDArray[np.float64]:
        """(n, 2) probabilities of genuine and of fraud, in the order of df; arguments as for `score`.

        Raises:
            CalibrationError: If the model has no probabilities, since too few frauds were known to fit them.
            DataError: If a payment cannot be scored.
        """
        model = self._fitted()
        calibration = model.bundle.calibration
        if calibration is None or calibration.probability is None:
            why = "" if calibration is None else calibration.reasons.get("probability", "")
            rule = f"probabilities need more known frauds ({why or 'the bundle is not calibrated'})"
            raise CalibrationError(f"{rule}: use score or decision_function, or fit on a longer frame")
        fraud = self._complete(df, history)["probability"].to_numpy()
        return np.column_stack([1.0 - fraud, fraud])

    def decision_function(self, df: Frame, *, history: Frame = None) -> NDArray[np.float64]:
        """(n,) raw scores minus the threshold: above 0 is fraud. Arguments as for `score`."""
        raw = self._complete(df, history)["raw_score"].cast(pl.Float64).to_numpy()
        return np.asarray(raw - self._fitted().threshold)

    def predict(self, df: Frame, *, history: Frame = None) -> NDArray[Any]:
        """(n,) the value of fraud for payments from the threshold on, that of genuine for the others."""
        is_fraud = self.decision_function(df, history=history) >= 0
        return np.asarray(self.classes_[is_fraud.astype(int)])

    def explain(self, df: Frame, *, history: Frame = None) -> Frame:
        """Reasons for the scores of payments, strongest first. Takes some tenths of a second for each.

        Returns:
            A frame of the same kind, a row for each payment and reason: id, raw_score, rank, reason, code and
            contribution, in log odds; positive ones raise the score.

        Raises:
            ConfigError: If captum is not installed.
            DataError: If a payment cannot be scored.
        """
        rows = [
            {
                "id": explanation.id,
                "raw_score": explanation.scores["raw_score"],
                "rank": rank,
                "reason": reason.text,
                "code": reason.code,
                "contribution": reason.attribution,
            }
            for explanation in self.explanations(df, history=history)
            for rank, reason in enumerate(explanation.reasons, 1)
        ]
        names = ("id", "raw_score", "rank", "reason", "code", "contribution")
        kinds: dict[str, Any] = {"raw_score": pl.Float64, "rank": pl.Int64, "reason": pl.String, "code": pl.String}
        made = pl.DataFrame({name: [row[name] for row in rows] for name in names}, schema_overrides=kinds)
        return like(made, df, same_rows=False)

    def explanations(self, df: Frame, *, history: Frame = None) -> list[Explanation]:
        """What `explain` is made of: for each payment all contributions, of features and of earlier payments."""
        model = self._fitted()
        with automatic_bars(shown=self._shows()) as bars:
            return model.explanations(*self._frames(df, history), progress=bars)

    def report(self, path: str | Path | None = None) -> Report:
        """The report on the newest payments of the frame it was fitted on. It displays itself in a notebook.

        Args:
            path: Also write it to this file, .html or .json. `report().open()` shows it in a browser.
        """
        report = self._fitted().report
        if path is not None:
            report.save(path)
        return report

    def save(self, path: str | Path, *, history: bool = True) -> Path:
        """Write a folder with the bundle, for `tsa serve` and `tsa score`, the report, and the payments fitted on.

        Args:
            path: The folder. A model that was saved there is replaced.
            history: Whether to write the payments, which later scores need: without them, give `score` a history.

        Raises:
            ConfigError: If there is something else at `path`.
        """
        check_outputs([], replaced={"path": path})
        self._fitted().save(Path(path), history=history)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Open what `save` wrote, checked to the byte.

        Raises:
            DataError, BundleError: If it is not complete, or was changed.
        """
        model = FittedModel.load(Path(path))
        made = cls(**model.params)
        made._use(model)
        return made

    def _use(self, model: FittedModel) -> None:
        self.model_ = model
        self.market_ = model.market
        self.classes_ = np.array(model.classes)
        self.threshold_ = model.threshold

    @property
    def roles_(self) -> pl.DataFrame:
        """A table of the uses of the columns, with the evidence for those that were guessed."""
        return table_of_roles(self._fitted().roles)

    def _fitted(self) -> FittedModel:
        check_is_fitted(self, "model_")
        model: FittedModel = self.model_
        return model

    def _shows(self) -> bool:
        return self.progress is not False

    def _frames(self, df: Frame, history: Frame) -> tuple[pl.DataFrame, pl.DataFrame | None]:
        named = (*self._fitted().market.raw_columns, self.market_.event.time)
        return to_polars(df, named), None if history is None else to_polars(history, named)

    def _scores(self, df: Frame, history: Frame, quarantine: QuarantineLike = None) -> pl.DataFrame:
        model = self._fitted()
        with automatic_bars(shown=self._shows()) as bars:
            return model.scores(*self._frames(df, history), quarantine=quarantine, progress=bars)

    def _complete(self, df: Frame, history: Frame) -> pl.DataFrame:
        scores = self._scores(df, history)
        if lost := scores["raw_score"].null_count():
            first = scores.filter(pl.col("raw_score").is_null())["id"][0]
            rule = f"every payment must have a score, but {lost} of {len(scores)} have none (first: {first})"
            raise DataError(f"{rule}: the market excludes them; use score, which leaves them empty")
        return scores


def _with_outcomes(frame: pl.DataFrame, y: Any, name: str) -> pl.DataFrame:
    values = pl.Series(name, np.asarray(y).tolist(), strict=False)
    values = values.fill_nan(None) if values.dtype.is_float() else values
    if len(values) != len(frame):
        raise DataError(f"y must have an outcome for each payment (got {len(values)} for {len(frame)})")
    return frame.with_columns(values)
