"""The JSON documents of a run's folder, as they must be to be used.

Whoever reads one gets it whole, or is told that it is damaged: somebody edited it, or a disk did.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from darkhaloscope.errors import Reason

Count = Annotated[int, Field(ge=0)]
ReasonText = Annotated[str, Field(pattern=f"^({'|'.join(reason.text for reason in Reason)})$")]


class Described(BaseModel):
    """An object as a marker has it."""

    sha256: str
    bytes: Count


class Marker(BaseModel):
    """``blocks/k.json``."""

    block: Count
    identity: str
    objects: dict[str, Described | None]
    plan: Described | None
    statistics: str
    statistics_bytes: Count | None = None
    """Not in the markers of versions that knew the checksum alone."""
    statistics_spec: str
    counts: dict[str, dict[ReasonText, Count]]
    notes: list[str]


class RunDocument(BaseModel):
    """``run.json``."""

    identity: str
    document: dict[str, Any]
    rows: Annotated[int, Field(ge=1)]
    block: Annotated[int, Field(ge=1)]
    blocks: Annotated[int, Field(ge=1)]
    kinds: list[str]


class InFlight(BaseModel):
    """A block that was being made."""

    block: Count
    bricks: Count
    bricks_done: Count


class Progress(BaseModel):
    """``progress.json``: what ``status`` needs of it."""

    state: str
    started: float
    written: float
    blocks_whole: Count
    rows_by_reason: dict[ReasonText, Count]
    rows_fresh: Count
    running: list[InFlight]
    workers: Count


def parse(data: bytes) -> dict[str, Any] | None:
    """A JSON object; None where there is none."""
    try:
        found = json.loads(data)
    except ValueError:  # no JSON, or no text
        return None
    return found if isinstance(found, dict) else None


def is_whole(found: dict[str, Any], model: type[BaseModel]) -> bool:
    """Whether a document has what its model asks for."""
    try:
        model.model_validate(found, strict=True)
    except ValidationError:
        return False
    return True
