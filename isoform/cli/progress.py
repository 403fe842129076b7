"""What is shown on stderr while a command waits: live lines in a terminal, plain ones elsewhere, or nothing."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from rich.table import Table

    from isoform.model import Progress

_PATIENCE_S = 0.4  # what ends sooner shows nothing: drawing it would take longer than it does
_PER_SECOND = 8
_AGAIN_S = 5.0  # a line that differs from the last of its subject in numbers alone is said this often


class Shown(Protocol):
    """A display: told of progress, and stopped however the work ends."""

    def __call__(self, subject: str, doing: str, fraction: float | None = None) -> None:
        """Take note that `subject` is `doing` something."""

    def stop(self) -> None:
        """Take the display off the terminal. May be called twice."""


@contextmanager
def shown(
    *, hidden: bool, plain: bool = False, heading: str = "", stream: TextIO | None = None
) -> Iterator[tuple[Progress, Callable[[], None]]]:
    """Yield a Progress that shows itself on stderr, and what takes it off the terminal at once.

    Args:
        hidden: show nothing (--json, --quiet).
        plain: lines even in a terminal (--debug writes there too).
        heading: "subject: what it does" of the whole, which a terminal shows from the start.
    """
    stream = stream or sys.stderr
    if hidden:
        from isoform.model import silent

        yield silent, lambda: None
        return
    display: Shown = Lines(stream) if plain or not stream.isatty() else Live(stream)
    if heading and isinstance(display, Live):
        subject, doing = heading.split(": ", 1)
        display(subject, doing)
    try:
        yield display, display.stop
    finally:
        display.stop()


class Lines:
    """A plain line whenever something new is said: for files, pipes and CI logs."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._last: dict[str, tuple[str, float]] = {}

    def __call__(self, subject: str, doing: str, fraction: float | None = None) -> None:
        """Write the line, unless it says what the subject's last one said."""
        before, now = self._last.get(subject), self._clock()
        shape = re.sub(r"[0-9.]+", "0", doing)
        if before and before[0] == shape and now - before[1] < _AGAIN_S:
            return
        if before and before[0] == doing:
            return
        self._last[subject] = (shape, now)
        print(f"{subject}: {doing}", file=self._stream, flush=True)

    def stop(self) -> None:
        """Nothing to take away."""


class Live:
    """One line per subject, redrawn in place: spinner, what it does, a bar where a fraction is known, elapsed time.

    A thread imports Rich and draws, so that the work neither waits for the import nor for the terminal.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._subjects: dict[str, tuple[str, float | None, float]] = {}  # doing, fraction, when it was first heard of
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self, subject: str, doing: str, fraction: float | None = None) -> None:
        """Show it from now on; what is done (a fraction of 1) goes."""
        with self._lock:
            if fraction is not None and fraction >= 1:
                self._subjects.pop(subject, None)
            else:
                since = self._subjects[subject][2] if subject in self._subjects else self._clock()
                self._subjects[subject] = (doing, fraction, since)
        if self._thread is None:
            self._thread = threading.Thread(target=self._draw, name="progress", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Take the lines away and give the cursor back."""
        self._ended.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=2)

    def _draw(self) -> None:
        if self._ended.wait(_PATIENCE_S):
            return
        from rich.console import Console
        from rich.live import Live as Drawn
        from rich.spinner import Spinner

        console, spinner = Console(file=self._stream), Spinner("dots", style="cyan")
        with Drawn(console=console, auto_refresh=False, transient=True, redirect_stdout=False,
                   redirect_stderr=False) as drawn:
            while True:
                drawn.update(self._lines(spinner, console.height), refresh=True)
                if self._ended.wait(1 / _PER_SECOND):
                    break
            drawn.update("")

    def _lines(self, spinner: Any, height: int) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        with self._lock:
            subjects = list(self._subjects.items())
        grid, room = Table.grid(padding=(0, 1)), max(height - 2, 1)
        for subject, (doing, fraction, since) in subjects[:room]:
            bar = "" if fraction is None else ProgressBar(total=1, completed=fraction, width=20)
            grid.add_row(spinner, f"[bold]{_plain(subject)}[/]", _plain(doing), bar,
                         f"[dim]{self._clock() - since:.0f} s[/]")
        if len(subjects) > room:
            grid.add_row("", f"[dim]and {len(subjects) - room} more[/]")
        return grid


def _plain(text: str) -> str:
    """Return `text` so that Rich takes none of it for markup."""
    return text.replace("[", "\\[")
