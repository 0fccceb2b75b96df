"""Before a run: a synthetic sky, a table of targets, and what an experiment plans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from darkhaloscope import (
    prepare,
    storage,
    store,
    survey,
    workflow,
)
from darkhaloscope.cluster import connect
from darkhaloscope.commands.common import say_splits
from darkhaloscope.config import ClusterSection, Experiment
from darkhaloscope.errors import UserError
from darkhaloscope.plan import Plan
from darkhaloscope.progress import Bar
from darkhaloscope.survey import regions
from darkhaloscope.variables import SPLITS


def sky(
    out: str,
    *,
    bricks: int = 28,
    size: int = 512,
    seed: int = 1,
    lrgs: float = 60.0,
    bands: Sequence[str] = ("g", "r", "z"),
    cluster: str | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> survey.SkySummary:
    """Write a synthetic sky laid out as a DR10 south release, and say what it holds.

    Parameters
    ----------
    out : str
        Root of the release: a path or any fsspec URL.
    bricks, size, seed, lrgs, bands
        See :func:`darkhaloscope.survey.make_sky`.
    cluster, workers
        A running Dask scheduler, or workers of a local one; without either the bricks are made one by
        one in this process. The files are the same.
    """
    console = console or Console()
    out = storage.absolute(out)
    options: dict[str, Any] = {"size": size, "seed": seed, "lrgs": lrgs, "bands": tuple(bands)}
    with Bar(console, "synthetic sky", bricks, "bricks") as bar:

        def on_brick(_: object) -> None:
            bar.advance(1)

        if cluster is None and workers is None:
            summary = survey.make_sky(out, bricks=bricks, on_brick=on_brick, **options)
        else:
            names = survey.sky_bricks(bricks)
            section = ClusterSection(
                address=cluster, workers=workers, memory=sky_memory(size, len(options["bands"]))
            )
            with connect(section, out) as client:
                parts = workflow.make_bricks(client, out, names, options, on_brick)
            summary = survey.combine(parts)
    console.print(
        f"wrote {len(summary.bricks)} bricks with {summary.lrgs} LRGs below {out} "
        f"({summary.files} files, {summary.bytes / 1e6:.1f} MB)",
        soft_wrap=True,
    )
    return summary


def sky_memory(size: int, bands: int) -> str:
    """Of a local worker that makes bricks, as ``cluster.memory``.

    A brick's planes take 64 bytes a pixel and band, at the most of it, beside half a GiB of the worker's own:
    measured, 2.1 GB for 3600 x 3600 pixels in three bands.
    """
    needed = 2**29 + 64 * size**2 * bands
    return f"{max(2, math.ceil(needed / 2**30))}GiB"


def targets(
    sources: Sequence[str],
    out: str,
    *,
    cuts: str = "lrg",
    limits: Sequence[str] = (),
    region: regions.RegionKind = "brick",
    size: int = 64,
    splits: Sequence[float] = (0.7, 0.15, 0.15),
    most: int | None = None,
    console: Console | None = None,
) -> pd.DataFrame:
    """Select lens galaxies from tractor or sweep catalogues, and write them as Parquet.

    The table also says the region and the split of each target (as text); an experiment decides both
    anew, by its ``targets`` section and ``stamp.size``, with the same result for the same settings.

    Parameters
    ----------
    sources : sequence of str
        Catalogue files, or the root of a release whose tractor catalogues are all read.
    out : str
        Where the Parquet file goes.
    cuts : {"lrg", "plain", "all"}
        ``lrg``: the DESI LRG selection of Zhou et al. 2023; ``plain``: extended sources within
        ``limits``; ``all``: every source.
    limits : sequence of str
        For ``plain``: ``z=18:20.3`` or ``g-r=0.5:``, magnitudes (AB) as observed and colours.
    region : {"brick", "healpix"}
    size : int
        Pixels on a side of the stamps that will be cut.
    most : int, optional
        Keep whole bricks, in the order of a hash of their names, as long as there are no more targets than
        this: a smaller tier's targets are among a larger one's.
    splits : sequence of 3 floats
        Fractions of the regions in train, val and test.
    """
    console = console or Console()
    if len(splits) != 3 or min(splits) < 0 or abs(sum(splits) - 1) > 1e-9:
        raise UserError(
            f"the splits {', '.join(f'{s:g}' for s in splits)} are not three fractions that add up to 1"
        )
    chosen = survey.select_targets(sources, cuts=cuts, limits=limits)
    if chosen.empty:
        raise UserError(f"no source of {', '.join(sources)} passes the cuts {cuts}; try --cuts all")
    if most is not None:
        chosen = survey.whole_bricks(chosen, most)
    ids, split = regions.assign(
        chosen["ra"], chosen["dec"], kind=region, fractions=splits, size=size, brick=chosen["brick"]
    )
    chosen = chosen.assign(region_id=ids, region_split=np.array(SPLITS)[split])
    survey.write_targets(chosen, out)
    console.print(
        f"{len(chosen)} targets in {chosen['brick'].nunique()} bricks -> {out}", soft_wrap=True
    )
    say_splits(ids, split, console)
    return chosen


def plan(
    experiment: str | Experiment,
    *,
    out: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Plan:
    """Make the plan of an experiment, say what it would do, and write its rows if told where.

    Raises
    ------
    UserError
        A mistake in the experiment or its targets, or the folder holds something other than a plan or a run
        of this experiment.
    """
    console = console or Console()
    exp = prepare.experiment_of(experiment, overrides)
    made = prepare.plan_of(exp)
    layout = prepare.layout_of(made)
    if out is not None:
        out = storage.absolute(out.rstrip("/"))
        store.check_run(out, layout, exp.identity_document(made.contents))
    counts = {"injections": 0, "controls": 0}
    with Bar(console, "plan", len(made.bricks), "bricks") as bar:
        for _, rows in made.iter_bricks():
            control = int((rows["lens_model"] == 0).sum())
            counts["controls"] += control
            counts["injections"] += len(rows) - control
            bar.advance(1)
    matched = made.rows - made.drawn_rows
    of_them = f", {matched} of them core-matched" if matched else ""
    console.print(
        f"{made.rows} rows ({counts['injections']} injections, {counts['controls']} controls{of_them}) of "
        f"{int(made.targets.first[-1])} targets in {len(made.bricks)} bricks, {made.blocks} blocks of "
        f"{made.block} rows; identity {layout.attributes['identity'][:12]}",
        soft_wrap=True,
    )
    say_splits(made.regions, made.splits(), console)
    if out is not None:
        prepare.write_plan(out, made)
        console.print(f"rows written below {storage.join(out, 'plan')}", soft_wrap=True)
    return made
