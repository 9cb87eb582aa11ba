"""Progress of work that takes long before training: a bar in a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ptm_lightning.log import logger

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def reading(title: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
    """Shows how many bytes of text were read.

    Args:
        title: What is done, such as "tokenizing".
        total_bytes: How many there are, if that is known.

    Yields:
        A function that takes the bytes read since its last call.
    """
    if not sys.stderr.isatty():
        yield _lines(title, total_bytes)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total_bytes)
        yield lambda done: bar.advance(task, done)


def _lines(title: str, total_bytes: int | None) -> Callable[[int], None]:
    start = last = time.monotonic()
    seen = 0

    def advance(done: int) -> None:
        nonlocal last, seen
        seen += done
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            of = f" of {total_bytes / 1e6:.0f}" if total_bytes else ""
            logger.info("%s: %.0f%s MB, %.1f MB/s", title, seen / 1e6, of, seen / 1e6 / (now - start))

    return advance
