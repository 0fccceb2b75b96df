"""A detector's folder: what it was made from, and each time that it was shown the test split.

``config.yaml``, ``run.json``, ``checkpoints/``, ``model.pt`` and ``detector.json``, ``metrics.parquet``,
``scores.parquet``, ``verdict.json``, figures. ``run.json`` only grows: what is recorded there stays.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
import yaml

from darkhaloscope import __version__, storage, store
from darkhaloscope.completeness.record import (
    RUN,
    SCHEMA,
    read_record,
    record_test_use,
    write_record,
)
from darkhaloscope.detect.config import DetectorConfig, parse_config
from darkhaloscope.errors import UserError

__all__ = [
    "CONFIG",
    "LENSES",
    "METRICS",
    "RUN",
    "SCORES",
    "VERDICT",
    "claim",
    "read",
    "read_table",
    "record_test_use",
    "require",
    "write_table",
]

CONFIG, METRICS, SCORES, VERDICT = (
    "config.yaml", "metrics.parquet", "scores.parquet", "verdict.json",
)  # fmt: skip
LENSES = "lenses"
"""Below the folder: what ``dhs lenses`` wrote."""

_RECORDED = {"data", "learned", "despite", "test_uses", "version"}
_AGAIN = "put the right one back, or train again with a new --out"


def claim(
    folder: str,
    config: DetectorConfig,
    identity: str,
    despite: Mapping[str, Any],
    seen: str = "all",
) -> bool:
    """Make a detector's folder, or accept it where it was made for the same training.

    Parameters
    ----------
    identity : str
        Of the data set.
    despite : mapping
        The verdict of the data set that was trained on all the same; empty where nothing was wrong.
    seen : str
        What of an image the network is shown.

    Returns
    -------
    bool
        True where the folder was there: the training resumes.

    Raises
    ------
    UserError
        The folder is of another data set, another training, or of something else.
    """
    learned = config.learned() | {"seen": seen}
    with storage.alone(folder):
        before = read(folder)
        if before is None and (found := storage.names(folder)):
            raise UserError(
                f"{folder} is not empty and holds no detector (it has {found[0]}); choose a new --out"
            )
        if before is not None:
            if before["data"]["identity"] != identity:
                raise UserError(
                    f"the checkpoint in {folder} is of another data set ({before['data']['identity'][:12]}, "
                    f"{config.run} is {identity[:12]}); choose a new --out, or train on the same run"
                )
            if before["learned"] != learned:
                changed = ", ".join(store.differences(before["learned"], learned))
                raise UserError(
                    f"{folder} belongs to another training: {changed} changed; choose a new --out, or take "
                    "the change back"
                )
        document = {
            "schema": SCHEMA,
            "kind": "detector",
            "digest": config.digest(),
            "learned": learned,
            "data": {"run": config.run, "identity": identity},
            "version": __version__,
            "torch": torch.__version__,
            "despite": dict(despite),
            "test_uses": [],
        }
        if before is not None:
            # What was once trained despite a verdict stays so, whatever the run's verdict is today.
            document["despite"] = before["despite"] or document["despite"]
            document["test_uses"] = before["test_uses"]
            document["version"] = before["version"]
        write_record(folder, document)
        storage.write(storage.join(folder, CONFIG), config.to_yaml().encode())
        return before is not None


def read(folder: str) -> dict[str, Any] | None:
    """``run.json`` of a detector's folder; None where there is none.

    Raises
    ------
    UserError
        It is damaged, or of something that is no detector.
    """
    document = read_record(folder)
    if document is not None and (lacking := sorted(_RECORDED - document.keys())):
        raise UserError(f"{storage.join(folder, RUN)} is damaged: it has no {lacking[0]}; {_AGAIN}")
    return document


def require(folder: str) -> tuple[dict[str, Any], DetectorConfig]:
    """``run.json`` and the configuration of a folder that must be a detector's.

    Raises
    ------
    UserError
        There is no detector, one of the files is damaged or gone, or the configuration says another training.
    """
    document = read(folder)
    if document is None:
        raise UserError(f"{folder} holds no detector (no {RUN}); make one with dhs train")
    path = storage.join(folder, CONFIG)
    try:
        config = yaml.safe_load(storage.read(path))
    except FileNotFoundError:
        raise UserError(f"{path} is not there; {_AGAIN}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        config = None
    if not isinstance(config, dict):
        raise UserError(f"{path} is no mapping in YAML; {_AGAIN}")
    made = parse_config(config, path)
    if changed := store.differences(
        document["learned"], _known_to(document["learned"], made.learned())
    ):
        raise UserError(
            f"{path}: {', '.join(changed)} changed since the detector was trained; take the change back, or "
            "train again with a new --out"
        )
    return document, made


def _known_to(record: Any, now: Any) -> Any:
    """What a configuration says of the keys that there were when a record was written."""
    if isinstance(record, Mapping) and isinstance(now, Mapping):
        return {k: _known_to(value, now[k]) if k in now else value for k, value in record.items()}
    return now


def write_table(url: str, table: pd.DataFrame) -> None:
    """A table as Parquet."""
    held = io.BytesIO()
    table.to_parquet(held, index=False)
    storage.write(url, held.getvalue())


def read_table(url: str) -> pd.DataFrame:
    """A Parquet file as a table."""
    return pd.read_parquet(io.BytesIO(storage.read(url)))
