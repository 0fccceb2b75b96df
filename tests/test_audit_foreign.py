"""Sets of others that are odd but right stay clean, and what they cannot be is said in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from astropy.io import fits
from astropy.table import Table
from audit_pairs import BANDS, SKY, clean, rerendered
from test_audit_sources import as_parquet, audit_of, flat, stamps

from darkhaloscope.audit import AuditResult, AuditSpec, measure, merge, open_source
from darkhaloscope.audit.integrity import CHECKS
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.mapping import Images, Mapping, Stacks, encode_stamp, load_mapping
from darkhaloscope.prepare import (
    AuditSettings,
    check_apart,
    limits_of,
    settings_of,
    source_of,
    spec_of_source,
)
from darkhaloscope.variables import LENS_MODELS

pytestmark = pytest.mark.usefixtures("remembered", "no_pictures")


@pytest.fixture(scope="module")
def pairs() -> xr.Dataset:
    return clean(80, regions=24, seed=3)


CUBE = np.zeros((4, 3, 32, 32))


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


def broken(images: np.ndarray) -> np.ndarray:
    out = images.copy()
    out[5, 1, 3, 10:20] = np.nan
    out[7] = np.nan
    return out


def wrong_rows(place: Path, block: int = 64) -> dict[str, int]:
    source = open_source(str(place))
    spec = spec_of_source(source, AuditSettings())
    stats = merge([measure(source.block(rows), spec) for rows in source.blocks(block)], spec)
    found = dict(zip(CHECKS, stats["integrity"].tolist(), strict=True))
    return {k: v for k, v in found.items() if v} | {
        "nan rows": int(stats["outcomes"][:, Reason.NAN_PIXELS].sum())
    }


def test_pixels_that_are_no_numbers_are_no_data(pairs: xr.Dataset, tmp_path: Path) -> None:
    images = {"stamp": broken(stamps(pairs)), "ctrl": broken(pairs["ctrl"].values)}
    assert wrong_rows(write(tmp_path, pairs, **images)) == {"nan rows": 1}
    one = write(tmp_path, pairs, stamp=images["stamp"])
    assert wrong_rows(one) == {"no_data_in_stamp": 1, "nan rows": 1}


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


@pytest.mark.parametrize("kind", ["zarr", "netcdf3", "hdf5"])
def test_integers_that_stand_for_other_numbers(
    kind: str, pairs: xr.Dataset, tmp_path: Path
) -> None:
    """The CF conventions, as xarray writes them; a step of 1/50 of the sky's sigma is granted."""
    place, packed = tmp_path / "x", {"dtype": "i2", "scale_factor": 4e-5, "_FillValue": -32768}
    faint = pairs.isel(pair=slice(0, 40))
    cubes = {"stamp": stamps(faint) % 1, "ctrl": faint["ctrl"].values % 1}
    cubes["stamp"] = np.where(faint["arc"].values < 0.3, cubes["ctrl"] + faint["arc"].values, 0)
    for cube in cubes.values():
        cube[3, 0, 2, 2] = np.nan
    total = (cubes["stamp"] - cubes["ctrl"]).sum(axis=(2, 3))
    made = xr.Dataset(
        {k: (("row", "band", "y", "x"), v) for k, v in cubes.items()}
        | {f"total_injected_flux_{b}": ("row", total[:, i]) for i, b in enumerate(BANDS)},
        attrs={"bands": "g,r,z"},
    )
    encoding = dict.fromkeys(cubes, packed)
    if kind == "zarr":
        made.to_zarr(place, consolidated=False, encoding=encoding)
    elif kind == "netcdf3":
        made.to_netcdf(place, engine="scipy", encoding=encoding)
    else:
        with h5py.File(place, "w") as file:
            for name, variable in made.variables.items():
                cube = name in cubes
                filled = np.nan_to_num(variable.values / 4e-5, nan=-32768) if cube else variable
                file[name] = np.round(filled).astype("i2") if cube else variable.values
                file[name].attrs.update({k: packed[k] for k in packed if cube and k != "dtype"})
            file.attrs["bands"] = "g,r,z"
    block = open_source(str(place)).block(slice(0, 40))
    known = np.isfinite(cubes["stamp"])
    np.testing.assert_allclose(block["ctrl"], np.where(known, cubes["ctrl"], 0), atol=2.1e-5)
    assert block["nodata"].values[3, 2, 2] == 1
    assert wrong_rows(place) == {"nan rows": 0}


def test_a_column_that_lies_is_still_found(pairs: xr.Dataset, tmp_path: Path) -> None:
    lie = 1.01 * columns_of(pairs)["total_injected_flux_r"]
    found = wrong_rows(write(tmp_path, pairs, total_injected_flux_r=lie))
    assert found["flux_column"] > 60
    lit = stamps(pairs).copy()
    lit[pairs["lens_model"].values == 0] += 1e-3 * SKY[:, None, None].astype("f4")
    assert wrong_rows(write(tmp_path, pairs, stamp=lit))["light_on_controls"] == 8


@pytest.mark.parametrize("block", [64, 128])
def test_the_digits_of_a_column_are_those_of_all_its_rows(
    block: int, pairs: xr.Dataset, tmp_path: Path
) -> None:
    """65 rows, so that the last block of 64 holds one injection, whose digits alone say nothing."""
    some = pairs.isel(pair=np.flatnonzero(pairs["lens_model"].values > 0)[:65])
    two = {"magnification": np.round(columns_of(some)["magnification"], 2)}
    assert wrong_rows(write(tmp_path, some, **two), block) == {"nan rows": 0}
    off = np.where(np.arange(65) == 64, 1.05, 1.0) * two["magnification"]
    place = write(tmp_path, some, magnification=np.round(off, 2))
    spec = spec_of_source(open_source(str(place)), AuditSettings())
    assert dict(spec.written)["magnification"].unit == 0.01
    assert AuditSpec.from_json(spec.to_json()) == spec
    assert wrong_rows(place, block)["magnification_column"] == 1


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


def test_a_mapping_s_stack_may_lie_in_any_group(pairs: xr.Dataset, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["pics/inj"], file["pics/bg"] = stamps(pairs), pairs["ctrl"].values
        file["old/bg"] = pairs["ctrl"].values
    said = Mapping(name="x", stacks=Stacks(stamp="inj", ctrl="pics/bg"))
    assert open_source(str(tmp_path / "x.h5"), said).first == "pics/inj"
    with pytest.raises(UserError, match=r"old/bg and pics/bg of .* could both be the ctrl"):
        open_source(
            str(tmp_path / "x.h5"), Mapping(name="x", stacks=Stacks(stamp="inj", ctrl="bg"))
        )


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


AS_STORED: dict[str, Callable[[str], object]] = {
    "text": str,
    "bytes of a fixed length": lambda text: np.bytes_(text.encode()),
    "blanks behind": lambda text: np.array(text.ljust(12), dtype="S12"),
    "one element": lambda text: np.array([text.encode()]),
    "one for each band": lambda text: np.array([text] * 3, dtype=h5py.string_dtype()),
}
"""How libraries of other languages store an attribute of text."""


@pytest.mark.parametrize("kind", AS_STORED)
def test_units_and_bands_are_read_however_their_text_is_stored(
    kind: str, pairs: xr.Dataset, tmp_path: Path
) -> None:
    stored = AS_STORED[kind]
    with h5py.File(tmp_path / "x.nc", "w") as file:
        file["stamp"], file["ctrl"] = stamps(pairs), pairs["ctrl"].values
        file["psfsize"], file["theta_e"] = 1000 * pairs["psfsize"], pairs["theta_e"].values
        file["psfsize"].attrs["Units"] = stored("mas")
        file["theta_e"].attrs["units"] = stored("smoots")
        # What netCDF writes for an axis that has a length and no names.
        file["band"] = np.zeros(3, ">f4")
        file["band"].attrs["NAME"] = np.bytes_(
            b"This is a netCDF dimension but not a netCDF variable."
        )
        if kind != "one for each band":
            file.attrs["bands"] = stored("r i z")
        else:
            file.attrs["bands"] = np.array([b"r", b"i", b"z"])
    source = open_source(str(tmp_path / "x.nc"))
    assert source.bands == ("r", "i", "z")
    np.testing.assert_allclose(
        source.block(slice(0, 9))["psfsize"], pairs["psfsize"][:9], rtol=1e-6
    )
    assert "theta_e is said to be in 'smoots', taken for arcsec" in " ".join(source.notes)
    with h5py.File(tmp_path / "x.nc", "a") as file:
        file["theta_e"].attrs["units"] = stored("kpc")
    with pytest.raises(UserError, match="said to be in kpc, but arcsec is needed"):
        open_source(str(tmp_path / "x.nc"))


@pytest.mark.parametrize(
    ("units", "says"),
    [(["arcsec", "mas"], "'arcsec, mas', taken for"), (1, "said to be in 1, but")],
)
def test_units_that_nobody_can_read_are_said(
    units: object, says: str, pairs: xr.Dataset, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["stamp"], file["ctrl"] = stamps(pairs), pairs["ctrl"].values
        file["psfsize"] = pairs["psfsize"].values
        file["psfsize"].attrs["units"] = units
    try:
        said = " ".join(open_source(str(tmp_path / "x.h5")).notes)
    except UserError as error:
        said = str(error)
    assert says in said


@pytest.mark.parametrize("kind", ["hdf5", "zarr", "netcdf3"])
@pytest.mark.parametrize(("said", "bands"), [("riz", ("r", "i", "z")), ("VIS", ("VIS",))])
def test_bands_may_be_the_letters_of_one_word(
    said: str, bands: tuple[str, ...], kind: str, tmp_path: Path
) -> None:
    cube = (("row", "band", "y", "x"), CUBE[:, : len(bands)])
    made = xr.Dataset({"stamp": cube, "ctrl": cube}, attrs={"bands": said})
    if kind == "hdf5":
        with h5py.File(tmp_path / "x", "w") as file:
            file["stamp"] = file["ctrl"] = cube[1]
            file.attrs["bands"] = said
    elif kind == "zarr":
        made.to_zarr(tmp_path / "x", consolidated=False)
    else:
        made.to_netcdf(tmp_path / "x", engine="scipy")
    assert open_source(str(tmp_path / "x")).bands == bands


def test_bands_that_are_numbered_are_called_by_their_numbers(tmp_path: Path) -> None:
    cube = np.zeros((4, 2, 24, 24))
    np.savez(tmp_path / "x.npz", stamp=cube, ctrl=cube, band=[475, 622])
    assert open_source(str(tmp_path / "x.npz")).bands == ("475", "622")


def test_units_of_the_second_class_are_turned_as_those_of_the_first(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["lens"] = file["nonlens"] = np.zeros((4, 24, 24))
        file["psfsize"] = file["nonlens_psfsize"] = np.full((4, 1), 1300.0)
        for name in ("psfsize", "nonlens_psfsize"):
            file[name].attrs["units"] = "mas"
    np.testing.assert_allclose(open_source(str(tmp_path / "x.h5")).columns["psfsize"], 1.3)


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


def named_files(folder: Path, orders: list[str], value: dict[str, float]) -> None:
    """Stamps of three constant bands, in images of their own that each file stores in an order of its own."""
    for name in ("stamp", "ctrl"):
        (folder / name).mkdir()
        for i, order in enumerate(orders):
            flat = [fits.ImageHDU(np.full((32, 32), value[b], "f4"), name=b.upper()) for b in order]
            fits.HDUList([fits.PrimaryHDU(), *flat]).writeto(folder / name / f"{i}.fits")


FLUX = {"g": 1.0, "r": 2.0, "z": 3.0}


@pytest.mark.parametrize("said", [None, ("z", "g", "r")])
def test_bands_are_read_by_their_names_in_every_file(
    said: tuple[str, ...] | None, tmp_path: Path
) -> None:
    named_files(tmp_path, ["grz", "zrg", "rgz"], FLUX)
    source = open_source(str(tmp_path), Mapping(name="x", bands=said or ()))
    assert source.bands == (said or BANDS)
    found = source.block(slice(0, 3))["ctrl"].values[:, :, 5, 5]
    np.testing.assert_array_equal(found, [[FLUX[b] for b in source.bands]] * 3)


@pytest.mark.parametrize("last", [False, True])
def test_bands_of_cubes_are_those_of_their_keyword(last: bool, tmp_path: Path) -> None:
    for name in ("stamp", "ctrl"):
        (tmp_path / name).mkdir()
        for i, said in enumerate(("grz", "z,r,g", None)):
            bands = (said or "grz").replace(",", "")
            cube = np.stack([np.full((32, 32), FLUX[b], "f4") for b in bands], -1 if last else 0)
            header = fits.Header({"BANDS": said} if said else {})
            fits.PrimaryHDU(cube, header).writeto(tmp_path / name / f"{i}.fits")
    found = open_source(str(tmp_path)).block(slice(0, 3))["ctrl"].values[:, :, 5, 5]
    np.testing.assert_array_equal(found, [[1, 2, 3]] * 3)
    # A mapping has other words for what the first file holds.
    other = open_source(str(tmp_path), Mapping(name="x", bands=("z", "r", "g")))
    np.testing.assert_array_equal(
        other.block(slice(0, 3))["ctrl"].values[:, :, 5, 5], [[1, 2, 3]] * 3
    )


def test_the_name_of_a_filter_is_no_word_of_bands(tmp_path: Path) -> None:
    for name in ("stamp", "ctrl"):
        (tmp_path / name).mkdir()
        header = fits.Header({"BANDS": "F814W"})
        fits.PrimaryHDU(np.ones((1, 32, 32), "f4"), header).writeto(tmp_path / name / "0.fits")
    assert open_source(str(tmp_path)).bands == ("F814W",)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ("gri", "the bands g, r, i, the first file the bands g, r, z"),
        ("g", "fewer than two images that"),
    ],
)
def test_a_file_of_other_bands_is_one_sentence(other: str, says: str, tmp_path: Path) -> None:
    named_files(tmp_path, ["grz", other], FLUX | {"i": 4.0})
    with pytest.raises(UserError, match=f"1.fits holds {says}"):
        open_source(str(tmp_path)).block(slice(0, 2))


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


def blobs(folder: Path, damaged: dict[int, bytes | None], column: str = "stamp_npz") -> str:
    """1,025 rows of one stamp in Parquet; the last is a block of its own."""
    whole = encode_stamp(np.ones((3, 24, 24), "f4"), BANDS, "image_{band}")
    table = pd.DataFrame({"stamp_npz": [whole] * 1025, "ctrl_stamp_npz": [whole] * 1025})
    for row, blob in damaged.items():
        table.at[row, column] = blob
    table.to_parquet(folder / "x.parquet", row_group_size=512)
    return str(folder)


def flipped(place: int, value: int) -> bytes:
    """A stamp with one byte of its zip directory wrong."""
    whole = bytearray(encode_stamp(np.ones((3, 24, 24), "f4"), BANDS, "image_{band}"))
    whole[whole.rindex(b"PK\x01\x02") + place] = value
    return bytes(whole)


@pytest.mark.parametrize("column", ["stamp_npz", "ctrl_stamp_npz"])
def test_damaged_blobs_are_failed_rows_wherever_they_lie(column: str, tmp_path: Path) -> None:
    bad = {0: b"damaged", 1: None, 700: flipped(6, 127), 701: flipped(8, 1), 1024: b"PK"}
    source = open_source(blobs(tmp_path, bad, column))
    assert (source.bands, source.size) == (BANDS, 24)
    cuts = source.blocks()
    assert cuts[-1] == slice(1024, 1025)
    blocks = [source.block(rows) for rows in cuts]
    failed = np.concatenate([block["reason"].values == Reason.NAN_PIXELS for block in blocks])
    assert np.flatnonzero(failed).tolist() == sorted(bad)


def test_a_column_without_stamps_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a stamp is no \.npz with image_g"):
        open_source(blobs(tmp_path, dict.fromkeys(range(1025), b"x"), "ctrl_stamp_npz"))
    nameless = encode_stamp(np.ones((1, 24, 24), "f4"), ["g"], "flux_{band}")
    for blob in (b"x", nameless):
        with pytest.raises(UserError, match=r"the first stamps of .* are no \.npz with image_"):
            open_source(blobs(tmp_path, dict.fromkeys(range(1025), blob)))
    small = encode_stamp(np.ones((3, 25, 25), "f4"), BANDS, "image_{band}")
    with pytest.raises(UserError, match="differ in shape"):
        open_source(blobs(tmp_path, {1024: small})).block(slice(1024, 1025))


def test_metrics_are_joined_by_a_column_that_is_there(pairs: xr.Dataset, tmp_path: Path) -> None:
    place, seed = str(as_parquet(tmp_path, pairs)), load_mapping("seed")
    source = open_source(place, seed)
    block = source.blocks(8)[-1]
    found = source.block(block)
    np.testing.assert_array_equal(found["arc_snr"], source.columns["arc_snr"][block])
    assert np.isfinite(found["arc_snr"].values[found["lens_model"].values > 0]).all()
    assert seed.tables is not None
    tables = seed.tables.model_copy(update={"key": "row"})
    with pytest.raises(UserError, match="seed/stamps has no column row"):
        open_source(place, seed.model_copy(update={"tables": tables}))


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


def test_what_a_classifier_sees_is_looked_at(pairs: xr.Dataset, tmp_path: Path) -> None:
    """Where a set holds stamp, ctrl and arc, a pedestal in its stamps hides behind no clean arc."""
    spoilt = stamps(pairs).copy()
    spoilt[pairs["lens_model"].values > 0] += 5 * SKY[:, None, None].astype("f4")
    place = write(tmp_path, pairs, stamp=spoilt, arc=pairs["arc"].values)
    source = open_source(str(place))
    assert source.way == ("stamp", "ctrl")
    assert "arc: not looked at; what is audited is stamp and ctrl" in " ".join(source.notes)
    gap = source.block(slice(0, 20))["arc"].values - pairs["arc"].values[:20]
    np.testing.assert_allclose(gap / SKY[:, None, None], 5, atol=1e-2)
    chosen = Mapping(name="x", stacks=Stacks(ctrl="ctrl", arc="arc"))
    assert open_source(str(place), chosen).way == ("ctrl", "arc")


@pytest.mark.parametrize("form", [2, 3])
def test_a_plain_zarr_group_is_a_set(form: int, pairs: xr.Dataset, tmp_path: Path) -> None:
    place = str(tmp_path / "plain.zarr")
    group = zarr.open_group(place, mode="w", zarr_format=form)
    columns = {"theta_e": pairs["theta_e"].values, "spatial_ref": np.int64(0)}
    for name, values in {"stamp": stamps(pairs), "ctrl": pairs["ctrl"].values, **columns}.items():
        array = group.create_array(name, shape=values.shape, dtype=values.dtype)
        array[...] = values
    source = source_of(place)
    np.testing.assert_array_equal(source.columns["theta_e"], pairs["theta_e"])


def test_a_netcdf_may_hold_scalars(pairs: xr.Dataset, tmp_path: Path) -> None:
    pixels = {k: (("row", "band", "y", "x"), pairs[k].values) for k in ("ctrl", "arc")}
    made = xr.Dataset(pixels | {"theta_e": ("row", pairs["theta_e"].values)}, {"spatial_ref": 0})
    made.assign_attrs(bands="g,r,z").to_netcdf(tmp_path / "x.nc", engine="scipy")
    source = open_source(str(tmp_path / "x.nc"))
    np.testing.assert_array_equal(source.columns["theta_e"], pairs["theta_e"])


def fits_folder(folder: Path, names: list[str]) -> None:
    for name in ("stamp", "ctrl"):
        (folder / name).mkdir()
        for file in names:
            header = fits.Header({"BANDS": "grz"})
            fits.PrimaryHDU(np.zeros((3, 32, 32), "f4"), header).writeto(folder / name / file)


def test_a_file_of_fits_is_named_by_all_its_dots(tmp_path: Path) -> None:
    names = [f"150.{i:02d}_2.{i:02d}.fits" for i in range(6)]
    fits_folder(tmp_path, names)
    theta_e = np.arange(6) + 1.0
    for called in (names, [n.removesuffix(".fits") for n in names]):
        pd.DataFrame({"file": called, "theta_e": theta_e}).iloc[::-1].to_csv(
            tmp_path / "rows.csv", index=False
        )
        assert open_source(str(tmp_path)).columns["theta_e"].values.tolist() == theta_e.tolist()


def test_text_in_a_table_of_fits_is_text(tmp_path: Path) -> None:
    fits_folder(tmp_path, ["a.fits", "b.fits"])
    said = {"file": ["a", "b"], "lens_model": ["SIE", "CONTROL"], "region_id": ["north", ""]}
    Table(said).write(tmp_path / "rows.fits")
    columns = open_source(str(tmp_path)).columns
    assert columns["lens_model"].values.tolist() == [LENS_MODELS.index("SIE"), 0]
    assert columns["region_id"].values.tolist() == ["north", "row 1 of none"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            ["a.fits", "b.fits", "c.fits"],
            "has no row for 3 of the 3 files in stamp, the first 0001",
        ),
        (["0001.fits", "0002.fits"], "has no row for 1 of the 3 files in stamp, the first 0003"),
        (["0001.fits", "0001.fits.gz", "0003.fits"], "more than one row for 0001"),
    ],
)
def test_a_table_of_other_files_is_refused(files: list[str], says: str, tmp_path: Path) -> None:
    fits_folder(tmp_path, ["0001.fits", "0002.fits", "0003.fits"])
    pd.DataFrame({"file": files, "theta_e": 1.0}).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(UserError, match=says):
        open_source(str(tmp_path))


def test_a_second_class_needs_no_rows_in_the_table(tmp_path: Path) -> None:
    fits_folder(tmp_path, ["0001.fits", "0002.fits"])
    for name, new in (("stamp", "lens"), ("ctrl", "nonlens")):
        (tmp_path / name).rename(tmp_path / new)
    for place in (tmp_path / "nonlens").iterdir():
        place.rename(place.with_name(f"n{place.name}"))
    pd.DataFrame({"file": ["0001", "0002"], "theta_e": [1.0, 2.0]}).to_csv(
        tmp_path / "rows.csv", index=False
    )
    source = open_source(str(tmp_path))
    assert source.columns["theta_e"].values[:2].tolist() == [1.0, 2.0]
    both = pd.DataFrame(
        {
            "file": ["lens/0001", "lens/0002", "nonlens/n0001", "nonlens/n0002"],
            "theta_e": [1.0, 2.0, 0.0, 0.0],
            "ra": [10.0, 11.0, 12.0, 13.0],
        }
    )
    both["file"] = both["file"].str.replace("n0", "0")  # and the same names in both
    for place in (tmp_path / "nonlens").iterdir():
        place.rename(place.with_name(place.name.removeprefix("n")))
    both.to_csv(tmp_path / "rows.csv", index=False)
    assert open_source(str(tmp_path)).columns["ra"].values.tolist() == [10, 11, 12, 13]


@pytest.mark.parametrize("none", [np.nan, -99.0])
def test_what_is_no_radius_is_no_lens(none: float, pairs: xr.Dataset, tmp_path: Path) -> None:
    control = pairs["lens_model"].values == 0
    theta_e = np.where(control, none, pairs["theta_e"].values)
    source = open_source(str(write(tmp_path, pairs, theta_e=theta_e, lens_model=None)))
    np.testing.assert_array_equal(source.columns["lens_model"].values == 0, control)
    np.testing.assert_array_equal(source.columns["theta_e"], pairs["theta_e"])
    assert "rows without a theta_e above 0" in " ".join(source.notes)


def test_fields_of_records_are_columns(pairs: xr.Dataset, tmp_path: Path) -> None:
    records = np.zeros(88, dtype=[("theta_e", "f4"), ("psfsize", "f4", 3), ("odd", "f4", (2, 2))])
    records["theta_e"], records["psfsize"] = pairs["theta_e"].values, pairs["psfsize"].values
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["stamp"], file["ctrl"] = stamps(pairs), pairs["ctrl"].values
        file["meta"] = records
    block = open_source(str(tmp_path / "x.h5")).block(slice(10, 20))
    for name in ("theta_e", "psfsize"):
        np.testing.assert_array_equal(block[name], pairs[name][10:20])


@pytest.mark.parametrize("way", [("stamp", "ctrl"), ("lens", "nonlens")])
def test_one_stack_under_two_names_is_one_sentence(
    way: tuple[str, str], pairs: xr.Dataset, tmp_path: Path
) -> None:
    """By its name at once; by its pixels once they were measured, controls left out."""
    said = Mapping(name="x", stacks=Stacks(**dict.fromkeys(way, "ctrl")))
    place = str(write(tmp_path, pairs))
    with pytest.raises(UserError, match=f"is named as {way[0]} and as {way[1]}, and images do not"):
        open_source(place, said)
    ctrl = pairs["ctrl"].values
    for twice, same in ((ctrl, True), (stamps(pairs), False)):
        np.savez(tmp_path / "two.npz", **columns_of(pairs), **{way[0]: twice, way[1]: ctrl})
        source = open_source(str(tmp_path / "two.npz"))
        spec = spec_of_source(source, AuditSettings())
        stats = merge([measure(source.block(rows), spec) for rows in source.blocks(64)], spec)
        if same:
            with pytest.raises(
                UserError, match=r"are the same in every pixel of all \d+ rows that should"
            ):
                check_apart(source, stats)
        else:
            check_apart(source, stats)


@pytest.mark.parametrize(
    ("stamp", "says"),
    [
        (CUBE.astype("c8"), r"stamp is none, it is complex64 \(4, 3, 32, 32\), which are no real"),
        (
            CUBE.astype("U3"),
            r"stamp is none, it is <U3 \(4, 3, 32, 32\), which are no real numbers",
        ),
        (
            CUBE[0, 0],
            r"stamp is none, it is float64 \(32, 32\), 2 axes and not \(row, \[band,\] y, x\)",
        ),
        (CUBE[:, None], r"it is float64 \(4, 1, 3, 32, 32\), 5 axes and not"),
    ],
    ids=["complex", "text", "one image", "five axes"],
)
def test_an_array_that_is_no_stack_is_said_with_why(
    stamp: np.ndarray, says: str, tmp_path: Path
) -> None:
    columns = {"theta_e": np.ones(4), "psfsize": np.ones((4, 3)), "brick": ["a"] * 4}
    np.savez(tmp_path / "x.npz", stamp=stamp, ctrl=CUBE, **columns)
    with pytest.raises(UserError, match=says) as error:
        open_source(str(tmp_path / "x.npz"))
    assert "it has ctrl (4, 3, 32, 32); stamp" in str(error.value)
    assert not any(name in str(error.value) for name in columns)
    np.savez(tmp_path / "x.npz", pics=stamp, **columns)
    said = Mapping(name="x", stacks=Stacks(stamp="pics", ctrl="pics"))
    with pytest.raises(UserError, match="it has no stack of images; pics is none, it is"):
        open_source(str(tmp_path / "x.npz"), said)


def test_one_column_of_blobs_is_no_pair(tmp_path: Path) -> None:
    pd.DataFrame({"blob": [b""]}).to_parquet(tmp_path / "x.parquet")
    images = Images(stamp="blob", ctrl="blob", member="image_{band}")
    with pytest.raises(UserError, match=r"the column blob of .* is named as stamp and as ctrl"):
        open_source(str(tmp_path / "x.parquet"), Mapping(name="x", images=images))


def test_more_bands_than_a_byte_has_bits_are_refused(tmp_path: Path) -> None:
    cube = np.zeros((9, 9, 32, 32))
    np.savez(tmp_path / "x.npz", stamp=cube, ctrl=cube, bands=[f"b{i}" for i in range(9)])
    says = r"have 9 bands, .* from \(9, 9, 32, 32\); an audit takes up to 8, leave some out"
    with pytest.raises(UserError, match=says):
        open_source(str(tmp_path / "x.npz"))
    three = np.zeros((3, 9, 32, 32))
    np.savez(tmp_path / "x.npz", stamp=three, ctrl=three, bands=["g", "r", "z"])
    says = r"read as \(row, band, y, x\) from \(3, 9, 32, 32\); .*, bring rows to the first axis"
    with pytest.raises(UserError, match=says):
        open_source(str(tmp_path / "x.npz"))


def test_a_mapping_says_strata_and_gates(pairs: xr.Dataset, tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text(
        "name: x\naudit: {theta_e_edges: [1, 2], cap: 1000, closure: 50}\n"
        "gates: {closure_flux: 0.02, required: [closure_flux]}\n"
    )
    place, said = str(write(tmp_path, pairs)), str(tmp_path / "map.yaml")
    settings = settings_of(place, {"cluster.workers": 1}, said)
    spec = spec_of_source(source_of(place, said), settings)
    assert (spec.theta_e_edges, spec.cap, spec.whole_cap, spec.closure) == ((1, 2), 1000, 1000, 50)
    assert limits_of(settings).closure_flux == 0.02
    assert tuple(limits_of(settings).required) == ("closure_flux",)
