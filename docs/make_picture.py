"""Make docs/images/report.png, the picture of a report in README.md: python docs/make_picture.py demo/run/report.html

Needs Chromium. `make demo` writes the report.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PICTURE = Path(__file__).parent / "images" / "report.png"
WIDTH, HEIGHT = 1200, 660
NAMES = ("chromium", "chromium-browser", "google-chrome")


def main(page: Path, picture: Path = PICTURE, width: int = WIDTH, height: int = HEIGHT) -> None:
    """Take a picture of the top of a page."""
    browser = next((path for name in NAMES if (path := shutil.which(name))), None)
    if browser is None:
        raise SystemExit("docs/make_picture.py needs Chromium: apt-get install chromium")
    picture.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tsa-picture-") as profile:
        subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *(f"--user-data-dir={profile}", f"--window-size={width},{height}", f"--screenshot={picture}"),
                page.resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
