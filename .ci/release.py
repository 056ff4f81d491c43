"""Make a release: version, changelog, build, checks, bill of materials, commit and tag. See docs/about/releasing.md."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSION = re.compile(r'^version = "(\d+\.\d+\.\d+)"$', re.MULTILINE)
NEEDED = (
    "tsa/py.typed",
    "tsa/markets/demo.toml",
    "tsa/evaluation/report/report.html",
    "tsa/serving/http/page/index.html",
)
UNRELEASED = "## Unreleased\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the release that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", help="such as 0.2.0")
    parser.add_argument("--dry-run", action="store_true", help="write into a temporary folder; no commit, no tag")
    parser.add_argument("--no-try", action="store_true", help="do not install the wheel; there is no bill of materials")
    parser.add_argument("--publish", action="store_true", help="push the tag and upload")
    given = parser.parse_args(arguments)
    if given.dry_run and given.publish:
        sys.exit("--publish must go without --dry-run (got both): leave one out")
    project, log = (ROOT / name for name in ("pyproject.toml", "CHANGELOG.md"))
    texts = {
        project: with_version(project.read_text(encoding="utf-8"), given.version),
        log: with_entry(log.read_text(encoding="utf-8"), given.version, date.today()),
    }
    if not given.dry_run:
        check_tree()
    with tempfile.TemporaryDirectory(prefix="tsa-release-") as folder:
        tree = Path(folder) / "tree"
        run("git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(tree))
        for path, text in texts.items():
            (tree / path.name).write_text(text, encoding="utf-8")
        dist = Path(folder) / "dist"
        build(tree, dist)
        if not given.no_try:
            try_wheel(dist, Path(folder))
        print(f"built: {', '.join(sorted(path.name for path in dist.iterdir()))}")
        if given.dry_run:
            return
        shutil.copytree(dist, ROOT / "dist", dirs_exist_ok=True)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    run("git", "commit", "--quiet", "-am", f"Release {given.version}")
    run("git", "tag", "-a", f"v{given.version}", "-m", f"Release {given.version}")
    if given.publish:
        run("git", "push", "origin", "main", f"v{given.version}")
        run(sys.executable, "-m", "twine", "upload", *map(str, (ROOT / "dist").glob(f"*{given.version}*")))


def with_version(project: str, version: str) -> str:
    """pyproject.toml with a newer version."""
    found = VERSION.search(project)
    if found is None or not re.fullmatch(r"\d+\.\d+\.\d+", version):
        sys.exit(f"the version must be three numbers, such as 0.2.0 (got {version})")
    if numbers(version) < numbers(found[1]):
        sys.exit(f"the version must not be older than {found[1]} (got {version})")
    return VERSION.sub(f'version = "{version}"', project, count=1)


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, to compare."""
    return tuple(map(int, version.split(".")))


def with_entry(log: str, version: str, day: date) -> str:
    """The changelog with what is unreleased under the version."""
    before, mark, after = log.partition(UNRELEASED)
    entries = after.split("\n## ")[0]
    if not mark or "\n- " not in entries:
        sys.exit("CHANGELOG.md must have entries under 'Unreleased' (got none): write what changed")
    if f"\n## {version} " in log:
        sys.exit(f"CHANGELOG.md must not have {version} yet (got it): choose another version")
    return f"{before}{UNRELEASED}\n## {version} ({day.isoformat()})\n{after}"


def check_tree() -> None:
    """End the program unless everything is committed, on main."""
    if changed := output("git", "status", "--porcelain"):
        sys.exit(f"everything must be committed (got {len(changed.splitlines())} changed files): commit first")
    if (branch := output("git", "branch", "--show-current")) != "main":
        sys.exit(f"a release must be made on main (got {branch}): switch to it")


def build(tree: Path, dist: Path) -> None:
    """Build the sdist and the wheel, and check them."""
    run(sys.executable, "-m", "build", "--outdir", str(dist), str(tree))
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, dist.iterdir()))
    (wheel,) = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    if missing := [name for name in NEEDED if name not in names]:
        sys.exit(f"the wheel must have {', '.join(missing)} (it has not): see package-data in pyproject.toml")
    if extra := [name for name in names if name.startswith("tests")]:
        sys.exit(f"the wheel must have no tests (got {extra[0]}): see packages.find in pyproject.toml")


def try_wheel(dist: Path, folder: Path) -> None:
    """Install the wheel into an environment of its own, use it, and list what was installed."""
    place, (wheel,) = folder / "try", dist.glob("*.whl")
    venv.create(place, with_pip=True)
    python, tsa = place / "bin" / "python", place / "bin" / "tsa"
    run(str(python), "-m", "pip", "install", "--quiet", str(wheel))
    for words in (("doctor",), ("markets", "list"), ("simulate", "--payments", "1000", "--out", "log.csv")):
        run(str(tsa), *words, folder=folder)
    run(sys.executable, "-m", "cyclonedx_py", "environment", "--output-file", str(dist / "sbom.json"), str(python))


def run(*words: str, folder: Path = ROOT) -> None:
    """Run a command; end the program if it fails."""
    if (code := subprocess.run(words, cwd=folder, check=False).returncode) != 0:
        sys.exit(f"{' '.join(words)} failed with {code}")


def output(*words: str) -> str:
    """What a command prints."""
    return subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
