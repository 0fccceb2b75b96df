"""Foreign tables: the seed's conventions mean what lenstronomy means on array axes, and come back."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from lenstronomy.Util.param_util import phi_q2_ellipticity, shear_polar2cartesian

from darkhaloscope import lensing
from darkhaloscope.errors import UserError
from darkhaloscope.mapping import (
    Mapping,
    decode_stamp,
    encode_stamp,
    export_rows,
    import_rows,
    load_mapping,
)
from darkhaloscope.variables import BY_NAME, VARIABLES

SEED = load_mapping("seed")
BANDS = ("g", "r", "z")

THEIRS = pd.DataFrame(
    {
        "lens_model": ["SIE", "SIE", "CONTROL"],
        "is_control": [0, 0, 1],
        "theta_e_arcsec": [0.9, 1.4, 0.0],
        "lens_e": [0.25, 0.1, 0.0],
        "lens_phi_rad": [0.3, 2.2, 0.0],
        "shear": [0.07, 0.03, 0.0],
        "shear_phi_rad": [0.5, 2.9, 0.0],
        "src_reff_arcsec": [0.3, 0.15, 0.0],
        "src_e": [0.4, 0.2, 0.0],
        "src_phi_rad": [1.1, 2.7, 0.0],
        "src_x_arcsec": [0.31, -0.12, 0.0],
        "src_y_arcsec": [-0.2, 0.37, 0.0],
        "lens_x_arcsec": [0.04, -0.02, 0.0],
        "lens_y_arcsec": [-0.03, 0.05, 0.0],
        "psfsize_r": [1.3, 1.2, 1.1],
        "psf_source_g": [0, 2, 1],
        "brickname": ["0591m305", "0591m305", "0594m305"],
        "region_id": [7, 7, 8],
        "region_split": ["train", "train", "test"],
    }
)


def rays() -> tuple[np.ndarray, np.ndarray]:
    """Points on array axes: x right, y up, arcsec."""
    return tuple(np.random.default_rng(3).uniform(-3, 3, (2, 50)))


@pytest.mark.parametrize("row", [0, 1])
def test_the_seeds_lens_deflects_as_lenstronomy_on_array_axes(row: int) -> None:
    t = THEIRS.iloc[row]
    e1, e2 = phi_q2_ellipticity(t.lens_phi_rad, (1 - t.lens_e) / (1 + t.lens_e))
    g1, g2 = shear_polar2cartesian(t.shear_phi_rad, t.shear)
    x, y = rays()
    truth = LensModel(["SIE", "SHEAR"]).alpha(
        x, y, [{"theta_E": t.theta_e_arcsec, "e1": e1, "e2": e2}, {"gamma1": g1, "gamma2": g2}]
    )
    ours = import_rows(THEIRS, SEED, BANDS).isel(pair=row)
    theta_e, q, pa, gamma1, gamma2 = (
        float(ours[name]) for name in ("theta_e", "lens_q", "lens_pa", "gamma1", "gamma2")
    )
    alpha_e, alpha_n = np.add(
        lensing.sie(-x, y, theta_e, q, pa), lensing.shear(-x, y, gamma1, gamma2)
    )
    np.testing.assert_allclose(-alpha_e, truth[0], atol=2e-5)
    np.testing.assert_allclose(alpha_n, truth[1], atol=2e-5)


@pytest.mark.parametrize("row", [0, 1])
def test_the_seeds_source_shines_as_lenstronomy_on_array_axes(row: int) -> None:
    t = THEIRS.iloc[row]
    q = (1 - t.src_e) / (1 + t.src_e)
    e1, e2 = phi_q2_ellipticity(t.src_phi_rad, q)
    x, y = np.random.default_rng(4).uniform(-0.6, 0.6, (2, 50))
    truth = LightModel(["SERSIC_ELLIPSE"]).surface_brightness(
        x,
        y,
        [
            {
                "amp": 1.0, "R_sersic": t.src_reff_arcsec * np.sqrt(q), "n_sersic": 1.0,
                "e1": e1, "e2": e2, "center_x": t.src_x_arcsec, "center_y": t.src_y_arcsec,
            }
        ],
    )  # fmt: skip
    ours = import_rows(THEIRS, SEED, BANDS).isel(pair=row)
    source = lensing.Sersic(
        flux=(1.0,),
        reff=float(ours["src_reff"]),
        n=float(ours["src_n"]),
        q=float(ours["src_q"]),
        pa=float(ours["src_pa"]),
        dx=float(ours["src_dx"]),
        dy=float(ours["src_dy"]),
    )
    # Elliptical radii, for the two differ in b(n): lenstronomy has an approximation of it.
    centre = lensing.sersic_profile(source.dx, source.dy, source)
    mine = -np.log(lensing.sersic_profile(-x, y, source) / centre) / lensing.sersic_b(1.0)
    theirs = 1 - np.log(truth) / (1.9992 - 0.3271)
    np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def test_the_half_light_radius_of_the_seed_is_the_semi_major_axis() -> None:
    """Half of the light lies inside the ellipse with semi-axes a and a q, so sqrt(ab) = a sqrt(q)."""
    ours = import_rows(THEIRS, SEED, BANDS)
    q = (1 - THEIRS["src_e"]) / (1 + THEIRS["src_e"])
    area = np.pi * THEIRS["src_reff_arcsec"] * (THEIRS["src_reff_arcsec"] * q)
    np.testing.assert_allclose(np.pi * ours["src_reff"][:2] ** 2, area[:2], rtol=1e-6)


def test_controls_have_no_arc_and_missing_columns_are_not_made_up() -> None:
    ours = import_rows(THEIRS, SEED, BANDS)
    assert ours["theta_e"].values[2] == 0
    for name in ("lens_q", "lens_pa", "gamma1", "src_reff", "src_dx", "src_n"):
        assert np.isnan(ours[name].values[2]), name
        assert np.isfinite(ours[name].values[:2]).all(), name
    assert ours["src_model"].values.tolist() == [1, 1, 0]
    assert "arc_snr" not in ours
    assert "src_flux" not in ours
    np.testing.assert_array_equal(ours["psfsize"].values[:, 1], np.float32([1.3, 1.2, 1.1]))
    assert np.isnan(ours["psfsize"].values[:, [0, 2]]).all()
    np.testing.assert_array_equal(ours["psf_source"].values[:, 0], [0, 2, 1])
    assert (ours["psf_source"].values[:, 1:] == 255).all()
    assert ours["region_id"].values.tolist() == ["7", "7", "8"]
    assert ours["region_split"].values.tolist() == [0, 0, 2]
    for name, variable in ours.data_vars.items():
        assert variable.dims == BY_NAME[str(name)].dims


def test_their_columns_are_read_and_written_as_they_are() -> None:
    """Against their own numbers, so that no mistake of one way is undone by the other."""
    ours = import_rows(THEIRS, SEED, BANDS)
    np.testing.assert_allclose(ours["lens_dx"][:2], [-0.04, 0.02], rtol=1e-6)
    np.testing.assert_allclose(ours["lens_dy"][:2], [-0.03, 0.05], rtol=1e-6)
    back = export_rows(ours.assign(src_model=("pair", np.array([1, 1, 0], np.uint8))), SEED)
    assert set(THEIRS) <= set(back)
    assert back["is_control"].tolist() == [0, 0, 1]
    for name in THEIRS.select_dtypes("float"):
        period = np.pi if name.endswith("phi_rad") else np.inf
        gap = np.abs(back[name][:2] - THEIRS[name][:2])
        np.testing.assert_allclose(np.minimum(gap, period - gap), 0.0, atol=1e-6, err_msg=name)


def test_the_size_of_an_image_that_has_no_axis_ratio_comes_back() -> None:
    rows = random_rows(30)
    rows["src_model"].values[1::3] = 4
    rows["src_q"].values[1::3] = np.nan
    back = import_rows(export_rows(rows, SEED), SEED, BANDS)
    np.testing.assert_allclose(back["src_reff"], rows["src_reff"], rtol=1e-6)
    assert np.isfinite(back["src_reff"][1::3]).all()


def test_a_column_of_controls_stands_for_the_lens_model() -> None:
    ours = import_rows(THEIRS.drop(columns=["lens_model", "theta_e_arcsec"]), SEED, BANDS)
    assert ours["lens_model"].values.tolist() == [2, 2, 0]
    assert np.isnan(ours["lens_q"].values[2])
    assert np.isfinite(ours["lens_q"].values[:2]).all()


def random_rows(count: int = 200) -> xr.Dataset:
    """Rows of every variable but pixels; a third are controls."""
    rng = np.random.default_rng(5)
    control = np.arange(count) % 3 == 0
    columns = {}
    for variable in VARIABLES:
        if variable.sharded:
            continue
        shape = (count, 3)[: len(variable.dims)]
        if variable.dtype == "str":
            values = np.array([f"{variable.name}{i}" for i in range(count)], object)
        elif variable.flags is not None:
            values = rng.choice(list(variable.flags), shape).astype(np.uint8)
        elif variable.dtype == "i8":
            values = rng.integers(0, 2**60, shape)
        elif variable.dtype in ("u1", "bool"):
            values = rng.integers(0, 2, shape).astype(variable.dtype)
        else:
            values = rng.uniform(0.05, 1.0, shape).astype(variable.dtype)
        columns[variable.name] = (variable.dims, values)
    rows = xr.Dataset(columns, coords={"band": np.array(BANDS, object)})
    for name, low, high in (("lens_pa", -360, 360), ("src_pa", 0, 180), ("src_dx", -1, 1)):
        rows[name].values[:] = rng.uniform(low, high, count)
    rows["gamma1"].values[:], rows["gamma2"].values[:] = rng.normal(0, 0.05, (2, count))
    rows["lens_model"].values[:] = np.where(control, 0, 2)
    rows["src_model"].values[:] = np.where(control, 0, 1)
    for name, variable in rows.data_vars.items():
        if str(name).startswith(
            ("lens_", "src_", "gamma", "psf_model", "psf_beta", "psf_fwhm")
        ) or (name in ("arc_snr", "magnification", "total_injected_flux", "arc_flux_total")):
            variable.values[control] = 0 if BY_NAME[str(name)].flags else np.nan
    rows["theta_e"].values[control] = 0
    return rows


def test_export_and_import_give_the_same_rows_back() -> None:
    rows = random_rows()
    table = export_rows(rows, SEED)
    stored = io.BytesIO()
    table.to_parquet(stored, index=False)
    back = import_rows(pd.read_parquet(stored), SEED, BANDS)
    assert set(back.data_vars) == set(rows.data_vars)
    for name, truth in rows.data_vars.items():
        variable = BY_NAME[str(name)]
        assert back[name].dtype == truth.dtype, name
        if variable.dtype == "f4":
            np.testing.assert_allclose(back[name], truth, rtol=3e-7, atol=6e-8, err_msg=name)
        else:
            np.testing.assert_array_equal(back[name], truth, err_msg=name)


def _widths(constants: dict[str, float | str], **columns: object) -> xr.Dataset:
    mapping = Mapping(name="theirs", fwhm={"psfsize": "seeing_{band}"}, constants=constants)
    table = pd.DataFrame({"lens_model": ["SIE", "CONTROL"], "seeing_r": [1.0, 1.2], **columns})
    return import_rows(table, mapping, ("r",))


@pytest.mark.parametrize("beta", [2.5, 3.5])
def test_a_moffat_s_fwhm_becomes_the_width_of_equal_noise(beta: float) -> None:
    """``NEA = (sum P)^2 / sum P^2`` on a fine grid, against that of a Gaussian, 4 pi sigma^2."""
    found = _widths({"psf_model": "MOFFAT", "psf_beta": beta})
    half, step = np.linspace(-30, 30, 3001, retstep=True)
    alpha = 0.5 / np.sqrt(2 ** (1 / beta) - 1)
    profile = (1 + (half[:, None] ** 2 + half**2) / alpha**2) ** -beta
    area = profile.sum() ** 2 / (profile**2).sum() * step**2
    width = 2 * np.sqrt(2 * np.log(2)) * np.sqrt(area / (4 * np.pi))
    assert found["psfsize"].values[:, 0] == pytest.approx([width, 1.2 * width], rel=3e-3)
    rows = found.assign(psf_model=("pair", np.array([2, 0], np.uint8)))
    back = export_rows(
        rows,
        Mapping(name="theirs", fwhm={"psfsize": "seeing_{band}"}, constants={"psf_beta": beta}),
    )
    assert back["seeing_r"].tolist() == pytest.approx([1.0, 1.2])


def test_a_fwhm_needs_a_profile_and_a_gaussian_s_is_the_width() -> None:
    assert _widths({"psf_model": "GAUSSIAN"})["psfsize"].values.ravel() == pytest.approx([1, 1.2])
    found = _widths({"psf_beta": 3.5}, psf_model=["MOFFAT", None])["psfsize"].values.ravel()
    assert found == pytest.approx(1.2325 * np.array([1, 1.2]), rel=1e-3)
    with pytest.raises(UserError, match="psfsize as a FWHM, and neither it nor the data say"):
        _widths({})


def test_the_seeds_column_names() -> None:
    names = set(export_rows(random_rows(3), SEED).columns)
    assert names >= {
        *THEIRS.columns, "arc_snr", "magnification", "ra", "dec", "cutout_ok", "bad_pixel_frac",
        "wise_brightmask_frac", "total_injected_flux_r", "psfdepth_r", "src_dmag",
        *(f"{stem}_{b}" for stem in ("psf_fwhm_used", "psf_source", "psfsize") for b in BANDS),
    }  # fmt: skip
    assert not names & {"theta_e", "lens_q", "gamma1", "src_reff", "brick"}


def test_blobs_are_what_a_seed_style_reader_opens() -> None:
    stamp = np.random.default_rng(1).normal(size=(3, 8, 8)).astype(np.float32)
    blob = encode_stamp(stamp, BANDS, "image_{band}")
    with np.load(io.BytesIO(blob), allow_pickle=False) as archive:
        assert set(archive.files) == {"image_g", "image_r", "image_z"}
        np.testing.assert_array_equal(archive["image_z"], stamp[2])
    np.testing.assert_array_equal(decode_stamp(blob, BANDS, "image_{band}"), stamp)
    assert encode_stamp(stamp, BANDS, "image_{band}") == blob


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, image_g=np.array([{}]), image_r=np.zeros(2), image_z=np.zeros(2))
    return buffer.getvalue()


def of_one_band() -> bytes:
    return encode_stamp(np.zeros((1, 2, 2), np.float32), "r", "image_{band}")


@pytest.mark.parametrize("blob", [b"", b"PK\x03\x04 cut", pickled(), of_one_band()])
def test_a_blob_that_is_none_is_one_sentence(blob: bytes) -> None:
    with pytest.raises(UserError, match="image_g"):
        decode_stamp(blob, BANDS, "image_{band}")


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("lens_model", "BULGE", "holds 'BULGE', which is none of CONTROL"),
        (
            "lens_e",
            [None, "0.2", "round"],
            r"lens_e holds 'round' in row 2 \(counted from 0\), which is no number; mend the table",
        ),
        ("lens_e", [[0.1, 0.2]] * len(THEIRS), r"lens_e holds '\[0.1, 0.2\]' in row 0 "),
    ],
)
def test_what_a_variable_cannot_hold_is_one_sentence(column: str, value: object, says: str) -> None:
    with pytest.raises(UserError, match=says):
        import_rows(THEIRS.assign(**{column: value}), SEED, BANDS)


@pytest.mark.parametrize(
    ("constants", "says"),
    [
        ({"src_n": "abc"}, "constant src_n is 'abc', which is no number"),
        ({"psf_model": "AIRY"}, "constant psf_model holds 'AIRY', which is none of NONE, GAUSSIAN"),
    ],
)
def test_a_constant_that_its_variable_cannot_hold_is_one_sentence(
    constants: dict[str, float | str], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        import_rows(THEIRS, Mapping(name="x", constants=constants), BANDS)


def test_a_column_of_controls_holds_numbers() -> None:
    mapping, rows = Mapping(name="x", control="is_it"), THEIRS.drop(columns="lens_model")
    found = import_rows(rows.assign(is_it=[0.0, np.nan, 1.0]), mapping, BANDS)
    assert (found["lens_model"].values == 0).tolist() == [False, False, True]
    with pytest.raises(UserError, match=r"is_it holds 'no' in row 0 .*, which is no number"):
        import_rows(rows.assign(is_it=["no", "no", "yes"]), mapping, BANDS)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"xyz": "red"}, "xyz is not a key of a mapping; known keys: name"),
        ({"same": {"thetaE": "t"}}, r"thetaE is no variable of a row; did you mean theta_e\?"),
        ({"same": {"weight": "t"}}, "weight is no variable of a row; docs/data-set.md"),
        ({"same": "t"}, "same is 't': input should be"),
        ({"name": None}, "name is None"),
        ({"pixel_scale": 262}, "pixel_scale is 262: input should be less than or equal to 10"),
        ({"gate": {}}, r"gate is not a key of a mapping; did you mean gates\?"),
        ({"same": {"psfsize": "width"}}, "must hold {band}"),
        ({"west": {"lens_q": "e"}}, "stands in two groups"),
        ({"same": {"psfsize": "width_{bnd}"}}, "nothing else in braces"),
        ({"images": {"stamp": "s", "ctrl": "c", "member": "image_{bnd}"}}, "nothing else in"),
        ({"images": {"stamp": "s", "ctrl": "c", "member": "image"}}, "must hold {band}"),
        ({"tables": {"stamps": "a", "metrics": "a/", "partition": "p", "key": "k"}}, "own folder"),
        ({"gates": {"closure_flux": -1}}, "gates.closure_flux is -1: input should be"),
    ],
)
def test_a_wrong_mapping_is_one_sentence(tmp_path: Path, change: dict, says: str) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "ellipticity": {"lens_q": "e"}, **change}))
    with pytest.raises(UserError, match=says):
        load_mapping(str(path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"same": {"lens_q": "e", "lens_pa": "e"}}, "gives the column e to two variables"),
        ({"same": {"lens_q": "ra"}}, "gives the column ra to two variables"),
        ({"tables": {"partition": "colour"}}, "by colour, which is no column"),
        ({"tables": {"key": "slot"}}, "by slot, which another column is called"),
    ],
)
def test_a_table_that_would_lose_a_column_is_not_written(change: dict, says: str) -> None:
    tables = {"stamps": "s", "metrics": "m", "partition": "region_split", "key": "id"}
    document = {"name": "x", **change, "tables": tables | change.get("tables", {})}
    with pytest.raises(UserError, match=says):
        export_rows(random_rows(3), Mapping.model_validate(document))


def test_bands_that_would_lie_under_one_name_are_not_written() -> None:
    with pytest.raises(UserError, match="one name for 3 bands"):
        encode_stamp(np.zeros((3, 2, 2), np.float32), BANDS, "image")


def test_a_mapping_is_named_or_a_file(tmp_path: Path) -> None:
    assert isinstance(SEED, Mapping)
    with pytest.raises(UserError, match="there is no mapping"):
        load_mapping(str(tmp_path / "none.yaml"))
    for text, says in {
        "a: [": "bad.yaml is not valid YAML at line 1",
        "name: x\nname: y": "the key name stands twice",
        "- a": "bad.yaml is empty or no mapping; a mapping has keys such as name:",
        "": "bad.yaml is empty",
        "bands: [g]": "bad.yaml: name is missing; add it",
    }.items():
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(UserError, match=says):
            load_mapping(str(tmp_path / "bad.yaml"))
