"""Commands whose standard streams are closed, whose folder is gone, or whose command line has a password."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

TSA = Path(sys.executable).with_name("tsa")


def test_closed_streams() -> None:
    """Else a file that is opened later would get the number of the stream, and its output."""
    code = "import os, sys; sys.argv = ['tsa', '--version']; from tsa.cli import main; main()"
    for closed in (">&-", ">&- 2>&-", ">&- 2>&- <&-"):
        words = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code]
        found = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_a_folder_that_was_removed(tmp_path: Path) -> None:
    words = ["sh", "-c", f'rmdir "{tmp_path}/gone"; exec "$0" simulate --payments 10 --out x.parquet', str(TSA)]
    (tmp_path / "gone").mkdir()
    found = subprocess.run(words, cwd=tmp_path / "gone", capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stderr) == (2, "error: the current folder was removed: change to another one\n")


def test_a_password_is_struck_out_of_the_command_line() -> None:
    """Every user of the machine can read it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://:hunter2@127.0.0.1:{silent.getsockname()[1]}/0"
        words = [str(TSA), "history", "show", "--history", url, "--key", "card=1"]
        with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
            shown, end = Path(f"/proc/{process.pid}/cmdline"), time.monotonic() + 60
            try:
                # between fork and exec, and for a moment after it, the system shows another command or none
                while b"history\0show" not in (line := shown.read_bytes()) or b"hunter2" in line:
                    assert process.poll() is None, "the command ended before its line was seen"
                    assert time.monotonic() < end, line
                    time.sleep(0.01)
            finally:
                process.kill()
