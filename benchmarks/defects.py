"""Is each planted defect found, and called by its name? ``python benchmarks/defects.py --folder study``.

Defects of :mod:`planted` go into clean noiseless pairs, seed by seed; the clean pairs are audited too.
Prints how often each was alarmed, named right (the heaviest cause is the defect's or its degenerate
family's) and what else it was called. Base sets, their arcs drawn again and every finished audit lie in
``--folder``, so that a study can be stopped and continued, or given more seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from audit_pairs import Ds, clean, measure, names, rerendered, run_audit, spec_of
from planted import DEFECTS
from rich.console import Console
from rich.table import Table

CLEAN = "nothing"
QUICK = (
    "flux doubled", "pedestal", "pedestal in the core", "shift by 1 px", "noise in one class",
    "region in two splits",
)  # fmt: skip
QUICK_PAIRS = 120

Truth = dict[str, np.ndarray]


def base(folder: Path, pairs: int, seed: int) -> tuple[Ds, Truth]:
    """Clean pairs and their arcs drawn again, from the folder or drawn now."""
    place, again = (folder / f"{name}-{pairs}-{seed}.npz" for name in ("clean", "truth"))
    if not place.exists() or not again.exists():
        ds = clean(pairs, seed=seed)
        spec = spec_of(ds)
        truth = rerendered(ds, measure(ds, spec), spec)
        np.savez(again, **truth)
        np.savez(place, **{str(k): _plain(v.values) for k, v in ds.data_vars.items()})
        return ds, truth
    dims = clean(10).data_vars
    with np.load(place) as found:
        ds = xr.Dataset(
            {k: (dims[k].dims, found[k].astype(dims[k].dtype)) for k in found.files},
            coords={"band": list(spec_of(clean(10)).bands)},
        )
    with np.load(again) as found:
        return ds, {k: found[k] for k in found.files}


def _plain(values: np.ndarray) -> np.ndarray:
    return values.astype(str) if values.dtype == object else values


def audit(ds: Ds, truth: Truth, defect: str) -> dict[str, Any]:
    """Verdict and causes of the pairs with one defect."""
    planted = ds if defect == CLEAN else DEFECTS[defect].plant(ds)
    result = run_audit(planted, again=truth)
    p = result.tables["tests"]["p_holm"].min()
    return {"verdict": result.verdict["verdict"], "causes": names(result), "least_p": float(p)}


def study(folder: Path, pairs: int, seeds: int, defects: list[str]) -> list[dict[str, Any]]:
    """Every defect in every seed; what the folder already holds is not done again."""
    book = folder / "audits.jsonl"
    done = [json.loads(line) for line in book.read_text().splitlines()] if book.exists() else []
    have = {(d["pairs"], d["seed"], d["defect"]) for d in done}
    for seed in range(seeds):
        left = [d for d in (CLEAN, *defects) if (pairs, seed, d) not in have]
        if not left:
            continue
        ds, truth = base(folder, pairs, seed)
        for defect in left:
            line = {"pairs": pairs, "seed": seed, "defect": defect, **audit(ds, truth, defect)}
            with book.open("a") as file:
                file.write(json.dumps(line) + "\n")
            done.append(line)
    wanted = {CLEAN, *defects}
    return [d for d in done if d["pairs"] == pairs and d["seed"] < seeds and d["defect"] in wanted]


def confusion(done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line a defect: plants, alarms, right names, and how often each name came first."""
    lines = []
    for defect in (CLEAN, *DEFECTS):
        own = [d for d in done if d["defect"] == defect]
        if not own:
            continue
        first = Counter(d["causes"][0] if d["causes"] else d["verdict"] for d in own)
        right = {"physics", "undecided"} if defect == CLEAN else DEFECTS[defect].names
        lines.append(
            {
                "defect": defect,
                "size": "" if defect == CLEAN else DEFECTS[defect].size,
                "plants": len(own),
                "alarms": sum(d["verdict"] in ("bug", "shortcut") for d in own),
                "named": sum(n for name, n in first.items() if name in right),
                "called": dict(first.most_common()),
            }
        )
    return lines


def show(lines: list[dict[str, Any]], console: Console) -> None:
    """The confusion matrix, a defect a line."""
    table = Table("planted", "size", "plants", "alarms", "named right", "called")
    for line in lines:
        called = ", ".join(f"{name} {n}" for name, n in line["called"].items())
        counts = (str(line[c]) for c in ("plants", "alarms", "named"))
        table.add_row(line["defect"], line["size"], *counts, called)
    console.print(table)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=2000, help="injections in a base set")
    parser.add_argument("--seeds", type=int, default=60, help="base sets")
    parser.add_argument("--folder", type=Path, help="where base sets and finished audits lie")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--quick", action="store_true", help="one seed, 120 pairs: under 50 s")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        pairs, seeds, defects = given.pairs, given.seeds, list(DEFECTS)
        if given.quick:
            pairs, seeds, defects = QUICK_PAIRS, 1, list(QUICK)
        lines = confusion(study(folder, pairs, seeds, defects))
    show(lines, Console())
    if given.json is not None:
        given.json.write_text(json.dumps({"pairs": pairs, "defects": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
