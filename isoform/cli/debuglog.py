"""`--debug`: what isoform logs, on stderr, with its facts as fields."""

from __future__ import annotations

import logging

_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldsFormatter(logging.Formatter):
    """Milliseconds since the start, level, module, the constant text, then the fields as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, and its traceback below where it has one."""
        fields = "".join(f" {key}={value}" for key, value in vars(record).items() if key not in _USUAL)
        name = record.name.removeprefix("isoform.")
        line = f"{record.relativeCreated:7.0f} ms {record.levelname.lower():<7} {name}: {record.getMessage()}{fields}"
        return line + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else "")


def log_to_stderr() -> None:
    """Send all that isoform logs to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(FieldsFormatter())
    logger = logging.getLogger("isoform")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG)
