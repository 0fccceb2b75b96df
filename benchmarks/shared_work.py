"""Work that many audits of one base share: equal inputs to a pure function are computed once.

A planted defect leaves most of a set as it was. Readers fitted to what it left, and arcs drawn again by the
same parameters, come out the same; they are found by a digest of their inputs, so that nothing is taken
for equal that is not.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from importlib import import_module
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import xarray as xr
import xxhash

from darkhaloscope.audit.closure import ANNULUS_COLUMNS, PROFILE_COLUMNS
from darkhaloscope.audit.dose import DOSE_COLUMNS
from darkhaloscope.audit.growth import GROWTH_COLUMNS, MAGNIFICATION_COLUMNS
from darkhaloscope.audit.quality import QUALITY_COLUMNS
from darkhaloscope.audit.rerender import join, redraw_plain
from darkhaloscope.audit.shape import CORE_COLUMNS, QUADRANT_COLUMNS
from darkhaloscope.lensing.psf import transfer
from darkhaloscope.views import REMOVED_COLUMNS

PURE = (
    "core_gate.out_of_fold_scores", "dose.out_of_fold_scores", "leak_map.out_of_fold",
    "selection.out_of_fold", "leak_map.linear_scores", "leak_map.profile_features", "leak_map._means",
    "classes.looks", "measure.looks", "alignment.rival_noise", "closure.noise_of", "explain.noise_of",
    "noise.faint_pixels", "one_class.faint_pixels", "one_class.scatter",
)  # fmt: skip
"""Functions of arrays alone, where the audit calls them."""


def _empty(columns: list[str]) -> Callable[..., pd.DataFrame]:
    return lambda *_: pd.DataFrame(columns=columns)


DESCRIBED = {
    "core_gate.OWN_MODEL_PAIRS": 10**9,  # no stratum trains a model of its own
    "core_gate.LEARNING_SIZES": (),  # the AUC at all pairs is of the scores at hand
    "core_gate.subsets": lambda *_: (),
    "diagnostics.dose_table": _empty(DOSE_COLUMNS),
    "diagnostics.core_table": _empty(CORE_COLUMNS),
    "diagnostics.quadrant_table": _empty(QUADRANT_COLUMNS),
    "diagnostics.growth_table": _empty(GROWTH_COLUMNS),
    "diagnostics.magnification_table": _empty(MAGNIFICATION_COLUMNS),
    "conclude.example_pairs": lambda *_: {},
    "quality._table": _empty(QUALITY_COLUMNS),
    "quality.removed": _empty(REMOVED_COLUMNS),
}
"""What only fills tables of the report, and no cause and no required gate reads."""

MOST_ROWS = 100
"""Arcs of more rows than this are drawn again each time: they would fill the memory."""

OUTCOMES = ("arc_snr", "magnification", "total_injected_flux", "arc_flux_total")
"""What a row says of its arc and no arc is drawn from: a plant changes it and leaves the parameters."""

MOST_PSFS, MOST_NODES = 12_000, 256
"""Transforms of PSFs that are kept, of grids that are not larger: a gigabyte."""


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h


class Memo:
    """Results of pure functions by the digest of their arguments."""

    def __init__(self) -> None:
        self.results: dict[bytes, Any] = {}
        self.last: tuple[bytes, Any] = (b"", None)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def found(*arguments: Any) -> Any:
            key = digest(function.__qualname__, *arguments)
            if key not in self.results:
                self.results[key] = function(*arguments)
            return self.results[key]

        return found

    def once(self, function: Callable[..., Any], ds: xr.Dataset, *arguments: Any) -> Any:
        """The last result of this kind alone is kept: of a plant, which sets of other kinds have too."""
        key = digest(
            function.__qualname__, {k: v.values for k, v in ds.data_vars.items()}, *arguments
        )
        if key != self.last[0]:
            self.last = key, function(ds, *arguments)
        return self.last[1]

    def redraw(self, rows: dict[str, Any], spec: Any, tolerance: float) -> dict[str, Any]:
        """Rows drawn again, as :data:`~darkhaloscope.audit.rerender.Redraw`; few of them each by itself."""
        n = len(rows["hash"])
        if not 0 < n <= MOST_ROWS:
            return redraw_plain(rows, spec, tolerance)
        draw, said = self(redraw_plain), {k: v for k, v in rows.items() if k not in OUTCOMES}
        alone = ({k: v[i : i + 1] for k, v in said.items()} for i in range(n))
        return join([draw(row, spec, tolerance) for row in alone])


def keep_freed() -> None:
    """Memory of freed arrays stays with the process for the next ones, as with the cluster's workers."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def digest(*values: Any) -> bytes:
    """Of arrays, mappings of arrays and whatever has a representation."""
    out = xxhash.xxh3_128()
    for value in values:
        if isinstance(value, np.ndarray):
            plain = np.ascontiguousarray(value.astype(str) if value.dtype == object else value)
            out.update(f"{value.dtype}{value.shape}".encode())
            out.update(plain.reshape(-1).view(np.uint8))
        elif isinstance(value, Mapping):
            out.update(digest(*(part for item in sorted(value.items()) for part in item)))
        else:
            out.update(repr(value).encode())
    return out.digest()


def _no_profiles(sums: Callable[..., Any]) -> Callable[..., Any]:
    """The sums behind the profiles of one pair: of all of them they are for tables alone."""

    def of_one(ds: Any, spec: Any, use: Any, region: Any, stratum: Any) -> Any:
        return sums(ds, spec, use[:1], region[:1], stratum[:1])

    return of_one


def _core_radius(_: Any, solved: Any, band: str, *__: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of closure's profiles the one number that a cause reads."""
    profile = pd.DataFrame([{"band": band, "core_radius": solved.constants.radius}])
    return profile.reindex(columns=PROFILE_COLUMNS), pd.DataFrame(columns=ANNULUS_COLUMNS)


@contextmanager
def shared(verdict_alone: bool = False) -> Iterator[Memo]:
    """While it is open, the audit remembers what its readers were fitted to, and PSFs their transforms.

    ``verdict_alone`` leaves out what only describes: verdict, causes and tests stay as they are.
    """
    memo = Memo()
    with ExitStack() as stack:

        def put(place: str, change: Callable[[Any], Any]) -> None:
            room, name = place.split(".")
            module = import_module(f"darkhaloscope.audit.{room}")
            stack.enter_context(patch.object(module, name, change(getattr(module, name))))

        for place in PURE:
            put(place, memo)
        kept = lru_cache(maxsize=MOST_PSFS)(transfer.__wrapped__)
        convolving = import_module("darkhaloscope.lensing.convolve")
        stack.enter_context(
            patch.object(
                convolving,
                "transfer",
                lambda psf, nodes, *grid: (kept if nodes <= MOST_NODES else transfer)(
                    psf, nodes, *grid
                ),
            )
        )
        if verdict_alone:
            for place, value in DESCRIBED.items():
                put(place, lambda _, value=value: value)
            put("measure._group_sums", _no_profiles)
            put("closure._profile", lambda _: _core_radius)
        yield memo
