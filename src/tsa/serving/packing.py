"""A bundle as SageMaker's `model.tar.gz`: bundle.tar.gz, and code/ with what the inference toolkit calls.

The bundle stays an archive, which holds nothing but what its manifest names. Also, SageMaker's model server takes any
`manifest.json` that it finds, in folders too, for one of its own, and does not start. It knows no server.
"""

from __future__ import annotations

import tarfile
from importlib.metadata import version
from pathlib import Path

from tsa.data.files import replaced_file
from tsa.errors import ConfigError
from tsa.scoring.archive import packed, read_contents
from tsa.scoring.bundle import Bundle

BUNDLE, CODE = "bundle.tar.gz", "code"
INFERENCE = f"{CODE}/inference.py"
INFERENCE_TEXT = '''"""What SageMaker's inference toolkit calls; requirements.txt names the package that it is in."""

from tsa.serving.sagemaker import input_fn, model_fn, output_fn, predict_fn

__all__ = ["input_fn", "model_fn", "output_fn", "predict_fn"]
'''
EXTRAS = "onnx,redis"


def pack_for_sagemaker(bundle: Path, out: Path) -> int:
    """Write the `model.tar.gz` of a bundle, once it is checked; the same bundle gives the same bytes. How many files it has.

    BundleError for a bundle that is not sound, ConfigError where something else stands at `out`.
    """
    Bundle.open(bundle)
    if not out.name.endswith(".tar.gz"):
        raise ConfigError(f"out must end in .tar.gz for SageMaker, however: {out}")
    _refuse_foreign(out)
    contents = {
        BUNDLE: packed(read_contents(bundle)),
        INFERENCE: INFERENCE_TEXT.encode(),
        f"{CODE}/requirements.txt": f"tsa-fraud[{EXTRAS}]=={version('tsa-fraud')}\n".encode(),
    }
    with replaced_file(out) as aside:
        aside.write_bytes(packed(contents))
    return len(contents)


def _refuse_foreign(out: Path) -> None:
    """ConfigError where something stands at `out` that was not written here."""
    if not out.exists():
        return
    try:
        with tarfile.open(out) as archive:
            ours = INFERENCE in archive.getnames()
    except (OSError, EOFError, tarfile.TarError):
        ours = False
    if not ours:
        raise ConfigError(f"{out} must be a model.tar.gz to be replaced, however: something else stands there")
