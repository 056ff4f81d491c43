"""The notebooks of examples/notebooks can be read. `make notebooks` runs them: examples/notebooks/run.py."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_it_has_text_and_code_and_no_stored_output(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert book.cells[0].source.startswith("# ")
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert code
    for cell in code:
        ast.parse(cell.source)
        assert not cell.outputs
        assert cell.execution_count is None


def test_files_are_given_to_notebooks_that_read_them() -> None:
    spec = importlib.util.spec_from_file_location("run_notebooks", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    texts = {path.stem: path.read_text(encoding="utf-8") for path in BOOKS}
    assert {name for name, text in texts.items() if "os.environ" in text} == set(module.INPUTS)
    for name, (variable, _) in module.INPUTS.items():
        assert variable in texts[name]
