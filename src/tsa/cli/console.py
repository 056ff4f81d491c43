"""Terminal output of commands: consoles, progress bars, warnings, and the log file next to the result."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from tsa.errors import TSAError
from tsa.printable import LineFormatter, printable
from tsa.progress import Progress
from tsa.progress_bars import terminal_bars

INTERRUPTED = 130

# output contains names and values of users: do not read `[training]` as markup or `:id:` as an emoji
console = Console(markup=False, emoji=False)
errors = Console(markup=False, emoji=False, stderr=True)
logger = logging.getLogger("tsa")


@contextmanager
def command_session(quiet: bool, log: Path | None) -> Iterator[Progress]:
    """Show progress bars and warnings, and log to a file if there is one, including how the command failed."""
    logger.setLevel(logging.INFO)
    handlers: list[logging.Handler] = [logging.NullHandler()] if quiet else [WarningHandler()]
    if log is not None and (file := _log_file(log, quiet)) is not None:
        handlers.insert(0, file)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        with terminal_bars(errors, shown=not quiet) as bars:
            yield bars
    except TSAError as error:
        logger.error("%s: %s", type(error).__name__, error)
        raise
    except KeyboardInterrupt:
        logger.error("interrupted")
        raise
    except Exception:
        logger.exception("stopped")
        raise
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


def _log_file(log: Path, quiet: bool) -> LogFile | None:
    """Open the log file; None, with a note, if it cannot be created, for example next to a mounted folder."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = LogFile(log, mode="a", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        if not quiet:
            print_line(f"note: there is no log file ({log}: {error.strerror})", errors)
        return None
    file.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return file


class LogFile(logging.FileHandler):
    """A log file that stops when its disk is full without ending the command: the terminal shows what matters."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 logging's own name
        """Print once that the log is no longer written. Logging itself would print a traceback for each line."""
        if self.level < logging.CRITICAL:
            self.setLevel(logging.CRITICAL)
            print_line(f"note: {self.baseFilename} cannot be written: {sys.exc_info()[1]}; the log ends here", errors)

    def close(self) -> None:
        """Close the file; unwritten lines are dropped."""
        with suppress(OSError):
            super().close()


class WarningHandler(logging.Handler):
    """Shows warnings on the terminal, above the bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print warnings only: errors are printed when the program ends, the rest is only logged to the file."""
        if record.levelno == logging.WARNING:
            print_line(f"note: {record.getMessage()}", errors)


def print_line(text: str, to: Console = console) -> None:
    """Print a line as it is, without markup, emoji or wrapping in a pipe. Control characters are escaped."""
    to.print(printable(text, keep="\n\t"), markup=False, emoji=False, highlight=False, soft_wrap=True)
