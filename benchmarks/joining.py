"""How the weights of network and trees depend on their prior: python benchmarks/joining.py RUN...

For each run whose bundle has trees, and each penalty: the weights fitted on validation and calibration range, and average
precision / ROC AUC on the test range; and average precision on each of the two ranges with weights fitted on the other.
Penalty 0 is plain logistic regression; "equal" the mean of both log odds.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from tsa.evaluation.trained_run import TrainedRun
from tsa.model.network_and_trees import MEAN, PARTS, Joining, fit_joining

PENALTIES = (0.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
FITTED = ("validation", "calibration")

LogOdds = Mapping[str, np.ndarray]


def main(paths: list[str]) -> None:
    for path in paths:
        run = TrainedRun.open(path)
        store, model = run.store, run.scorer.model
        rows = {name: store.labelled(name) for name in (*FITTED, "test")}
        label = {name: np.asarray(store.label[of_range]) for name, of_range in rows.items()}
        log_odds = {name: model.log_odds_of_store(store, of_range, PARTS) for name, of_range in rows.items()}
        print(f"{path}: network {scored(label['test'], log_odds['test']['network'])}, ", end="")
        print(f"trees {scored(label['test'], log_odds['test']['trees'])} on the test range")
        both = {part: np.concatenate([log_odds[name][part] for name in FITTED]) for part in PARTS}
        outcomes = np.concatenate([label[name] for name in FITTED])
        for penalty in (*PENALTIES, None):
            joining = joined(both, outcomes, penalty)
            crossed = [
                average_precision_score(label[other], joined(log_odds[name], label[name], penalty)(log_odds[other]))
                for name, other in (FITTED, FITTED[::-1])
            ]
            print(
                f"  penalty {'equal' if penalty is None else f'{penalty:g}':>5}: weights {joining.network:.2f} and "
                f"{joining.trees:.2f}, test {scored(label['test'], joining(log_odds['test']))}, "
                f"other range {np.mean(crossed):.3f}"
            )


def joined(log_odds: LogOdds, label: np.ndarray, penalty: float | None) -> Joining:
    return MEAN if penalty is None else fit_joining(log_odds, label, penalty=penalty)


def scored(label: np.ndarray, values: np.ndarray) -> str:
    return f"{average_precision_score(label, values):.3f} / {roc_auc_score(label, values):.3f}"


if __name__ == "__main__":
    main(sys.argv[1:])
