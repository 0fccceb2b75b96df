"""The planned rows of a run's folder, by row number: ``plan/*.parquet`` in the order of their names."""

from __future__ import annotations

import bisect
import functools
import io

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from darkhaloscope import storage

PLAN = "plan"
PARTS_KEPT = 4
_UNREADABLE = (pa.ArrowException, OSError, ValueError)


class DamagedPart(Exception):  # noqa: N818 (a state of a file, told to whoever verifies)
    """A part of the plan that cannot be read; its name is the message."""


class PlanParts:
    """Where each part of a plan begins; the parts that were read last are kept.

    Parameters
    ----------
    run : str
        A run's folder.
    """

    def __init__(self, run: str) -> None:
        names = storage.names(storage.join(run, PLAN))
        self.names = [name for name in names if name.endswith(".parquet")]
        self.damaged: list[str] = []
        """Parts that cannot be read; they count no rows."""
        self._read = functools.lru_cache(maxsize=PARTS_KEPT)(functools.partial(_read_part, run))
        self.starts = [0]
        """First row of each part, and one more: the number of rows."""
        for name in self.names:
            try:
                self.starts.append(self.starts[-1] + len(self._read(name)))
            except DamagedPart:
                self.starts.append(self.starts[-1])
                self.damaged.append(name)

    def rows(self, rows: slice) -> pd.DataFrame:
        """Some planned rows; fewer where the plan ends before them.

        Raises
        ------
        DamagedPart
            A part that may hold some of them cannot be read.
        """
        first = max(bisect.bisect_right(self.starts, rows.start) - 1, 0)
        found = []
        for name, start in list(zip(self.names, self.starts, strict=False))[first:]:
            if start >= rows.stop:
                break
            found.append(self._read(name).iloc[max(rows.start - start, 0) : rows.stop - start])
        return pd.concat(found, ignore_index=True) if found else pd.DataFrame()

    def part_of(self, row: int) -> str:
        """The part that holds a row, below the run's folder."""
        part = bisect.bisect_right(self.starts, row) - 1
        return f"{PLAN}/{self.names[min(part, len(self.names) - 1)]}" if self.names else PLAN


def has_plan(run: str) -> bool:
    """Whether a run's folder has any part of its plan."""
    return bool(storage.names(storage.join(run, PLAN)))


def _read_part(run: str, name: str) -> pd.DataFrame:
    data = storage.read(storage.join(run, PLAN, name))
    try:
        return pq.read_table(io.BytesIO(data)).to_pandas()
    except _UNREADABLE:
        raise DamagedPart(name) from None
