"""A separate process that reads Parquet bodies with limited memory and time, because a damaged file can crash its reader.

It starts with the first body, reads one body after the other, is restarted when it has ended, and ends with the server.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
import threading
import time
from typing import IO, Any

from tsa.serving.parquet_body import INFLATION, NotParquetError, TooManyRowsError, TooMuchError, read_table, rows_of

logger = logging.getLogger(__name__)

SECONDS = 10.0
"""Time limit for one body, including the start of the reader."""
MEMORY_FACTOR, SPARE_BYTES = 4, 64 * 2**20
"""Memory limit of the reader: MEMORY_FACTOR times the largest unpacked body, plus SPARE_BYTES."""
KINDS: dict[bytes, type[Exception]] = {b"M": TooMuchError, b"R": TooManyRowsError, b"N": NotParquetError}
TABLE = b"T"
LENGTH_BYTES = 8


class ReaderDownError(Exception):
    """The reader process cannot be started."""


class ParquetProcess:
    """Reads bodies in the reader process, one at a time. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, body: bytes, **bounds: int) -> list[dict[str, Any]]:
        """The rows of a body, see `tsa.serving.parquet_body.read_table`.

        Raises:
            NotParquetError: also if the reader crashed or took too long.
            ReaderDownError: the reader cannot be started.
        """
        with self._lock:
            process = self._running()
            timer = threading.Timer(SECONDS, process.kill)
            timer.start()
            try:
                kind, data = self._asked(process, json.dumps(bounds).encode(), body)
            except (OSError, EOFError):
                self._end(process)
                raise NotParquetError from None
            finally:
                timer.cancel()
        if kind == TABLE:
            return rows_of(data)
        raise KINDS[kind](data.decode())

    def close(self) -> None:
        """End the reader."""
        with self._lock:
            if self._process is not None:
                self._end(self._process, warn=False)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            # in a new session: Ctrl-C is for the server, which ends the reader by closing the pipe
            command = [sys.executable, "-m", __name__]
            env = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
            pipe = subprocess.PIPE
            try:
                options = {"stdin": pipe, "stdout": pipe, "stderr": subprocess.DEVNULL, "start_new_session": True}
                self._process = subprocess.Popen(command, env=env, **options)  # type: ignore[call-overload]
            except OSError as error:
                logger.error("cannot start the Parquet reader process: %s", error.strerror)
                raise ReaderDownError from None
        return self._process

    @staticmethod
    def _asked(process: subprocess.Popen[bytes], bounds: bytes, body: bytes) -> tuple[bytes, bytes]:
        assert process.stdin is not None
        assert process.stdout is not None
        for part in (bounds, body):
            process.stdin.write(len(part).to_bytes(LENGTH_BYTES, "little") + part)
        process.stdin.flush()
        kind = _exactly(process.stdout, 1)
        return kind, _part(process.stdout)

    def _end(self, process: subprocess.Popen[bytes], *, warn: bool = True) -> None:
        self._process = None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue
        code = process.wait()
        if warn:
            logger.warning("the Parquet reader process ended with %s: the body is refused, the reader restarted", code)


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _part(file: IO[bytes]) -> bytes:
    return _exactly(file, int.from_bytes(_exactly(file, LENGTH_BYTES), "little"))


def main() -> None:
    """The reader process: reads bodies from standard input and writes tables to standard output until the input ends."""
    import pyarrow.parquet

    assert pyarrow.parquet
    source, out = sys.stdin.buffer, sys.stdout.buffer
    limited = False
    while True:
        try:
            bounds: dict[str, int] = json.loads(_part(source))
            body = _part(source)
        except EOFError:
            return
        if not limited:
            _limit_memory(MEMORY_FACTOR * INFLATION * bounds["max_bytes"] + SPARE_BYTES)
            limited = True
        _limit_time()
        try:
            kind, data = TABLE, read_table(body, **bounds)
        except (TooMuchError, TooManyRowsError, NotParquetError) as error:
            kind, data = next(kind for kind, class_ in KINDS.items() if type(error) is class_), str(error).encode()
        out.write(kind + len(data).to_bytes(LENGTH_BYTES, "little") + data)
        out.flush()


def _limit_memory(more: int) -> None:
    """Allow this process `more` bytes on top of what it has allocated."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            has = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
    except (OSError, StopIteration):
        return  # not on Linux: only the page headers limit it
    resource.setrlimit(resource.RLIMIT_DATA, (has + more, has + more))


def _limit_time() -> None:
    """Limit the CPU time for this body, in case the server, which kills slow readers, has ended."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + 2 * SECONDS), hard_limit))


if __name__ == "__main__":
    main()
