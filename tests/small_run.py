"""A run of a few blocks on a tiny sky, and the bytes that it leaves."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from distributed import Client

from darkhaloscope import driver, prepare, store, survey
from darkhaloscope.audit import AuditSpec
from darkhaloscope.config import Experiment, parse_experiment
from darkhaloscope.plan import Plan
from darkhaloscope.store import Layout
from darkhaloscope.survey.bricks import brick_centre


class Setting:
    """A tiny sky, and an experiment on it of 40 targets, ``repeats`` rows each."""

    def __init__(self, folder: Path, repeats: int = 8) -> None:
        sky = survey.make_sky(str(folder / "sky"), bricks=4, size=128, seed=3)
        rng = np.random.default_rng(5)
        rows = []
        for brick in sky.bricks:
            # Inside the brick's middle, so that every stamp lies on it.
            ra, dec = (float(v) for v in brick_centre(brick))
            offsets = rng.uniform(-8, 8, (10, 2)) / 3600
            rows += [
                {"brick": brick, "ra": ra + x / np.cos(np.deg2rad(dec)), "dec": dec + y}
                for x, y in offsets
            ]
        pd.DataFrame(rows).to_csv(folder / "targets.csv", index=False)
        self.experiment: Experiment = parse_experiment(
            {
                "name": "chaos",
                "survey": {"root": str(folder / "sky"), "bands": ["g", "r", "z"]},
                "targets": {"path": str(folder / "targets.csv")},
                "stamp": {"size": 16},
                "plan": {"repeats": repeats, "control_fraction": 0.5},
                "lens": {"theta_e": {"uniform": [0.5, 1.0]}},
                "source": {"mag": 21.0},
                "render": {"supersample": 4},
                "store": {"block": 64},
            }
        )
        self.plan: Plan = prepare.plan_of(self.experiment)
        self.layout: Layout = prepare.layout_of(self.plan)
        strata = prepare.planned_strata(self.plan)
        self.spec: AuditSpec = prepare.spec_of(self.experiment, strata, n_regions=4)

    def plan_elsewhere(self, root: str) -> Plan:
        """The same plan with the coadds at another place."""
        document = self.experiment.model_dump(mode="json")
        document["survey"]["root"] = root
        return prepare.plan_of(parse_experiment(document))

    def start(self, run: Path | str) -> None:
        document = self.experiment.identity_document(self.plan.contents)
        store.create_run(str(run), self.layout, self.experiment.to_yaml(), document, "0")

    def make(self, client: Client, run: Path | str, **options: Any) -> list[dict[str, Any]]:
        self.start(run)
        seen = options.pop("on_block", lambda block, was_there: None)
        return driver.run_blocks(
            client, str(run), self.plan, self.layout, self.spec, seen, **options
        )


def digests(run: Path) -> dict[str, str]:
    """sha256 of all that a run leaves of its rows: data set, plan, markers, statistics."""
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for part in ("stamps.zarr", "plan", "blocks")
        for path in sorted((run / part).rglob("*"))
        if path.is_file()
    }
