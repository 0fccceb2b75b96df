"""What an audit looks at: which rows are kept, in which strata, all decided before anything runs.

A row belongs to the audit because of a hash of its own identity, never because of its rank, its
block or its worker: the same rows are kept whatever the order in which blocks are measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import xxhash
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.audit.integrity import Written

THETA_E_EDGES = (0.5, 0.75, 1.0, 1.5, 2.0)
"""Edges in arcsec of the strata of Einstein radius that an audit reports by default."""

COARSE_THETA_E_EDGES = (1.0, 2.0)
"""Edges in arcsec of the three wide strata (< 1, 1-2, >= 2) that are always reported beside them."""

CORE_SNR_EDGES = (0.1, 1.0, 3.0, 10.0, 30.0)
"""Edges of the strata in re-rendered S/N inside the core."""

PSF_RATIO_EDGES = (0.4, 0.6, 0.8, 1.0)
"""Edges of the strata in theta_e / PSF width of the reference band: what is resolved, and what is not."""

MAX_REGION_KEYS = 4096
"""Above this many regions, sums are kept for :data:`FOLDED_KEYS` super-regions instead."""

FOLDED_KEYS = 1024

REDRAW = (
    "theta_e", "lens_q", "lens_pa", "src_model", "src_flux", "src_reff", "src_n", "src_q", "src_pa",
    "src_dx", "src_dy", "psfsize", "psf_model", "pixel_response", "target_x", "target_y",
)  # fmt: skip
"""Variables that an arc cannot be drawn again without."""

STATISTICS_VERSION = 6
"""Raised when a block's statistics change their shape or meaning: older ones are measured again."""

THRESHOLD_MARGIN = 1.1
"""Expected numbers of rows are random: thresholds are this much wider than the cap needs."""


@dataclass(frozen=True)
class AuditSpec:
    """Everything that decides which rows an audit keeps and how it bins them.

    Parameters
    ----------
    seed : int
        The experiment's seed; part of every row's hash.
    bands : sequence of str
        Bands of the data set, in order.
    reference_band : str
        The band that stands wherever one band is needed.
    size : int
        Pixels on a side of a stamp.
    pixel_scale : float
        Arcsec per pixel.
    n_regions : int
        Regions of the whole run; above 4,096 they are folded into 1,024 super-regions.
    stratum_counts : sequence of int
        Injections that the plan holds in each stratum of ``theta_e``, ``len(theta_e_edges) + 1``.
    theta_e_edges : sequence of float
        Arcsec, ascending.
    cap, whole_cap, closure : int
        Rows analysed by their core pixels, rows kept with all pixels, rows re-rendered whole.
    paired : bool
        Whether a stamp and the ctrl of its row show the same sky.
    lacks, notes : tuple of str
        Variables that the data set does not hold, and what stands for them, in sentences.
    written : tuple of (str, Written)
        Columns, and in what they are written over all rows (:mod:`.integrity`).
    """

    seed: int
    bands: tuple[str, ...]
    reference_band: str
    size: int
    pixel_scale: float
    n_regions: int
    stratum_counts: tuple[int, ...]
    theta_e_edges: tuple[float, ...] = THETA_E_EDGES
    cap: int = 20_000
    whole_cap: int = 2_000
    closure: int = 500
    paired: bool = True
    lacks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    written: tuple[tuple[str, Written], ...] = ()

    def __post_init__(self) -> None:
        kinds: dict[str, Callable[[Any], Any]] = {
            "bands": str,
            "theta_e_edges": float,
            "stratum_counts": int,
            "lacks": str,
            "notes": str,
            "written": lambda column: (column[0], Written(*column[1])),
        }
        for name, kind in kinds.items():
            object.__setattr__(self, name, tuple(kind(v) for v in getattr(self, name)))
        if self.reference_band not in self.bands:
            raise ValueError(f"reference band {self.reference_band!r} is not one of {self.bands}")
        if len(self.stratum_counts) != self.n_strata:
            raise ValueError(
                f"stratum_counts has {len(self.stratum_counts)} numbers; "
                f"{len(self.theta_e_edges)} edges make {self.n_strata} strata"
            )
        if list(self.theta_e_edges) != sorted(self.theta_e_edges):
            raise ValueError("theta_e_edges must ascend")
        if not self.closure <= self.whole_cap <= self.cap:
            raise ValueError(
                "closure <= whole_cap <= cap: whole pixels are kept of audit rows only"
            )

    @property
    def redraws(self) -> bool:
        """Whether the rows say enough to draw their arcs again."""
        return self.paired and not set(self.lacks) & set(REDRAW)

    @property
    def n_strata(self) -> int:
        return len(self.theta_e_edges) + 1

    @property
    def folded(self) -> bool:
        """Whether regions are folded into super-regions (hash modulo 1,024)."""
        return self.n_regions > MAX_REGION_KEYS

    @property
    def reference_index(self) -> int:
        return self.bands.index(self.reference_band)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, every default filled in."""
        return json.dumps({"statistics": STATISTICS_VERSION, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> AuditSpec:
        """The inverse of :meth:`to_json`."""
        fields: dict[str, Any] = json.loads(text)
        fields.pop("statistics")
        return cls(**fields)

    def stratum(self, theta_e: ArrayLike) -> NDArray[np.int64]:
        """Index of the stratum of each Einstein radius (arcsec); an edge belongs to the one above.

        Radii are compared in float32, the precision in which they are stored.
        """
        edges = np.asarray(self.theta_e_edges, dtype=np.float32)
        return np.digitize(np.asarray(theta_e, dtype=np.float32), edges).astype(np.int64)

    def thresholds(self, total: int) -> NDArray[np.float64]:
        """Fraction of the hash's range that is kept in each stratum so that about ``total`` stay."""
        share = shares(total, self.stratum_counts).astype(float)
        counts = np.asarray(self.stratum_counts, dtype=float)
        wanted = np.divide(
            THRESHOLD_MARGIN * share, counts, out=np.ones_like(share), where=counts > 0
        )
        return np.where(share >= counts, 1.0, np.minimum(wanted, 1.0))

    def even_threshold(self, total: int) -> float:
        """Fraction of the hash's range that leaves about ``total`` rows, whatever their stratum."""
        return min(1.0, THRESHOLD_MARGIN * total / max(sum(self.stratum_counts), 1))

    def region_keys(self, region_id: Sequence[str] | NDArray[Any]) -> NDArray[np.uint64]:
        """Key of each region: xxh64 of its name, modulo 1,024 where there are many."""
        names, inverse = np.unique(np.asarray(region_id).astype(str), return_inverse=True)
        keys = np.array([xxhash.xxh64_intdigest(str(n).encode()) for n in names], dtype=np.uint64)
        if self.folded:
            keys %= np.uint64(FOLDED_KEYS)
        return keys[inverse.reshape(-1)]


def stratum_counts(theta_e: ArrayLike, edges: Sequence[float] = THETA_E_EDGES) -> tuple[int, ...]:
    """How many of these Einstein radii (arcsec) lie in each stratum, for :class:`AuditSpec`."""
    index = np.digitize(
        np.asarray(theta_e, dtype=np.float32).ravel(), np.asarray(edges, dtype=np.float32)
    )
    return tuple(int(n) for n in np.bincount(index, minlength=len(edges) + 1))


def interval_labels(edges: Sequence[float]) -> tuple[str, ...]:
    """Names of the strata between ``edges``: ``< 0.5``, ``0.5-0.75``, ..., ``>= 2``."""
    inner = tuple(f"{lo:g}-{hi:g}" for lo, hi in pairwise(edges))
    return (f"< {edges[0]:g}", *inner, f">= {edges[-1]:g}")


def shares(total: int, counts: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Split ``total`` evenly over strata of these sizes; what a small one cannot use goes on.

    Returns
    -------
    ndarray of int64
        At most ``counts`` each, at most ``total`` together.
    """
    sizes = np.asarray(counts, dtype=np.int64)
    out = np.zeros_like(sizes)
    filled = [int(i) for i in np.argsort(sizes, kind="stable") if sizes[i] > 0]
    left = int(total)
    for done, i in enumerate(filled):
        out[i] = min(int(sizes[i]), left // (len(filled) - done))
        left -= int(out[i])
    return out


def row_hashes(seed: int, brick: NDArray[Any], slot: NDArray[np.int64]) -> NDArray[np.uint64]:
    """xxh64 of ``seed/brick/slot`` of each row: uniform, and the row's own for ever."""
    texts = (f"{seed}/{b}/{s}" for b, s in zip(brick.tolist(), slot.tolist(), strict=True))
    return np.fromiter(
        (xxhash.xxh64_intdigest(t.encode()) for t in texts), dtype=np.uint64, count=len(slot)
    )


def lowest(
    hashes: NDArray[np.uint64],
    stratum: NDArray[np.int64],
    caps: NDArray[np.int64],
    ties: Sequence[NDArray[Any]] = (),
) -> NDArray[np.int64]:
    """Indices of the ``caps[s]`` lowest hashes of each stratum s, in ascending order of hash.

    The k lowest of a union are among the k lowest of its parts, so that taking them is associative.
    ``ties`` are further keys for the (practically impossible) equal hashes.
    """
    order = np.lexsort((*reversed(ties), hashes))
    rank = np.empty(len(order), dtype=np.int64)
    for s in range(len(caps)):
        members = order[stratum[order] == s]
        rank[members] = np.arange(len(members))
    return order[rank[order] < caps[stratum[order]]]
