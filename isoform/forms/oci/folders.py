"""The folders of instances: whose they are, who still works in them, and their end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

from isoform.errors import StepFailed
from isoform.forms.forms import form_in
from isoform.host import Home

_UNNAMED = "container"  # whose an empty folder is, which does not say it
_END_S = 10.0  # how long what is below a folder may take to go


def folders(home: Home) -> list[Path]:
    """Return the folders of all instances of a home, whatever their form."""
    try:
        return list(home.instances.iterdir())
    except FileNotFoundError:
        return []


def form_of(folder: Path) -> str:
    """Return the form of the instance that lives in the folder, as far as the forms of this package say it.

    An empty folder is a container's by agreement: it was made by a call that was cut off right then.
    """
    said = form_in(str(folder))
    try:
        return said or ("" if any(folder.iterdir()) else _UNNAMED)
    except (FileNotFoundError, NotADirectoryError):  # it may go while we look
        return said


def end_strays(path: str) -> None:
    """Kill the processes whose command line names a path below an instance's folder. Slow: reads all of /proc."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if int(process.name) != os.getpid() and words[0].endswith("conmon") and any(
                    word.startswith(path) for word in words):
                os.kill(int(process.name), signal.SIGKILL)


def remove(folder: Path) -> None:
    """Remove an instance's folder with all in it; half of one is still found. Slow. Raises: StepFailed."""
    deadline = time.monotonic() + _END_S
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            if time.monotonic() > deadline:
                raise StepFailed(f"cannot remove {folder}", why=error.strerror or "") from error
            time.sleep(0.01)
