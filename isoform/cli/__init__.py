"""The command line: translates what users type into calls of the engine, and its answers into text or JSON."""

from __future__ import annotations


def main() -> None:
    """Run `isoform` with the process's own arguments; the console's entry point."""
    import gc
    import sys

    gc.set_threshold(100_000)  # imports make much and drop nothing: looking for garbage takes a tenth of the start

    from isoform.cli.app import run

    sys.exit(run(sys.argv[1:]))
