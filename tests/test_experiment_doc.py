"""``docs/experiment.md`` and the models of the experiment file name the same keys; the example of
``docs/plan.md`` is what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import yaml
from pydantic import BaseModel
from scipy.stats import kstest

from darkhaloscope.config import Experiment, parse_experiment
from darkhaloscope.plan import brick_rows

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


def test_the_example_of_the_plan_draws_the_seeds_priors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its rules in range; by its joint table flat in the seeds' own ellipticity and semi-major axis."""
    text = (ROOT / "docs" / "plan.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    (script,) = re.findall(r"```python\n(.*?)```", text, re.S)
    document = yaml.safe_load(example)
    monkeypatch.chdir(tmp_path)
    exec(script, {})
    count = 4000
    targets = pd.DataFrame(
        {"brick": "0591m305", "objid": range(count), "target_id": range(count), "ra": 59.1}
        | {"dec": -30.5, "mag_r": 19.0}
    )
    bounds = {
        "theta_e": (0.3, 1.0), "src_dmag": (0.5, 3.0), "src_reff": (0.1, 0.5), "src_q": (0.25, 1.0),
        "src_dx": (-0.4, 0.4), "src_dy": (-0.4, 0.4), "shear": (0.0, 0.1),
    }  # fmt: skip
    for joint in (None, pd.read_parquet("sources.parquet")):
        rows = brick_rows(parse_experiment(document), targets, joint)
        rows = rows.assign(shear=np.hypot(rows["gamma1"], rows["gamma2"]))
        assert abs((rows["lens_model"] == 0).mean() - 0.5) < 0.03
        rows = rows[rows["lens_model"] > 0]
        seeds = {name: bounds[name] for name in bounds if joint is None or "src_" not in name}
        if joint is not None:
            q = rows["src_q"]
            rows = rows.assign(e=(1 - q) / (1 + q), a=rows["src_reff"] / np.sqrt(q))
            seeds |= {"e": (0.0, 0.6), "a": (0.1, 0.5)}
        for name, (low, high) in seeds.items():
            assert kstest(rows[name], "uniform", (low, high - low)).pvalue > 1e-3, name
