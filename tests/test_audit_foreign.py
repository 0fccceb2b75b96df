"""Sets of others that are odd but right stay clean, and what they cannot be is said in a sentence."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from astropy.io import fits
from audit_pairs import BANDS, SKY, clean, rerendered
from test_audit_sources import as_parquet, audit_of, flat, stamps

from darkhaloscope.audit import AuditResult, measure, merge, open_source
from darkhaloscope.audit.integrity import CHECKS
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.mapping import load_mapping
from darkhaloscope.prepare import AuditSettings, spec_of_source

pytestmark = pytest.mark.usefixtures("remembered", "no_pictures")


@pytest.fixture(scope="module")
def pairs() -> xr.Dataset:
    return clean(80, regions=24, seed=3)


def columns_of(ds: xr.Dataset) -> dict[str, np.ndarray]:
    return {k: v.to_numpy(dtype=str if v.dtype.kind == "O" else None) for k, v in flat(ds).items()}


def write(folder: Path, ds: xr.Dataset, **changes: object) -> Path:
    """An ``.npz`` of these pairs with all columns; a change of None leaves one out."""
    arrays = {"stamp": stamps(ds), "ctrl": ds["ctrl"].values, "band": list(BANDS), **columns_of(ds)}
    arrays |= changes
    np.savez(folder / "set.npz", **{k: v for k, v in arrays.items() if v is not None})
    return folder / "set.npz"


def judged(place: Path) -> AuditResult:
    return audit_of(place, again=lambda stats, spec: rerendered(TRUTH[0], stats, spec))[0]


TRUTH: list[xr.Dataset] = []


@pytest.fixture(autouse=True)
def _truth(pairs: xr.Dataset) -> None:
    TRUTH[:] = [pairs]


def test_a_set_without_splits_or_outcomes_can_be_physics(pairs: xr.Dataset, tmp_path: Path) -> None:
    gone = [c for c in columns_of(pairs)
            if c.startswith(("region_split", "arc_snr", "magnification", "total_", "arc_flux"))]  # fmt: skip
    result = judged(write(tmp_path, pairs, **dict.fromkeys(gone)))
    assert result.verdict["verdict"] == "physics", result.verdict["sentence"]
    assert not {"split_integrity", "column_coverage"} & {g["name"] for g in result.verdict["gates"]}
    said = " ".join(result.verdict["not_tested"])
    assert "has no region_split" in said
    assert "column coverage: the set has none of" in said
    assert not set(result.tables["quality"]["column"]) & {"region_split", "arc_snr"}
    assert (result.examples["region_split"] == 255).all()  # and not train


def test_what_is_missing_is_columns_where_no_pairs_would_help(
    pairs: xr.Dataset, tmp_path: Path
) -> None:
    result, _ = audit_of(write(tmp_path, pairs, src_reff=None))
    assert result.verdict["verdict"] == "undecided"
    sentence = result.verdict["sentence"]
    assert "arcs drawn again from src_reff, which the set does not say" in sentence
    assert "closure needs" not in sentence


def broken(ds: xr.Dataset) -> np.ndarray:
    out = stamps(ds).copy()
    out[5, 1, 3, 10:20] = np.nan
    out[7] = np.nan
    return out


def wrong_rows(place: Path) -> dict[str, int]:
    source = open_source(str(place))
    spec = spec_of_source(source, AuditSettings())
    stats = merge([measure(source.block(rows), spec) for rows in source.blocks(64)], spec)
    found = dict(zip(CHECKS, stats["integrity"].tolist(), strict=True))
    return {k: v for k, v in found.items() if v} | {
        "nan rows": int(stats["outcomes"][:, Reason.NAN_PIXELS].sum())
    }


def test_pixels_that_are_no_numbers_are_no_data(pairs: xr.Dataset, tmp_path: Path) -> None:
    assert wrong_rows(write(tmp_path, pairs, stamp=broken(pairs))) == {"nan rows": 1}


@pytest.mark.parametrize("kind", [">f8", "f2", "noisy", "int"])
def test_rounding_and_noise_of_a_difference_are_no_wrong_rows(
    kind: str, pairs: xr.Dataset, tmp_path: Path
) -> None:
    stamp, ctrl = stamps(pairs), pairs["ctrl"].values
    if kind == "noisy":
        stamp = stamp + np.random.default_rng(1).normal(size=stamp.shape) * SKY[:, None, None]
    elif kind == "int":  # ten thousandths of a nanomaggy: a twentieth of the sky's sigma
        stamp, ctrl = (np.round(1e4 * v).astype("i4") for v in (stamp, ctrl))
        flux = {k: 1e4 * v for k, v in columns_of(pairs).items() if k.startswith("total_inj")}
        assert wrong_rows(write(tmp_path, pairs, stamp=stamp, ctrl=ctrl, **flux)) == {"nan rows": 0}
        return
    else:
        ctrl = ctrl.astype(kind)
    assert wrong_rows(write(tmp_path, pairs, stamp=stamp, ctrl=ctrl)) == {"nan rows": 0}


def test_a_column_that_lies_is_still_found(pairs: xr.Dataset, tmp_path: Path) -> None:
    lie = 1.01 * columns_of(pairs)["total_injected_flux_r"]
    found = wrong_rows(write(tmp_path, pairs, total_injected_flux_r=lie))
    assert found["flux_column"] > 60
    lit = stamps(pairs).copy()
    lit[pairs["lens_model"].values == 0] += 1e-3 * SKY[:, None, None].astype("f4")
    assert wrong_rows(write(tmp_path, pairs, stamp=lit))["light_on_controls"] == 8


def test_two_classes_have_no_arcs_to_check(pairs: xr.Dataset, tmp_path: Path) -> None:
    own = {k: v[:40] for k, v in columns_of(pairs).items() if k != "band"}
    np.savez(
        tmp_path / "c.npz", lens=stamps(pairs)[:40], nonlens=pairs["ctrl"].values[40:80], **own
    )
    assert wrong_rows(tmp_path / "c.npz") == {"nan rows": 0}


def test_columns_in_groups_and_words_for_splits(pairs: xr.Dataset, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["pics/stamp"], file["pics/ctrl"] = stamps(pairs), pairs["ctrl"].values
        file["meta/theta_e"] = pairs["theta_e"].values
        file["meta/region_split"] = np.array([b"training", b"Validation"] * 44)
    source = open_source(str(tmp_path / "x.h5"))
    np.testing.assert_array_equal(source.columns["theta_e"], pairs["theta_e"])
    assert source.columns["region_split"].values[:2].tolist() == [0, 1]


def test_units_that_a_file_says_are_turned_into_ours(pairs: xr.Dataset, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["stamp"], file["ctrl"] = stamps(pairs), pairs["ctrl"].values
        file["theta_e"] = pairs["theta_e"].values / 0.262
        file["theta_e"].attrs["units"] = "pixels"
        file["psfsize"] = 1000 * pairs["psfsize"].values
        file["psfsize"].attrs["unit"] = "mas"
        file["lens_pa"] = np.deg2rad(pairs["lens_pa"].values)
        file["lens_pa"].attrs["units"] = "radian"
        file["src_reff"] = pairs["src_reff"].values
        file["src_reff"].attrs["units"] = "smoots"
    source = open_source(str(tmp_path / "x.h5"))
    found = source.block(slice(0, 50))
    for name in ("theta_e", "psfsize", "lens_pa", "src_reff"):
        np.testing.assert_allclose(found[name], pairs[name][:50], rtol=1e-6)
    assert "theta_e was turned from pixels into arcsec" in " ".join(source.notes)
    assert "src_reff is said to be in 'smoots', taken for arcsec" in " ".join(source.notes)
    with h5py.File(tmp_path / "x.h5", "a") as file:
        file["src_reff"].attrs["units"] = "kpc"
    with pytest.raises(
        UserError, match=r"src_reff of .* is said to be in kpc, but arcsec is needed"
    ):
        open_source(str(tmp_path / "x.h5"))


def test_bands_in_images_of_their_own(pairs: xr.Dataset, tmp_path: Path) -> None:
    for name, cube in (("stamp", stamps(pairs)), ("ctrl", pairs["ctrl"].values)):
        (tmp_path / name).mkdir()
        for i in range(3):
            images = [fits.ImageHDU(cube[i, b], name=band) for b, band in enumerate(BANDS)]
            weight = fits.ImageHDU(np.ones((48, 48)), name="INVVAR")
            hdus = fits.HDUList([fits.PrimaryHDU(), weight, *images])
            hdus.writeto(tmp_path / name / f"{i}.fits")
    source = open_source(str(tmp_path))
    assert source.bands == BANDS
    np.testing.assert_array_equal(source.block(slice(0, 3))["ctrl"], pairs["ctrl"][:3])


def test_a_damaged_blob_is_a_failed_row(pairs: xr.Dataset, tmp_path: Path) -> None:
    place = as_parquet(tmp_path, pairs)
    with pytest.raises(UserError, match="--mapping seed"):
        open_source(str(place))
    file = sorted((place / "stamps").rglob("*.parquet"))[0]
    table = pd.read_parquet(file)
    blobs = table["ctrl_stamp_npz"].tolist()
    table["ctrl_stamp_npz"] = [blobs[0], b"PK junk", None, *blobs[3:]]
    table.to_parquet(file)
    source = open_source(str(place), load_mapping("seed"))
    block = source.block(source.blocks(8)[0])
    reasons = [Reason.OK, Reason.NAN_PIXELS, Reason.NAN_PIXELS, Reason.OK]
    assert block["reason"].values[:4].tolist() == [int(r) for r in reasons]


def test_a_block_decodes_whole_chunks(pairs: xr.Dataset, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name in ("stamp", "ctrl"):
            file.create_dataset(name, data=pairs["ctrl"].values, chunks=(28, 3, 48, 48))
    cuts = open_source(str(tmp_path / "x.h5")).blocks(50)
    assert [(c.start, c.stop) for c in cuts] == [(0, 56), (56, 88)]


@pytest.mark.parametrize("deflated", [False, True])
def test_rows_of_an_npz_are_those_that_were_saved(deflated: bool, tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).normal(size=(300, 2, 24, 24))
    save = np.savez_compressed if deflated else np.savez
    widths = np.asfortranarray(pixels[:, :, 0, 0] ** 2 + 1)
    save(
        tmp_path / "x.npz", stamp=pixels + 1, ctrl=pixels.astype(">f4"), bands=["g", "r"], psfsize=widths
    )  # fmt: skip
    block = open_source(str(tmp_path / "x.npz")).block(slice(250, 260))
    np.testing.assert_allclose(block["psfsize"], widths[250:260], rtol=1e-6)
    np.testing.assert_array_equal(block["ctrl"], pixels[250:260].astype("f4"))
    np.testing.assert_allclose(block["arc"], 1.0, atol=1e-6)


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "two.h5", "w") as file:
        for group in ("train", "test"):
            file[f"{group}/stamp"] = file[f"{group}/ctrl"] = np.zeros((3, 32, 32))
    np.save(tmp_path / "one.npy", np.zeros((3, 32, 32)))
    np.savez(tmp_path / "huge.npz", stamp=np.full((3, 32, 32), 1e45), ctrl=np.zeros((3, 32, 32)))
    with pytest.raises(UserError, match="could both be the stamp"):
        open_source(str(tmp_path / "two.h5"))
    with pytest.raises(UserError, match="no data set that can be audited"):
        open_source(str(tmp_path / "one.npy"))
    with pytest.raises(UserError, match="1e\\+45, more than float32"):
        open_source(str(tmp_path / "huge.npz")).block(slice(0, 3))
