"""A folder of the legacy TSA system, and payments for it; the demo's bundle with its graphs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support import legacy_folder
from tsa.inference.export_bundle import export_bundle

original = legacy_folder.original
payments = legacy_folder.payments


@pytest.fixture(scope="session")
def bundle_path(demo_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's bundle, exported. Not to be changed."""
    path = Path(shutil.copytree(demo_run / "bundle", tmp_path_factory.mktemp("exported") / "bundle"))
    export_bundle(path)
    return path
