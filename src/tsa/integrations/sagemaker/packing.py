"""A bundle as SageMaker's `model.tar.gz`: bundle.tar.gz, and code/ with what the inference toolkit calls.

The bundle stays an archive: it may contain only files in its manifest, and SageMaker's model server fails to start if it
finds a `manifest.json` of a bundle in any folder.
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
    """Check a bundle and write its `model.tar.gz`; the same bundle gives the same bytes.

    Args:
        wheel: wheel of this package to include; without it the image's package index must have this version.

    Returns:
        The number of files.

    Raises:
        BundleError: the bundle is invalid.
        ConfigError: `out` exists and is something else, or the wheel is not of this package.
    """
    Bundle.open(bundle)
    if not out.name.endswith(".tar.gz"):
        raise ConfigError(f"out must end in .tar.gz for SageMaker (got {out})")
    check_file(out, "a model.tar.gz of this program", _is_packed)
    contents = {BUNDLE: to_tar_gz(read_bundle(bundle)[0]), INFERENCE: INFERENCE_TEXT.encode()}
    requirement = f"tsa-fraud[{EXTRAS}]=={version('tsa-fraud')}"
    if wheel is not None:
        contents[f"{CODE}/{wheel.name}"] = _read_wheel(wheel)
        requirement = f"tsa-fraud[{EXTRAS}] @ file://{FOLDER}/{CODE}/{wheel.name}"
    contents[f"{CODE}/requirements.txt"] = f"{requirement}\n".encode()
    with atomic_file(out) as temporary:
        temporary.write_bytes(to_tar_gz(contents))
    return len(contents)


def _read_wheel(path: Path) -> bytes:
    """Read the wheel. Raises ConfigError if it is not of this package in this version."""
    name = f"tsa_fraud-{version('tsa-fraud')}-"
    if not (path.is_file() and zipfile.is_zipfile(path) and path.name.startswith(name) and path.suffix == ".whl"):
        raise ConfigError(f"wheel must be {name}….whl, as `pip wheel --no-deps .` makes it (got {path})")
    return path.read_bytes()


def _is_packed(path: Path) -> bool:
    """Whether `pack_for_sagemaker` wrote the file."""
    with tarfile.open(path) as archive:
        return INFERENCE in archive.getnames()
