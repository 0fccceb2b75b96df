"""``docs/experiment.md`` and the models of the experiment file name the same keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from darkhaloscope.config import Experiment

ROOT = Path(__file__).parents[1]


def test_every_key_of_an_experiment_is_in_its_page() -> None:
    """``docs/experiment.md`` names every key of the models, and no key that there is not."""
    text = (ROOT / "docs" / "experiment.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`([a-z_.]+)`", " ".join(row.split(" | ")[0] for row in rows)))

    def keys(model: type[BaseModel], prefix: str = "") -> set[str]:
        found = set()
        for name, field in model.model_fields.items():
            candidates = (*get_args(field.annotation), field.annotation)
            inner = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
            found |= keys(inner[0], f"{prefix}{name}.") if inner else {prefix + name}
        return found

    wanted = {re.sub(r"(?<=splits)\..*", "", key) for key in keys(Experiment)}
    assert {key for key in named if "." in key or key in wanted} == wanted
