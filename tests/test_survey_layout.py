"""Names of files."""

from __future__ import annotations

import pytest

from darkhaloscope.errors import UserError
from darkhaloscope.survey import Survey
from darkhaloscope.variables import default_reference_band


def test_release_layout() -> None:
    dr10 = Survey("s3://bucket/dr10/", "south")
    folder = "s3://bucket/dr10/south/coadd/059/0591m305/legacysurvey-0591m305"
    assert dr10.url("image", "0591m305", "r") == f"{folder}-image-r.fits.fz"
    assert dr10.url("maskbits", "0591m305") == f"{folder}-maskbits.fits.fz"
    assert dr10.url("maskbits", "0591m305", "r") == f"{folder}-maskbits.fits.fz"
    tractor = "s3://bucket/dr10/south/tractor/059/tractor-0591m305.fits"
    assert dr10.tractor_url("0591m305") == tractor


def test_no_hemisphere_and_flat() -> None:
    name = "legacysurvey-0591m305-psfsize-z.fits.fz"
    dr6 = Survey("/data/dr6", None)
    assert dr6.url("psfsize", "0591m305", "z") == f"/data/dr6/coadd/059/0591m305/{name}"
    flat = Survey("/cache", "south", layout="flat")
    assert flat.url("psfsize", "0591m305", "z") == f"/cache/{name}"
    assert Survey("memory://", layout="flat").url("psfsize", "0591m305", "z") == f"memory://{name}"


def test_mistakes_in_a_survey() -> None:
    with pytest.raises(UserError, match="declared absent"):
        Survey("x", absent=frozenset({"image"}))
    with pytest.raises(UserError, match="named once each"):
        Survey("x", bands=("r", "r"))
    with pytest.raises(UserError, match="layout"):
        Survey("x", layout="heap")  # type: ignore[arg-type]


def test_reference_band() -> None:
    assert default_reference_band(("g", "r", "z")) == "r"
    assert default_reference_band(("g", "i", "z")) == "z"
    assert default_reference_band(("i", "g")) == "g"
