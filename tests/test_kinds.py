"""Each kind of lens and source that an experiment can ask for: planned, drawn, stored, drawn again.

The audit's integrator shares no code with the renderer, so that closure is evidence. Each defect is
planted between plan and pixels: the columns promise one thing, the pixels hold another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from darkhaloscope import audit, inject, store
from darkhaloscope.audit.causes import Limits
from darkhaloscope.audit.closure import Closure, closure
from darkhaloscope.audit.named import closure_causes
from darkhaloscope.config import Experiment, parse_experiment
from darkhaloscope.plan import Plan
from darkhaloscope.prepare import layout_of, spec_of
from darkhaloscope.store import Layout
from darkhaloscope.survey import galaxy_image
from darkhaloscope.variables import LENS_MODELS, SOURCE_MODELS, VARIABLES

pytestmark = pytest.mark.usefixtures("no_pictures")

BRICK = "0591m305"
PLACES = [(59.1072292, -30.4899081), (59.1030888, -30.4869181), (59.1090, -30.4870)]
SHAPE = {
    "reff": {"uniform": [0.15, 0.4]},
    "q": {"uniform": [0.4, 1.0]},
    "pa": {"uniform": [0, 180]},
}

CATALOGUE = Path(__file__).parent / "data" / "cosmos" / "catalogue.fits"
KINDS: dict[str, dict[str, Any]] = {
    "EPL": {"lens": {"model": "EPL", "slope": {"uniform": [1.6, 2.4]}}, "source": SHAPE},
    "POINT": {"lens": {}, "source": {"model": "point"}},
    "BULGE_DISC": {
        "lens": {},
        "source": {
            **SHAPE,
            "model": "bulge_disc",
            "bulge_fraction": {"uniform": [0.1, 0.4]},
            "bulge_reff": {"uniform": [0.05, 0.1]},
            "bulge_n": {"uniform": [2, 4]},
            "bulge_q": {"uniform": [0.6, 1]},
        },
    },
    "IMAGE": {
        "lens": {},
        "source": {
            "model": "image",
            "mag": 23.0,
            "catalogue": str(CATALOGUE),
            "image_mag": [21, 22.4],
            "image_reff": [0.2, 0.6],
            "image_scale": {"uniform": [0.8, 1.2]},
            "rotation": {"uniform": [0, 360]},
        },
    },
}


def experiment(
    root: str, lens: dict[str, Any], source: dict[str, Any], **sections: Any
) -> Experiment:
    document: dict[str, Any] = {
        "seed": 5,
        "survey": {"root": root, "bands": ["r"]},
        "targets": {"positions": PLACES},
        "stamp": {"size": 40},
        "plan": {"repeats": 15, "control_fraction": 0.0},
        "lens": {
            "theta_e": {"uniform": [0.7, 1.5]},
            "q": {"uniform": [0.6, 1.0]},
            "pa": {"uniform": [0, 180]},
            **lens,
        },
        "source": {
            "mag": 21.0, "dx": {"uniform": [-0.3, 0.3]}, "dy": {"uniform": [-0.3, 0.3]}, **source,
        },
        **sections,
    }  # fmt: skip
    return parse_experiment(document)


def plan_of(exp: Experiment) -> Plan:
    table = {
        "brick": BRICK,
        "objid": np.arange(len(PLACES)),
        "target_id": np.arange(len(PLACES)),
        "ra": [ra for ra, _ in PLACES],
        "dec": [dec for _, dec in PLACES],
    }
    return Plan(exp, pd.DataFrame(table))


def spec_of_rows(exp: Experiment, rows: pd.DataFrame) -> audit.AuditSpec:
    strata = audit.stratum_counts(rows["theta_e"].to_numpy(), exp.audit.theta_e_edges)
    return spec_of(exp, strata, n_regions=1)


def drawn(exp: Experiment, rows: pd.DataFrame) -> xr.Dataset:
    return inject.inject_brick(rows, inject.load_brick(rows, exp), exp)


def stored(folder: Path, layout: Layout, cube: xr.Dataset) -> xr.Dataset:
    """The cube as a reader of the data set gets it back."""
    run = str(folder / "run")
    store.create_run(run, layout, "", {}, "0")
    for block in range(layout.blocks):
        part = cube.isel(pair=layout.rows_of(block))
        store.write_block(run, layout, block, part, {"n": np.array(1)}, "", [])
    return store.read_rows(run, slice(0, layout.rows))


class Made(NamedTuple):
    """A data set of one kind, and its audit rows drawn again."""

    exp: Experiment
    rows: pd.DataFrame
    cube: xr.Dataset
    spec: audit.AuditSpec
    again: dict[str, np.ndarray]

    def closure(self, cube: xr.Dataset) -> Closure:
        return closure(
            audit.merge([audit.measure(cube, self.spec)], self.spec), self.again, self.spec
        )


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, real_root: str, tmp_path_factory: Any) -> Made:
    exp = experiment(real_root, **KINDS[request.param])
    plan = plan_of(exp)
    rows = plan.brick_rows(BRICK)
    cube = stored(tmp_path_factory.mktemp("kind"), layout_of(plan), drawn(exp, rows))
    spec = spec_of_rows(exp, rows)
    stats = audit.merge([audit.measure(cube, spec)], spec)
    return Made(exp, rows, cube, spec, drawn_again(stats, spec))


def drawn_again(stats: dict[str, np.ndarray], spec: audit.AuditSpec) -> dict[str, np.ndarray]:
    image_of = functools.partial(galaxy_image, str(CATALOGUE))
    return audit.rerender(audit.audit_rows(stats, spec), spec, image_of=image_of)


def bugs(found: Closure) -> list[str]:
    return [cause.name for cause in closure_causes(found, Limits()) if cause.kind == "bug"]


def test_every_row_is_drawn_and_drawn_again_the_same(made: Made) -> None:
    """Fluxes to 1e-3, places to 0.01 px, widths to 2e-3, row by row."""
    assert made.cube["cutout_ok"].values.all()
    assert set(made.again["message"]) == {""}
    found = made.closure(made.cube)
    assert found.n_pairs >= 40
    assert bugs(found) == []
    assert np.abs(found.pairs.flux_ratio - 1).max() < 3e-3
    assert found.pairs["shift"].max() < 0.02
    assert found.pairs.leftover.max() < 0.02


def test_magnifications_are_those_of_the_integrator(made: Made) -> None:
    stats = audit.merge([audit.measure(made.cube, made.spec)], made.spec)
    ratio = stats["row_magnification"] / made.again["magnification"]
    assert np.abs(ratio - 1).max() < 3e-3


def test_a_kind_adds_its_columns_and_no_other(made: Made) -> None:
    base = {variable.name for variable in VARIABLES}
    added = {
        "EPL": {"lens_slope"},
        "POINT": set(),
        "BULGE_DISC": {"src_bulge_fraction", "src_bulge_reff", "src_bulge_n", "src_bulge_q"},
        "IMAGE": {"src_image", "src_rotation", "src_scale", "src_deconvolved"},
    }
    (kind,) = made.exp.kinds
    assert set(made.cube.data_vars) - base == added[kind]
    for name in added[kind]:
        stored_as = made.cube[name].dtype
        np.testing.assert_array_equal(made.cube[name], made.rows[name].astype(stored_as))


# --- defects ----------------------------------------------------------------------------------------


def slope_dropped(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(lens_slope=2.0)


def drawn_as_a_sersic(rows: pd.DataFrame) -> pd.DataFrame:
    """A point given a size of 0.15 arcsec."""
    shape = {"src_reff": 0.15, "src_n": 1.0, "src_q": 1.0, "src_pa": 0.0}
    return rows.assign(src_model=SOURCE_MODELS.index("SERSIC"), **shape)


def one_image_brighter(rows: pd.DataFrame) -> pd.DataFrame:
    """A point nearer to the caustic by a twentieth."""
    return rows.assign(src_dx=0.95 * rows["src_dx"], src_dy=0.95 * rows["src_dy"])


def parts_swapped(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(src_bulge_fraction=1 - rows["src_bulge_fraction"])


def bulge_left_out(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(src_bulge_fraction=0.0)


def turned_by_90_degrees(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(src_rotation=(rows["src_rotation"] + 90) % 360)


def pixels_a_tenth_larger(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(src_scale=1.1 * rows["src_scale"])


DEFECTS: dict[str, list[Callable[[pd.DataFrame], pd.DataFrame]]] = {
    "EPL": [slope_dropped],
    "POINT": [drawn_as_a_sersic, one_image_brighter],
    "BULGE_DISC": [parts_swapped, bulge_left_out],
    "IMAGE": [turned_by_90_degrees, pixels_a_tenth_larger],
}


def test_a_defect_of_the_kind_is_a_bug(made: Made) -> None:
    (kind,) = made.exp.kinds
    for defect in DEFECTS[kind]:
        wrong = drawn(made.exp, defect(made.rows))
        promised = made.cube.assign(arc=wrong["arc"])
        assert bugs(made.closure(promised)), defect.__name__


# --- mixtures ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(real_root: str) -> tuple[Experiment, pd.DataFrame]:
    lens = {"model": {"SIS": 1, "SIE": 1, "EPL": 2}, "slope": 2.2}
    source = {
        "model": {"sersic": 0.4, "point": 0.2, "bulge_disc": 0.2, "image": 0.2},
        "catalogue": str(CATALOGUE),
        "n": 1.5,
    }
    plan = {"repeats": 300, "control_fraction": 0.1}
    exp = experiment(real_root, lens, source, plan=plan)
    return exp, plan_of(exp).brick_rows(BRICK)


def test_a_mixture_has_its_weights(mixed: tuple[Experiment, pd.DataFrame]) -> None:
    """Within five standard errors of a binomial."""
    _, rows = mixed
    rows = rows[rows["lens_model"] > 0]
    lens = {"SIS": 0.25, "SIE": 0.25, "EPL": 0.5}
    source = {"SERSIC": 0.4, "POINT": 0.2, "BULGE_DISC": 0.2, "IMAGE": 0.2}
    for names, weights, column in (
        (LENS_MODELS, lens, "lens_model"),
        (SOURCE_MODELS, source, "src_model"),
    ):
        for name, weight in weights.items():
            seen = (rows[column] == names.index(name)).mean()
            assert abs(seen - weight) < 5 * np.sqrt(weight * (1 - weight) / len(rows)), name


def test_a_row_has_what_its_kind_has_and_nothing_else(
    mixed: tuple[Experiment, pd.DataFrame],
) -> None:
    _, rows = mixed
    lens = np.array(LENS_MODELS)[rows["lens_model"]]
    source = np.array(SOURCE_MODELS)[rows["src_model"]]
    np.testing.assert_array_equal(np.isfinite(rows["lens_slope"]), lens == "EPL")
    assert (rows["lens_q"][lens == "SIS"] == 1.0).all()
    assert rows["lens_q"][lens == "SIE"].nunique() > 50
    sized = np.isin(source, ["SERSIC", "BULGE_DISC"])
    for name in ("src_n", "src_q", "src_pa"):
        np.testing.assert_array_equal(np.isfinite(rows[name]), sized)
    np.testing.assert_array_equal(np.isfinite(rows["src_reff"]), sized | (source == "IMAGE"))
    np.testing.assert_array_equal(rows["src_image"] >= 0, source == "IMAGE")
    np.testing.assert_array_equal(np.isfinite(rows["src_scale"]), source == "IMAGE")
    np.testing.assert_array_equal(np.isfinite(rows["src_bulge_n"]), source == "BULGE_DISC")


def test_a_mixture_is_drawn_whole(mixed: tuple[Experiment, pd.DataFrame]) -> None:
    exp, rows = mixed
    some = rows.iloc[:: len(rows) // 40]
    cube = drawn(exp, some)
    assert cube["cutout_ok"].values.all()
    spec = spec_of_rows(exp, some)
    stats = audit.measure(cube, spec)
    again = drawn_again(stats, spec)
    assert set(again["message"]) == {""}
    assert len(np.unique(stats["row_src_model"])) == 4
    assert len(np.unique(stats["row_lens_model"])) == 3
    np.testing.assert_allclose(stats["row_magnification"], again["magnification"], rtol=3e-3)


def test_a_mixture_leaves_every_other_parameter_as_it_was(
    real_root: str, mixed: tuple[Experiment, pd.DataFrame]
) -> None:
    """The rows of a mixture are those of the plain experiment, but for what the kinds change."""
    _, rows = mixed
    plan = {"repeats": 300, "control_fraction": 0.1}
    plain = plan_of(experiment(real_root, {}, {"n": 1.5}, plan=plan)).brick_rows(BRICK)
    for name in ("theta_e", "lens_pa", "gamma1", "src_dx", "src_flux_r", "slot"):
        np.testing.assert_array_equal(rows[name], plain[name])
    sie = rows["lens_model"] == LENS_MODELS.index("SIE")
    np.testing.assert_array_equal(rows["lens_q"][sie], plain["lens_q"][sie])


def test_a_mixed_data_set_names_its_kinds(
    mixed: tuple[Experiment, pd.DataFrame], tmp_path: Path
) -> None:
    exp, rows = mixed
    table = plan_of(exp)
    layout = layout_of(table)._replace(rows=64, block=64)
    cube = drawn(exp, rows.iloc[:64])
    stored(tmp_path, layout, cube)
    opened = store.open_run(str(tmp_path / "run"))
    seen = set(opened["lens_model"].values) | set(opened["src_model"].values)
    assert {
        "CONTROL",
        "SIS",
        "SIE",
        "EPL",
        "NONE",
        "SERSIC",
        "POINT",
        "BULGE_DISC",
        "IMAGE",
    } == seen
    attrs = store.open_dataset(str(tmp_path / "run"))["src_model"].attrs
    assert attrs["flag_meanings"] == "NONE SERSIC POINT BULGE_DISC IMAGE"
    assert list(attrs["flag_values"]) == [0, 1, 2, 3, 4]


def test_an_image_that_is_not_at_hand_is_said(
    mixed: tuple[Experiment, pd.DataFrame],
) -> None:
    """Without the catalogue only images cannot be drawn again, and each says so."""
    exp, rows = mixed
    some = rows.iloc[:20]
    spec = spec_of_rows(exp, some)
    stats = audit.measure(drawn(exp, some), spec)
    again = audit.rerender(audit.audit_rows(stats, spec), spec)
    is_image = stats["row_src_model"] == SOURCE_MODELS.index("IMAGE")
    assert is_image.any()
    np.testing.assert_array_equal([("not at hand" in m) for m in again["message"]], is_image)
