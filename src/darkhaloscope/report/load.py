"""What a page is made of, as it lies in the folder of an audit."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import yaml

from darkhaloscope import storage
from darkhaloscope.audit.alignment import ALIGNMENT_COLUMNS, SHIFT_COLUMNS
from darkhaloscope.audit.closure import ANNULUS_COLUMNS as CLOSURE_ANNULUS_COLUMNS
from darkhaloscope.audit.closure import PAIR_COLUMNS
from darkhaloscope.audit.closure import PROFILE_COLUMNS as CLOSURE_PROFILE_COLUMNS
from darkhaloscope.audit.closure_summary import SUMMARY_COLUMNS
from darkhaloscope.audit.core_gate import CURVE_COLUMNS, STRATA_COLUMNS
from darkhaloscope.audit.dose import DOSE_COLUMNS
from darkhaloscope.audit.growth import GROWTH_COLUMNS, MAGNIFICATION_COLUMNS
from darkhaloscope.audit.hypotheses import TEST_COLUMNS
from darkhaloscope.audit.independence import INDEPENDENCE_COLUMNS, OUTLIER_COLUMNS
from darkhaloscope.audit.leak_map import LEAK_COLUMNS
from darkhaloscope.audit.measure import FOOTPRINT_COUNTS, Arrays
from darkhaloscope.audit.quality import COVERAGE_COLUMNS, QUALITY_COLUMNS
from darkhaloscope.audit.selection import SELECTION_COLUMNS
from darkhaloscope.audit.shape import CORE_COLUMNS, GROUP_COLUMNS, QUADRANT_COLUMNS
from darkhaloscope.audit.slopes import POINT_COLUMNS, SLOPE_COLUMNS
from darkhaloscope.audit.spec import REDRAW
from darkhaloscope.audit.tables import (
    ANNULUS_COLUMNS,
    PROFILE_COLUMNS,
    PSF_SOURCE_COLUMNS,
    REASON_COLUMNS,
)
from darkhaloscope.audit.verdict import GATES, REQUIRED, SCHEMA
from darkhaloscope.audit.zero_dose import ZERO_DOSE_COLUMNS
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.variables import BY_NAME
from darkhaloscope.views import REMOVED_COLUMNS

COLUMNS: dict[str, list[str]] = {
    "auc_by_stratum": STRATA_COLUMNS,
    "auc_by_quality": STRATA_COLUMNS,
    "quality_sets": REMOVED_COLUMNS,
    "learning_curve": CURVE_COLUMNS,
    "zero_dose": ZERO_DOSE_COLUMNS,
    "zero_dose_points": ["band", "dose", "difference"],
    "closure_pairs": PAIR_COLUMNS,
    "closure_summary": SUMMARY_COLUMNS,
    "closure_profile": CLOSURE_PROFILE_COLUMNS,
    "closure_annulus": CLOSURE_ANNULUS_COLUMNS,
    "profiles": PROFILE_COLUMNS,
    "annulus": ANNULUS_COLUMNS,
    "quality": QUALITY_COLUMNS,
    "column_coverage": COVERAGE_COLUMNS,
    "dose": DOSE_COLUMNS,
    "leak_map": LEAK_COLUMNS,
    "alignment": ALIGNMENT_COLUMNS,
    "shift_sensitivity": SHIFT_COLUMNS,
    "core": CORE_COLUMNS,
    "quadrants": QUADRANT_COLUMNS,
    "groups": GROUP_COLUMNS,
    "core_slopes": SLOPE_COLUMNS,
    "core_points": POINT_COLUMNS,
    "growth": GROWTH_COLUMNS,
    "magnification": MAGNIFICATION_COLUMNS,
    "selection": SELECTION_COLUMNS,
    "independence": INDEPENDENCE_COLUMNS,
    "psf_outliers": OUTLIER_COLUMNS,
    "tests": TEST_COLUMNS,
    "reasons": REASON_COLUMNS,
    "psf_sources": PSF_SOURCE_COLUMNS,
    "footprint": ["key", "ra", "dec", *FOOTPRINT_COUNTS, *(r.text for r in Reason)],
}
"""Every table of an audit and its columns; one that was not written is an empty one."""

SKY_CELLS = 180 * 360
"""Keys of the footprint below this are square degrees; a region's key is a 64-bit hash."""


@dataclass(frozen=True)
class Findings:
    """An audit's verdict and tables, and what is known of the experiment behind it.

    ``experiment`` is the text of ``experiment.yaml`` and ``settings`` what it says, both empty for a
    foreign data set; ``run`` the contents of ``run.json``, empty where there is none.
    """

    verdict: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    experiment: str
    settings: dict[str, Any]
    run: dict[str, Any]
    kept: Arrays | None = None
    """The pairs that the audit kept to be looked at."""
    made: dict[str, Any] = field(default_factory=dict)
    """When the audit was made and by which version; empty where that is not known."""

    def __getitem__(self, name: str) -> pd.DataFrame:
        return self.tables[name]

    @property
    def paired(self) -> bool:
        """Whether a stamp and the ctrl of its row show the same sky."""
        return self.kept is None or bool(self.kept.get("paired", True))

    @property
    def lacks(self) -> set[str]:
        """Variables that the data set does not say; what stands for them is no finding."""
        return lacks(self.kept or {})

    @property
    def redraws(self) -> bool:
        """Whether the rows say enough to draw their arcs again."""
        return self.paired and not self.lacks & set(REDRAW)

    @property
    def source(self) -> str:
        """Where a foreign data set lies; empty for a run, whose folder moves with it."""
        return str(self.verdict.get("source") or "")

    @property
    def bands(self) -> list[str]:
        """Bands in the order of the data set."""
        return [str(b) for b in pd.unique(self["psf_sources"]["band"])]

    @property
    def reference(self) -> str:
        """The band that stands where a formula needs one: r, else the first of z, g, i."""
        named = _section(self.settings, "survey").get("reference_band")
        known = [b for b in (named, "r", "z", "g", "i") if b in self.bands]
        return str(known[0]) if known else (self.bands[0] if self.bands else "r")

    @property
    def name(self) -> str:
        """The experiment's name, or the last part of a foreign data set's place."""
        return str(self.settings.get("name", "")) or self.source.rsplit("/", 1)[-1]

    @property
    def required(self) -> list[str]:
        """Gates that must pass: those of the experiment, and that rows can be drawn again at all."""
        wanted = _section(self.settings, "gates").get("required", REQUIRED)
        named = wanted if isinstance(wanted, list | tuple) else REQUIRED
        return [g for g in GATES if g in named or g == "rerendered"]

    @property
    def folded(self) -> bool:
        """Whether the footprint counts square degrees instead of regions."""
        return len(self["footprint"]) > 0 and int(self["footprint"]["key"].max()) < SKY_CELLS

    def limit(self, gate: str) -> float:
        """The limit of a gate; missing where the verdict has no such gate."""
        return float(self.gate(gate).get("limit", "nan"))

    def gate(self, name: str) -> dict[str, Any]:
        """A gate's line of the verdict; empty where the verdict has no such gate."""
        return next((g for g in self.verdict["gates"] if g["name"] == name), {})


def load(source: str, folder: str) -> Findings:
    """Read an audit.

    Parameters
    ----------
    source : str
        A run's folder or a data set; ``experiment.yaml`` and ``run.json`` are read where they are.
    folder : str
        Where the audit wrote ``verdict.json`` and ``audit/*.parquet``.

    Raises
    ------
    UserError
        There is no verdict, or something there cannot be read.
    """
    verdict = _verdict(folder)
    tables = {name: _table(folder, name, columns) for name, columns in COLUMNS.items()}
    text = (_optional(storage.join(source, "experiment.yaml")) or b"").decode(errors="replace")
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError:
        settings = None
    return Findings(
        verdict,
        tables,
        text,
        settings if isinstance(settings, dict) else {},
        _document(storage.join(source, "run.json")),
        _kept(folder),
        _document(storage.join(folder, "audit", "made.json")),
    )


def unit_of(column: str) -> str:
    """Unit of a variable of the data set; empty where it has none or is not ours."""
    return BY_NAME[column].unit if column in BY_NAME else ""


def _verdict(folder: str) -> dict[str, Any]:
    place = storage.join(folder, "verdict.json")
    data = _optional(place)
    if data is None:
        raise UserError(
            f"{folder} holds no verdict.json; finish the run, or audit the data set, before its report"
        )
    try:
        verdict = json.loads(data)
    except ValueError:
        raise UserError(f"{place} is damaged; audit the data set again") from None
    if not isinstance(verdict, dict) or verdict.get("schema") != SCHEMA:
        raise UserError(f"{place} is not of schema {SCHEMA}; audit the data set again")
    return verdict


def lacks(kept: Mapping[str, Any]) -> set[str]:
    """Variables that a set does not say, by what its audit kept to be looked at."""
    return {str(v) for v in kept.get("lacks", ())}


def _document(place: str) -> dict[str, Any]:
    """A JSON object that a page can do without."""
    try:
        found = json.loads(_optional(place) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _table(folder: str, name: str, columns: list[str]) -> pd.DataFrame:
    place = storage.join(folder, "audit", f"{name}.parquet")
    data = _optional(place)
    if data is None:
        return pd.DataFrame(columns=columns)
    try:
        table = pd.read_parquet(io.BytesIO(data))
    except (ValueError, OSError):  # pyarrow's errors are either
        raise UserError(f"{place} is no Parquet file; audit the data set again") from None
    return table.reindex(columns=columns)


def _kept(folder: str) -> Arrays | None:
    place = storage.join(folder, "audit", "examples.npz")
    data = _optional(place)
    if data is None:
        return None
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error):
        raise UserError(f"{place} is no .npz file; audit the data set again") from None


def _optional(url: str) -> bytes | None:
    # Below a single file there is nothing, which is no error.
    if not storage.exists(url):
        return None
    return storage.read(url)


def _section(settings: dict[str, Any], name: str) -> dict[str, Any]:
    section = settings.get(name)
    return section if isinstance(section, dict) else {}
