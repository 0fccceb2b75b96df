"""Structured logs: one JSON object a line, with the run, the block and the brick that it is about.

``dhs --log json``, or ``DHS_LOG=json`` in the environment of any process of a run. What a command prints
is then a line of the log as well.
"""

from __future__ import annotations

import datetime
import io
import json
import logging
import os
import sys
from typing import TextIO

VARIABLE = "DHS_LOG"
FIELDS = ("run", "block", "brick", "rows", "reasons", "worker")
"""What a record may say beside its message: ``logger.info("…", extra={"block": 3})``."""


class JsonLines(logging.Formatter):
    """``time`` (UTC, ISO 8601), ``level``, ``logger``, ``message``, and those of ``FIELDS`` that are known.

    Parameters
    ----------
    **known
        What every record of this process says, e.g. ``worker``.
    """

    def __init__(self, **known: str) -> None:
        super().__init__()
        self.known = known

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        said = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self.known,
            **{name: vars(record)[name] for name in FIELDS if name in vars(record)},
        }
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False)


class Lines(io.TextIOBase):
    """A file whose lines are records of a logger: what a console prints to it is logged."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger, self._begun = logger, ""

    def write(self, text: str) -> int:
        *whole, self._begun = (self._begun + text).split("\n")
        for line in whole:
            if line.strip():
                self._logger.info("%s", line.strip())
        return len(text)


def are_json() -> bool:
    """Whether this process's environment asks for structured logs."""
    return os.environ.get(VARIABLE) == "json"


def to_text() -> None:
    """Have what a run waits for on Kubernetes said in words, on stderr: minutes may pass."""
    logging.getLogger("darkhaloscope.cluster").setLevel(logging.INFO)
    if logging.lastResort is not None:  # where nobody has asked for another
        logging.lastResort.setLevel(logging.INFO)


def to_json(stream: TextIO | None = None, **known: str) -> None:
    """Have everything that this process logs written as JSON lines, ours from INFO on."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(**known))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for logger in map(logging.getLogger, list(logging.root.manager.loggerDict)):
        logger.handlers, logger.propagate = [], True  # those of Dask write as well
    logging.getLogger("darkhaloscope").setLevel(logging.INFO)
