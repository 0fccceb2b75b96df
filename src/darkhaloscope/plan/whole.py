"""The plan of all bricks, in order and in blocks."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from darkhaloscope.config import Experiment
from darkhaloscope.plan.checks import check_joint, check_targets
from darkhaloscope.plan.rows import (
    brick_rows,
    galaxies_of,
    grid_cells,
    injected,
    parameters,
    regions_of,
)
from darkhaloscope.plan.targetlist import (
    MemoryTargets,
    TargetList,
    contents_digest,
    joint_digest,
)
from darkhaloscope.survey.galaxies import galaxies_digest
from darkhaloscope.survey.regions import region_ids

_PRIOR_POINTS = 55_440
"""Points at which a prior is looked at; many lengths of a list divide it."""

_BLOCK_BYTES = 100 * 2**20
"""Upper limit of one raw float32 cube of a block."""


def block_rows(rows: int, size: int, bands: int) -> int:
    """Rows of a block: the largest power of two whose raw float32 cube is <= 100 MiB, at most
    ``rows / 16``, at least 64."""
    most = max(64, min(_BLOCK_BYTES // (size * size * bands * 4), rows // 16))
    return 1 << (most.bit_length() - 1)


@dataclass(frozen=True)
class Piece:
    """The rows of one brick that lie in one block: ``rows`` of the brick's own order."""

    block: int
    brick: str
    rows: slice


class Plan:
    """The whole plan of an experiment, evaluated a brick at a time.

    Parameters
    ----------
    experiment : Experiment
    targets : DataFrame or TargetList
        As :func:`darkhaloscope.survey.read_targets` gives them, or read a piece at a time.
    joint : DataFrame, optional
        The joint table that ``plan.joint`` names.

    Attributes
    ----------
    first_row : (brick + 1,) int64
        Place of each brick's first row, and the number of all rows.
    drawn_rows : int
        Rows without the negatives that a fix adds.

    Raises
    ------
    UserError
        Two targets share brick and OBJID, an OBJID is out of range, a target has no magnitude and
        ``source.mag`` is not given, the joint table names an unknown parameter, or the catalogue of
        galaxy images cannot be read or has none within the bounds.
    """

    def __init__(
        self,
        experiment: Experiment,
        targets: pd.DataFrame | TargetList,
        joint: pd.DataFrame | None = None,
    ) -> None:
        self.experiment = experiment
        self.joint = joint
        self.targets = MemoryTargets(targets) if isinstance(targets, pd.DataFrame) else targets
        check_targets(self.targets, experiment, joint)
        if joint is not None:
            check_joint(joint, experiment)
        galaxies_of(experiment)
        self.bricks = self.targets.bricks
        rows_per_target = experiment.plan.repeats * grid_cells(experiment)
        self.first_row = self.targets.first * rows_per_target
        self.drawn_rows = int(self.first_row[-1])
        if experiment.fix.core_matched_negatives:
            self.first_row += np.append(0, np.cumsum(self._injections()))
        self.rows = int(self.first_row[-1])
        auto = block_rows(self.rows, experiment.stamp.size, len(experiment.survey.bands))
        self.block = auto if experiment.store.block == "auto" else int(experiment.store.block)
        self.blocks = -(-self.rows // self.block)

    def _injections(self) -> NDArray[np.int64]:
        """How many rows of each brick are injections."""
        counts = []
        for chunk in self.targets.chunks():
            for brick, rows in chunk.groupby("brick", sort=False, observed=True):
                k = rows["objid"].to_numpy(np.int64)
                counts.append(int(injected(self.experiment, str(brick), k).sum()))
        return np.array(counts, dtype=np.int64)

    @functools.cached_property
    def contents(self) -> dict[str, str]:
        """sha256 of the contents of the target table, the joint table and the chosen galaxies.

        Of the targets only what decides rows, brick by brick: no driver needs the whole table for it.
        """
        bands = self.experiment.survey.bands
        made = {"targets": contents_digest(self.targets, bands)}
        if self.joint is not None:
            made["joint"] = joint_digest(self.joint)
        if (galaxies := galaxies_of(self.experiment)) is not None:
            url = str(self.experiment.source.catalogue)
            made["galaxies"] = galaxies_digest(url, galaxies)
        return made

    @functools.cached_property
    def regions(self) -> NDArray[np.str_]:
        """Names of all regions that hold targets, ascending."""
        section = self.experiment.targets
        if section.region == "brick":
            return self.bricks
        names: set[str] = set()
        for chunk in self.targets.chunks():
            ids = region_ids(chunk["ra"], chunk["dec"], section.region)
            names.update(np.unique(ids).tolist())
        return np.array(sorted(names))

    @property
    def n_regions(self) -> int:
        """How many regions hold the targets."""
        return len(self.regions)

    def splits(self) -> NDArray[np.uint8]:
        """The split of every target in the plan's order: some 7 us a target."""
        return np.concatenate(
            [regions_of(self.experiment, chunk)[1] for chunk in self.targets.chunks()]
        )

    def targets_of(self, brick: str) -> pd.DataFrame:
        """The targets of one brick, by OBJID."""
        b = int(np.searchsorted(self.bricks, brick))
        return self.targets.rows(int(self.targets.first[b]), int(self.targets.first[b + 1]))

    def targets_in(self, pieces: Sequence[Piece]) -> list[pd.DataFrame]:
        """The targets of each brick of some pieces that follow each other, read at once."""
        if not pieces:
            return []
        table, first = self.table_of(pieces)
        return [table.iloc[start:stop] for start, stop in itertools.pairwise(first)]

    def table_of(self, pieces: Sequence[Piece]) -> tuple[pd.DataFrame, list[int]]:
        """The targets of all bricks of some pieces that follow each other, and the place of each one's first
        among them; at its end their number."""
        b = int(np.searchsorted(self.bricks, pieces[0].brick))
        first = self.targets.first[b : b + len(pieces) + 1]
        table = self.targets.rows(int(first[0]), int(first[-1]))
        return table, (first - first[0]).tolist()

    def pieces(self, block: int) -> list[Piece]:
        """The bricks of a block, in order, each with its rows."""
        start = block * self.block
        stop = min(start + self.block, self.rows)
        first = int(np.searchsorted(self.first_row, start, side="right")) - 1
        last = int(np.searchsorted(self.first_row, stop, side="left"))
        return [
            Piece(
                block,
                str(self.bricks[b]),
                slice(
                    max(start - int(self.first_row[b]), 0),
                    min(stop, int(self.first_row[b + 1])) - int(self.first_row[b]),
                ),
            )
            for b in range(first, last)
        ]

    def brick_rows(self, brick: str, rows: slice = slice(None)) -> pd.DataFrame:
        """Rows of one brick; see :func:`brick_rows`."""
        return brick_rows(self.experiment, self.targets_of(brick), self.joint, rows)

    def block_rows(self, block: int) -> pd.DataFrame:
        """Every planned row of one block, in order."""
        parts = [self.brick_rows(piece.brick, piece.rows) for piece in self.pieces(block)]
        return pd.concat(parts, ignore_index=True)

    def theta_e_prior(self) -> NDArray[np.float64]:
        """Einstein radii (arcsec) that are equally likely for an injection: what the plan expects."""
        if self.joint is not None and "lens.theta_e" in self.joint:
            return self.joint["lens.theta_e"].to_numpy(float)
        draw = parameters(self.experiment)["lens.theta_e"]
        number = np.arange(_PRIOR_POINTS)
        cell = number % draw.cells
        return draw.at((number + 0.5) / _PRIOR_POINTS, cell=cell, turn=number)

    def iter_bricks(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """(brick, rows) in the plan's order."""
        for brick in self.bricks:
            yield str(brick), self.brick_rows(str(brick))
