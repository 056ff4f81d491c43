"""What surrounds the package: the site of the docs, hosted CI in step with .ci/run, releases, and what imports need."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OF_OTHERS = {"IPython": "a notebook has it", "markupsafe": "jinja2 needs it", "starlette": "fastapi needs it"}
OF_OTHERS |= {"botocore": "boto3 needs it", "requests": "mlflow-skinny needs it"}
MODULES = {"scikit-learn": "sklearn", "mlflow-skinny": "mlflow", "prometheus-client": "prometheus_client"}


def script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def workflow(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))
    return found


def commands(jobs: dict[str, Any]) -> set[str]:
    return {step["run"] for job in jobs.values() for step in job["steps"] if "run" in step}


def test_every_page_is_in_the_site_once() -> None:
    pages = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(pages) == sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("name", ["commands", "http"])
def test_a_page_that_is_made_is_up_to_date(name: str) -> None:
    made, page = script(f"docs/make_{name}.py").text(), ROOT / "docs" / "reference" / f"{name}.md"
    assert page.read_text(encoding="utf-8") == made, f"run: python docs/make_{name}.py"


def test_the_page_of_files_has_what_a_run_has(demo_run: Path) -> None:
    page = (ROOT / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
    assert script("docs/make_files.py").text(demo_run) == page, "run: python docs/make_files.py RUN"


def test_hosted_ci_does_what_ci_does() -> None:
    own = {line for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines() if line.startswith("make ")}
    hosted = {command for command in commands(workflow("ci.yml")["jobs"]) if command.startswith("make ")}
    assert hosted == own
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {line.split()[1] for line in own} <= targets


def test_hosted_ci_tests_three_pythons_from_the_oldest_on() -> None:
    versions = workflow("ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert len(versions) == 3
    assert PROJECT["requires-python"] == f">={versions[0]}"


def test_a_release_is_built_as_ci_builds() -> None:
    built = commands(workflow("release.yml")["jobs"])
    assert built <= commands(workflow("ci.yml")["jobs"])
    assert workflow("release.yml")["permissions"] == {"contents": "read"}


def test_what_is_imported_is_what_the_package_asks_for() -> None:
    """A bare install has nothing else: `tsa init` once needed click, which only the tools of developers brought."""
    asked = [*PROJECT["dependencies"], *(name for extra in PROJECT["optional-dependencies"].values() for name in extra)]
    names = {re.match(r"[\w-]+", one)[0] for one in asked}  # type: ignore[index]
    known = {MODULES.get(name, name.replace("-", "_")) for name in names} | set(OF_OTHERS)
    used = {root for path in (ROOT / "src" / "tsa").rglob("*.py") for root in imported(path)}
    assert used - known - sys.stdlib_module_names - {"tsa"} == set()


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_the_texts_of_a_release() -> None:
    release = script(".ci/release.py")
    assert 'version = "9.1.0"' in release.with_version('version = "0.1.0"\nother = "0.1.0"\n', "9.1.0")
    log = release.with_entry("# Changelog\n\n## Unreleased\n\n- One.\n", "0.2.0", date(2026, 1, 2))
    assert log == "# Changelog\n\n## Unreleased\n\n## 0.2.0 (2026-01-02)\n\n- One.\n"
    assert release.with_entry((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), "9.1.0", date(2026, 1, 2))


@pytest.mark.parametrize(
    ("version", "log", "text"),
    [
        ("0.0.9", "", "must not be older than 0.1.0"),
        ("1.0", "", "must be three numbers"),
        ("0.2.0", "# Changelog\n\n## Unreleased\n\n## 0.1.0\n\n- One.\n", "must have entries"),
        ("0.2.0", "## Unreleased\n\n- One.\n\n## 0.2.0 (x)\n", "must not have 0.2.0 yet"),
    ],
)
def test_a_release_that_cannot_be(version: str, log: str, text: str) -> None:
    release = script(".ci/release.py")
    with pytest.raises(SystemExit, match=text):
        release.with_entry(
            log, release.VERSION.search(release.with_version('version = "0.1.0"', version))[1], date.today()
        )
