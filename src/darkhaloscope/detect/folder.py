"""A detector's folder: what it was made from, and each time that it was shown the test split.

``config.yaml``, ``run.json``, ``checkpoints/``, ``model.pt`` and ``detector.json``, ``metrics.parquet``,
``scores.parquet``, ``verdict.json``, figures. ``run.json`` only grows: what is recorded there stays.
"""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
import yaml

from darkhaloscope import __version__, storage, store
from darkhaloscope.detect.config import DetectorConfig, parse_config
from darkhaloscope.errors import UserError

SCHEMA = 1
RUN, CONFIG, METRICS, SCORES, VERDICT = (
    "run.json", "config.yaml", "metrics.parquet", "scores.parquet", "verdict.json",
)  # fmt: skip


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
    _write(folder, document)
    storage.write(storage.join(folder, CONFIG), config.to_yaml().encode())
    return before is not None


def read(folder: str) -> dict[str, Any] | None:
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


def require(folder: str) -> tuple[dict[str, Any], DetectorConfig]:
    """``run.json`` and the configuration of a folder that must be a detector's."""
    document = read(folder)
    if document is None:
        raise UserError(f"{folder} holds no detector (no {RUN}); make one with dhs train")
    config = parse_config(
        yaml.safe_load(storage.read(storage.join(folder, CONFIG))), storage.join(folder, CONFIG)
    )
    return document, config


def record_test_use(folder: str, command: str, **what: Any) -> int:
    """Write down that test was looked at, before it is; gives how many times that makes.

    Parameters
    ----------
    command : str
        ``score``, ``evaluate``, …
    what
        Further facts, as JSON takes them.
    """
    document = read(folder)
    if document is None:
        raise UserError(f"{folder} holds no detector (no {RUN}); make one with dhs train")
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    document["test_uses"].append({"command": command, "time": now, **what})
    _write(folder, document)
    return len(document["test_uses"])


def write_table(url: str, table: pd.DataFrame) -> None:
    """A table as Parquet."""
    held = io.BytesIO()
    table.to_parquet(held, index=False)
    storage.write(url, held.getvalue())


def read_table(url: str) -> pd.DataFrame:
    """A Parquet file as a table."""
    return pd.read_parquet(io.BytesIO(storage.read(url)))


def _write(folder: str, document: Mapping[str, Any]) -> None:
    storage.write(storage.join(folder, RUN), json.dumps(document, indent=1).encode())
