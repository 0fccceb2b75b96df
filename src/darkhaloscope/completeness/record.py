"""Each look at the test split, written down in the folder of the detector that is looked at. No torch."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any

from darkhaloscope import storage
from darkhaloscope.errors import UserError

SCHEMA = 1
RUN, DESCRIPTION = "run.json", "detector.json"
"""In a detector's folder: what it was made from, which only grows; and what its weights are."""


def read_record(folder: str) -> dict[str, Any] | None:
    """``run.json`` of a detector's folder; None where there is none.

    Raises
    ------
    UserError
        It is damaged, or of something that is no detector.
    """
    path = storage.join(folder, RUN)
    try:
        document = json.loads(storage.read(path))
    except FileNotFoundError:
        return None
    except ValueError:
        document = None
    if not isinstance(document, dict) or document.get("kind") != "detector":
        raise UserError(f"{path} is damaged or not a detector's; choose a new --out")
    if document.get("schema") != SCHEMA:
        raise UserError(f"{path} has schema {document.get('schema')}; this version reads {SCHEMA}")
    return document


def write_record(folder: str, document: Mapping[str, Any]) -> None:
    """``run.json``, whole or not at all."""
    storage.write(storage.join(folder, RUN), json.dumps(document, indent=1).encode())


def record_test_use(folder: str, command: str, **what: Any) -> int:
    """Write down that test was looked at, before it is; gives how many times that makes.

    Two at once are both written down where the folder is on a disk. In an object store the earlier of two
    within a moment may be lost.

    Parameters
    ----------
    command : str
        ``score``, ``evaluate``, …
    what
        Further facts, as JSON takes them.
    """
    with storage.alone(folder):
        document = read_record(folder)
        if document is None:
            raise UserError(f"{folder} holds no detector (no {RUN}); make one with dhs train")
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        document["test_uses"].append({"command": command, "time": now, **what})
        write_record(folder, document)
    return len(document["test_uses"])


def detector_of(scores: str, metadata: Mapping[str, Any]) -> str | None:
    """The folder of the detector that scores are of: where they lie, or where they say; None in neither.

    A folder counts only where its weights are those that the scores name.

    Parameters
    ----------
    scores : str
        Path or URL of the file of scores.
    metadata : mapping
        What it says of itself: ``detector``, ``folder``.
    """
    beside = storage.absolute(scores).rsplit("/", 1)[0]
    for folder in (beside, str(metadata.get("folder", ""))):
        if not folder:
            continue
        try:
            document = json.loads(storage.read(storage.join(folder, DESCRIPTION)))
        except (OSError, ValueError):
            continue
        if isinstance(document, dict) and document.get("weights") == metadata.get("detector"):
            return folder
    return None
