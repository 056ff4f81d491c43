"""A bundle as a model of MLflow: a pyfunc from code, without pickle, that answers as the endpoint does.

model/MLmodel, model/model.py             how MLflow loads it: `tsa.integrations.mlflow`
model/artifacts/bundle.tar.gz             the bundle
model/requirements.txt                    this package in this version
model_card.md                             what the model is for, and its metrics
"""

from __future__ import annotations

import logging
import tempfile
from importlib.metadata import version
from pathlib import Path

from tsa.bundle.manifest import CARD
from tsa.bundle.signing import read_bundle

MODEL, BUNDLE = "model", "bundle.tar.gz"
ARCHIVE = f"artifacts/{BUNDLE}"
"""Of the bundle, in the folder of the model."""
CODE = '''"""How MLflow loads the bundle."""

from mlflow.models import set_model

from tsa.integrations.mlflow import BundleModel

set_model(BundleModel())
'''


def write_model(out: Path, archive: bytes) -> None:
    """Write the model into `out`, a new folder, and the model card next to it.

    Args:
        archive: The bundle as .tar.gz.
    """
    from mlflow import pyfunc

    logging.getLogger("mlflow.pyfunc").setLevel(logging.ERROR)  # it has no signature: rows may have any columns
    with tempfile.TemporaryDirectory(prefix="tsa-registry-") as folder:
        code, bundle = Path(folder) / "model.py", Path(folder) / BUNDLE
        code.write_text(CODE)
        bundle.write_bytes(archive)
        pyfunc.save_model(
            out,
            python_model=str(code),
            artifacts={"bundle": str(bundle)},
            pip_requirements=[f"tsa-fraud[mlflow,serve]=={version('tsa-fraud')}"],
        )
        out.with_name(CARD).write_bytes(read_bundle(bundle)[0][CARD])
