"""A name that a mapping, or a file, says and that is not there is said back, and never taken for nothing."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from darkhaloscope.audit import PairSource, open_source
from darkhaloscope.audit.reference_parameters import require
from darkhaloscope.errors import UserError
from darkhaloscope.mapping import Mapping, load_mapping
from darkhaloscope.prepare import in_their_words

CUBE = np.zeros((6, 3, 24, 24), np.float32)
ONES = np.ones(6, np.float32)


def bare(folder: Path, **columns: object) -> str:
    """Pairs of three bands with these columns."""
    np.savez(folder / "x.npz", stamp=CUBE, ctrl=CUBE, bands=["g", "r", "z"], **columns)
    return str(folder / "x.npz")


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (
            {"shear": {"size": "gg", "angle": "p"}},
            r"names the column gg \(shear.size\), .* did you mean g\?",
        ),
        ({"same": {"theta_e": "einstein"}}, r"einstein \(same.theta_e\), which .*x.npz has not"),
        ({"control": "is_ctl"}, r"is_ctl \(control\).* did you mean is_control\?"),
        ({"same": {"psfsize": "seeing_{band}"}}, r"seeing_\{band\} \(same.psfsize\)"),
        (
            {"west": {"src_dx": "late"}},
            r"late \(west.src_dx\), .*; late: left out, its shape \(5,\)",
        ),
    ],
)
def test_a_column_that_a_mapping_names_must_be_there(
    said: dict[str, object], says: str, tmp_path: Path
) -> None:
    columns = {"g": ONES, "p": ONES, "is_control": ONES, "late": ONES[:5]}
    mapping = Mapping.model_validate({"name": "theirs", **said})
    with pytest.raises(UserError, match=says):
        open_source(bare(tmp_path, **columns), mapping)
    lenient = mapping.model_copy(update={"optional": True})
    assert "mapping theirs: the set has no " in " ".join(open_source(bare(tmp_path), lenient).notes)


def test_a_pixel_scale_that_nobody_says_is_taken_aloud(tmp_path: Path) -> None:
    said = "pixel_scale: taken for 0.262 arcsec"
    assert said in " ".join(open_source(bare(tmp_path)).notes)
    fine = Mapping(name="theirs", pixel_scale=0.2)
    assert said not in " ".join(open_source(bare(tmp_path), fine).notes)


def test_one_band_of_a_column_is_enough(tmp_path: Path) -> None:
    mapping = Mapping(name="theirs", same={"psfsize": "seeing_{band}"})
    block = open_source(bare(tmp_path, seeing_r=ONES), mapping).block(slice(0, 6))
    np.testing.assert_array_equal(np.isfinite(block["psfsize"][0]), [False, True, False])


def test_the_shipped_mapping_says_what_it_did_not_find(tmp_path: Path) -> None:
    notes = " ".join(open_source(bare(tmp_path, lens_e=ONES), load_mapping("seed")).notes)
    assert "mapping seed: the set has no brickname, theta_e_arcsec" in notes
    assert " lens_e" not in notes


def test_a_column_of_another_length_is_not_left_out_silently(tmp_path: Path) -> None:
    columns = {"theta_e": ONES[:5], "psfsize": np.ones((6, 2)), "comments": ONES[:5], "ra": ONES}
    notes = open_source(bare(tmp_path, **columns)).notes
    assert [n for n in notes if "left out" in n] == [
        "theta_e: left out, its shape (5,) is not that of 6 rows",
        "psfsize: left out, its shape (6, 2) is not that of 6 rows",
    ]


def test_sections_for_other_files_are_not_passed_over_silently(tmp_path: Path) -> None:
    notes = " ".join(open_source(bare(tmp_path), load_mapping("seed")).notes)
    assert "mapping seed: tables and images not used, which are for Parquet files" in notes


def test_parquet_that_is_not_cut_as_the_mapping_says(tmp_path: Path) -> None:
    pd.DataFrame({"stamp_npz": [b""], "ctrl_stamp_npz": [b""]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(
        UserError, match="is Parquet without a folder stamps, where the mapping seed"
    ):
        open_source(str(tmp_path / "x.parquet"), load_mapping("seed"))


def in_units(folder: Path, pixels: str, flux: str, factor: float = 1.0) -> PairSource:
    """Pairs, and a flux of 1 nMgy in each band, times a factor; what they are said to be in."""
    arrays = {"pics/stamp": CUBE + 2, "pics/ctrl": CUBE + 1, "src_flux": np.ones((6, 3))}
    with h5py.File(folder / "x.h5", "w") as file:
        for name, values in arrays.items():
            file[name] = factor * values
            file[name].attrs["units"] = pixels if values.ndim == 4 else flux
        file.attrs["bands"] = "g r z"
    return open_source(str(folder / "x.h5"))


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("uJy", 3.631), ("Jy", 3.631e-6), ("nMgy", 1.0), ("nanomaggies", 1.0), ("electron", 1.0)],
)
def test_pixels_and_fluxes_are_turned_alike(unit: str, factor: float, tmp_path: Path) -> None:
    source = in_units(tmp_path, unit, unit, factor)
    block = source.block(slice(0, 6))
    for name in ("ctrl", "arc", "src_flux"):
        np.testing.assert_allclose(block[name], 1.0, rtol=1e-5)
    notes = " ".join(source.notes)
    assert (f"pics/stamp was turned from {unit}" in notes) == (factor != 1)
    assert ("src_flux is said to be in 'electron', taken for nMgy" in notes) == (unit == "electron")


def test_a_flux_in_what_the_pixels_are_not_in_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"src_flux of .* is said to be in electron, but nMgy is"):
        in_units(tmp_path, "uJy", "electron")


def test_the_unit_of_a_renamed_array_with_bands_is_believed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["stamp"], file["ctrl"], file["seeing"] = CUBE, CUBE, 1200 * np.ones((6, 3))
        file["seeing"].attrs["units"] = "mas"
    mapping = Mapping(name="theirs", same={"psfsize": "seeing_{band}"})
    block = open_source(str(tmp_path / "x.h5"), mapping).block(slice(0, 6))
    np.testing.assert_allclose(block["psfsize"], 1.2, rtol=1e-6)


@pytest.mark.parametrize(
    ("said", "columns", "wrong", "says"),
    [
        (
            {"same": {"psfsize": "seeing_{band}"}},
            {"seeing_g": 1300 * ONES, "seeing_r": 1300 * ONES, "seeing_z": 1300 * ONES},
            "psf_nea_fwhm",
            "psfsize (the columns seeing_g, seeing_r, seeing_z, read in arcsec) must be",
        ),
        (
            {},
            {"theta_e": -ONES},
            "theta_e",
            "theta_e (the column theta_e, read in arcsec) must be",
        ),
        (
            {"ellipticity": {"lens_q": "e"}},
            {"e": 3 * ONES},
            "lens_q",
            "lens_q (the column e, read as ellipticity) must be",
        ),
        ({"constants": {"psf_beta": 90.0}}, {"theta_e": ONES}, "psf_beta", "psf_beta must be"),
    ],
)
def test_what_cannot_be_drawn_is_told_by_the_columns_of_the_set(
    said: dict[str, object], columns: dict[str, object], wrong: str, says: str, tmp_path: Path
) -> None:
    source = open_source(
        bare(tmp_path, **columns), Mapping.model_validate({"name": "theirs", **said})
    )
    with pytest.raises(ValueError, match=wrong) as error:
        require(False, wrong, "something else", 6207.8)
    told = in_their_words(source, ["", f"b/1: {error.value}", "b/2: no psfsize in g"])
    assert told == ["", f"b/1: {says} something else, and is 6207.8.", "b/2: no psfsize in g"]


def test_a_unit_that_the_file_says_is_told_as_turned(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["stamp"], file["ctrl"], file["psfsize"] = CUBE, CUBE, np.ones((6, 3))
        file["psfsize"].attrs["units"] = "mas"
        file.attrs["bands"] = "grz"
    source = open_source(str(tmp_path / "x.h5"))
    (told,) = in_their_words(source, ["b/1: psf_nea_fwhm must be wider"])
    columns = "psfsize_g, psfsize_r, psfsize_z"
    assert told == f"b/1: psfsize (the columns {columns}, turned into arcsec) must be wider"
