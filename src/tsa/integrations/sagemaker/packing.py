"""A bundle as SageMaker's `model.tar.gz`: bundle.tar.gz, and code/ with what the inference toolkit calls.

The bundle stays an archive, which holds nothing but what its manifest names. Also, SageMaker's model server takes any
`manifest.json` that it finds, in folders too, for one of its own, and does not start. It knows no server.
"""

from __future__ import annotations

import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

from tsa.bundle.archive import to_tar_gz
from tsa.bundle.bundle import Bundle
from tsa.bundle.signing import read_bundle
from tsa.errors import ConfigError
from tsa.files.outputs import check_file
from tsa.files.writing import atomic_file

BUNDLE, CODE = "bundle.tar.gz", "code"
INFERENCE = f"{CODE}/inference.py"
INFERENCE_TEXT = '''"""What SageMaker's inference toolkit calls; requirements.txt names the package that it is in."""

from tsa.integrations.sagemaker.serving import input_fn, model_fn, output_fn, predict_fn

__all__ = ["input_fn", "model_fn", "output_fn", "predict_fn"]
'''
EXTRAS = "onnx,redis"
FOLDER = "/opt/ml/model"
"""Where SageMaker unpacks a model."""


def pack_for_sagemaker(bundle: Path, out: Path, wheel: Path | None = None) -> int:
    """Write the `model.tar.gz` of a bundle, once it is checked; the same bundle gives the same bytes. How many files it has.

    wheel: of this package, to go along where no index has it; without it the image's index must have this version.
    BundleError for a bundle that is not sound, ConfigError where something else stands at `out`, or for a wheel that is none
    of this package.
    """
    Bundle.open(bundle)
    if not out.name.endswith(".tar.gz"):
        raise ConfigError(f"out must end in .tar.gz for SageMaker (got {out})")
    check_file(out, "a model.tar.gz of this program", _is_packed)
    contents = {BUNDLE: to_tar_gz(read_bundle(bundle)[0]), INFERENCE: INFERENCE_TEXT.encode()}
    wanted = f"tsa-fraud[{EXTRAS}]=={version('tsa-fraud')}"
    if wheel is not None:
        contents[f"{CODE}/{wheel.name}"] = _read_wheel(wheel)
        wanted = f"tsa-fraud[{EXTRAS}] @ file://{FOLDER}/{CODE}/{wheel.name}"
    contents[f"{CODE}/requirements.txt"] = f"{wanted}\n".encode()
    with atomic_file(out) as aside:
        aside.write_bytes(to_tar_gz(contents))
    return len(contents)


def _read_wheel(path: Path) -> bytes:
    """The wheel's bytes. ConfigError where it is none of this package in this version."""
    name = f"tsa_fraud-{version('tsa-fraud')}-"
    if not (path.is_file() and zipfile.is_zipfile(path) and path.name.startswith(name) and path.suffix == ".whl"):
        raise ConfigError(f"wheel must be {name}….whl, as `pip wheel --no-deps .` makes it (got {path})")
    return path.read_bytes()


def _is_packed(path: Path) -> bool:
    """Whether `pack_for_sagemaker` wrote the file."""
    with tarfile.open(path) as archive:
        return INFERENCE in archive.getnames()
