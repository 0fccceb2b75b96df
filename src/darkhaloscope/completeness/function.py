"""Completeness as a function of its axes, in a JSON file that says what it is.

Values stand for cells of a grid, each at the mean of its injections along either axis; between them the
function is linear, and constant from the outermost of them to the edge of the grid. Beyond the edge, and next
to a cell that is not measured, it is NaN. Lower and upper are interpolated alike: they are intervals of one
place each, and two places share the threshold, so they do not shrink when places are averaged.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from darkhaloscope import storage
from darkhaloscope.errors import UserError

if TYPE_CHECKING:
    from scipy.interpolate import RegularGridInterpolator

Floats = NDArray[np.float64]

SCHEMA = 1
KIND = "darkhaloscope completeness"
ABOUT = (
    "Fraction of injected lenses that is recovered, in cells of a grid: 'nodes' are where the values stand, "
    "'edges' bound the cells; linear between nodes, null where it is not measured. 'unplaced_factor' is "
    "already in the values: planned injections that have no place on the axes (failed rows) are spread over "
    "the cells as the others are."
)


@dataclass(frozen=True)
class Cells:
    """The grid; ``value``, ``lower``, ``upper`` are NaN in cells that are not measured."""

    axes: tuple[str, ...]
    edges: tuple[Floats, ...]
    nodes: tuple[Floats, ...]
    value: Floats
    lower: Floats
    upper: Floats
    injections: NDArray[np.int64]
    regions: NDArray[np.int64]
    effective: Floats


class Point(NamedTuple):
    """Completeness at some places, with its interval; NaN where it is not measured."""

    value: Floats
    lower: Floats
    upper: Floats


class Completeness:
    """Completeness as a function of its ``axes``, by name or in their order.

    Attributes
    ----------
    cells : Cells
    about : dict
        What was recovered, from which data set, with which threshold and prior; the axes and units;
        ``confidence`` of the interval, None where regions are too few for 95 %.
    """

    def __init__(self, cells: Cells, about: dict[str, Any]) -> None:
        self.cells, self.about = cells, about
        from scipy.interpolate import RegularGridInterpolator  # slow to import

        # From the outermost node to the edge the outermost value holds.
        places = []
        for node, edge in zip(cells.nodes, cells.edges, strict=True):
            places.append(np.concatenate([edge[:1], node, edge[-1:]]))
        keep = [np.concatenate([[True], np.diff(place) > 0]) for place in places]
        points = tuple(place[k] for place, k in zip(places, keep, strict=True))
        self._bounds = tuple((float(p[0]), float(p[-1])) for p in points)

        def over(values: Floats) -> RegularGridInterpolator:
            padded = np.pad(values, 1, mode="edge")
            for axis, k in enumerate(keep):
                padded = np.compress(k, padded, axis=axis)
            return RegularGridInterpolator(points, padded, bounds_error=False, fill_value=np.nan)

        self._of = tuple(over(v) for v in (cells.value, cells.lower, cells.upper))

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes, in order."""
        return self.cells.axes

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """The measured range of each axis."""
        return dict(zip(self.axes, self._bounds, strict=True))

    def __call__(self, *places: ArrayLike, **named: ArrayLike) -> Point:
        """Completeness at places that broadcast against each other, in the units of ``about``.

        Raises
        ------
        UserError
            An axis is missing, stands twice, or is none.
        """
        given = dict(zip(self.axes, places, strict=False)) | named
        if len(places) + len(named) != len(self.axes) or set(given) != set(self.axes):
            raise UserError(
                f"this completeness is a function of {' and '.join(self.axes)}; give each once"
            )
        arrays = np.broadcast_arrays(*(np.asarray(given[a], dtype=float) for a in self.axes))
        stacked = np.stack(arrays, axis=-1)
        return Point(*(np.asarray(of(stacked)).reshape(arrays[0].shape) for of in self._of))

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        cells = self.cells
        arrays = {
            name: _plain(getattr(cells, name))
            for name in ("value", "lower", "upper", "injections", "regions", "effective")
        }
        grid = {
            "axes": list(cells.axes),
            "edges": [_plain(e) for e in cells.edges],
            "nodes": [_plain(n) for n in cells.nodes],
            **arrays,
        }
        return {"about": self.about, "grid": grid}


def _plain(array: NDArray[Any]) -> Any:
    if array.dtype.kind != "f":
        return array.tolist()
    plain = array.astype(object)
    plain[~np.isfinite(array)] = None
    return plain.tolist()


def dump(functions: dict[str, Completeness], version: str) -> str:
    """The functions of all sets as one JSON file."""
    document = {
        "kind": KIND,
        "schema": SCHEMA,
        "what": ABOUT,
        "version": version,
        "sets": {name: function.to_json() for name, function in functions.items()},
    }
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def load(url: str, of: str = "all") -> Completeness:
    """A function out of ``completeness.json``.

    Parameters
    ----------
    url : str
        A path or any fsspec URL.
    of : str
        ``all``, ``clean`` or ``no_psf_fallback``.

    Raises
    ------
    UserError
        There is no such file, it is none of completeness, or it has no such set.
    """
    try:
        document = json.loads(storage.read(url))
    except FileNotFoundError:
        raise UserError(
            f"there is no file {url}; dhs completeness writes completeness.json"
        ) from None
    except ValueError:
        document = None
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise UserError(f"{url} is no function of completeness; dhs completeness writes one")
    if document.get("schema") != SCHEMA:
        raise UserError(
            f"{url} has schema {document.get('schema')}, and this version reads {SCHEMA}; measure it again"
        )
    sets = document["sets"]
    if of not in sets:
        raise UserError(f"{url} has no set {of!r}; it has {', '.join(sets) or 'none'}")
    grid = sets[of]["grid"]

    def floats(name: str) -> Floats:
        return np.array(grid[name], dtype=float)

    cells = Cells(
        axes=tuple(grid["axes"]),
        edges=tuple(np.array(e, dtype=float) for e in grid["edges"]),
        nodes=tuple(np.array(n, dtype=float) for n in grid["nodes"]),
        value=floats("value"),
        lower=floats("lower"),
        upper=floats("upper"),
        injections=np.array(grid["injections"], np.int64),
        regions=np.array(grid["regions"], np.int64),
        effective=floats("effective"),
    )
    return Completeness(cells, sets[of]["about"])
