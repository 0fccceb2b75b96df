"""The sections of an experiment file that say what an arc is: lens, source, PSF, renderer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from darkhaloscope.config.base import Address, Band, Section, one_of, within
from darkhaloscope.draw import Draw, Mix


class LensSection(Section):
    """The deflector. Every key is a constant, a list or a distribution."""

    model: Annotated[Mix, one_of("SIS", "SIE", "EPL")] = Mix.only("SIE")
    """What deflects: a name, a list, or names with weights."""
    theta_e: Annotated[Draw, within(0.01, 10, "arcsec")]
    """Einstein radius, intermediate-axis convention, arcsec."""
    q: Annotated[Draw, within(0.05, 1)] = Draw.constant(1.0)
    """Axis ratio."""
    pa: Annotated[Draw, within(-360, 360, "deg")] = Draw.constant(0.0)
    """Position angle of the major axis, degrees east of north."""
    shear: Annotated[Draw, within(0, 0.5)] = Draw.constant(0.0)
    """External shear gamma."""
    shear_pa: Annotated[Draw, within(-360, 360, "deg")] = Draw.constant(0.0)
    """Position angle along which the shear stretches images, degrees east of north."""
    dx: Annotated[Draw, within(-5, 5, "arcsec")] = Draw.constant(0.0)
    """Lens minus target, toward east, arcsec."""
    dy: Annotated[Draw, within(-5, 5, "arcsec")] = Draw.constant(0.0)
    """Lens minus target, toward north, arcsec."""

    slope: Annotated[Draw, within(1.4, 2.6)] = Draw.constant(2.0)
    """Slope of the density of an EPL; 2 is isothermal."""

    @model_validator(mode="after")
    def _keys_are_read(self) -> LensSection:
        if self.model.names == ("SIS",) and self.q != Draw.constant(1.0):
            raise ValueError("q is given but model is SIS, which is round; use model: SIE")
        if "EPL" not in self.model.names and self.slope != Draw.constant(2.0):
            raise ValueError(
                f"slope is given but model is {' and '.join(self.model.names)}, whose slope is 2; "
                "use model: EPL"
            )
        return self


SHAPE_KEYS: dict[str, tuple[str, ...]] = {
    "sersic": ("reff", "n", "q", "pa"),
    "point": (),
    "bulge_disc": (
        "reff", "n", "q", "pa", "bulge_fraction", "bulge_reff", "bulge_n", "bulge_q",
    ),
    "image": (
        "catalogue", "image_mag", "image_reff", "image_scale", "rotation", "deconvolved",
    ),
}  # fmt: skip
"""Keys of the source's shape that each kind of source reads."""


class SourceSection(Section):
    """The lensed galaxy. Every key but ``model`` is a constant, a list or a distribution.

    A ``bulge_disc`` is two Sersic profiles about one centre and one position angle: ``reff``, ``n``
    and ``q`` are the disc's, and the bulge has the same part of the flux in every band.
    """

    model: Annotated[Mix, one_of("sersic", "point", "bulge_disc", "image")] = Mix.only("sersic")
    """What is lensed: a name, a list, or names with weights."""
    dmag: Annotated[Draw, within(-10, 10, "mag")] = Draw.constant(1.0)
    """Source minus target in the reference band, unlensed, mag AB."""
    mag: Annotated[Draw, within(10, 32, "mag")] | None = None
    """Unlensed magnitude (AB, reference band) of the source where the target has none."""
    colour: dict[Band, Annotated[Draw, within(-5, 5, "mag")]] = Field({})
    """Band minus reference band, mag AB; 0 where a band is not named."""
    reff: Annotated[Draw, within(0.01, 5, "arcsec")] = Draw.constant(0.25)
    """Half-light radius sqrt(a b), arcsec."""
    n: Annotated[Draw, within(0.5, 6)] = Draw.constant(1.0)
    """Sersic index."""
    q: Annotated[Draw, within(0.05, 1)] = Draw.constant(1.0)
    pa: Annotated[Draw, within(-360, 360, "deg")] = Draw.constant(0.0)
    dx: Annotated[Draw, within(-10, 10, "arcsec")] = Draw.constant(0.0)
    """Source minus lens, toward east, arcsec."""
    dy: Annotated[Draw, within(-10, 10, "arcsec")] = Draw.constant(0.0)
    """Source minus lens, toward north, arcsec."""
    bulge_fraction: Annotated[Draw, within(0, 1)] = Draw.constant(0.3)
    """The bulge's part of the flux, the same in every band."""
    bulge_reff: Annotated[Draw, within(0.01, 5, "arcsec")] = Draw.constant(0.1)
    """Half-light radius sqrt(a b) of the bulge, arcsec."""
    bulge_n: Annotated[Draw, within(0.5, 6)] = Draw.constant(4.0)
    """Sersic index of the bulge."""
    bulge_q: Annotated[Draw, within(0.05, 1)] = Draw.constant(1.0)
    """Axis ratio of the bulge."""
    catalogue: Address | None = None
    """Catalogue of galaxy images, as GalSim's: a path or any fsspec URL."""
    image_mag: tuple[float, float] | None = None
    """Bounds of the catalogue's MAG, within which galaxies are chosen."""
    image_reff: tuple[float, float] | None = None
    """Bounds of the catalogue's half-light radius, arcsec."""
    image_scale: Annotated[Draw, within(0.1, 10)] = Draw.constant(1.0)
    """Size of an image's pixels in units of the catalogue's."""
    rotation: Annotated[Draw, within(-360, 360, "deg")] = Draw.constant(0.0)
    """Position angle of an image's y axis, degrees east of north."""
    deconvolved: bool = False
    """The images are free of their own camera's PSF; recorded."""

    @model_validator(mode="after")
    def _images_can_be_chosen(self) -> SourceSection:
        if "image" in self.model.names and self.catalogue is None:
            raise ValueError(
                "model is image, but no catalogue is given; name a catalogue of images"
            )
        for key in ("image_mag", "image_reff"):
            bounds = getattr(self, key)
            if bounds is not None and not bounds[0] < bounds[1]:
                raise ValueError(f"{key} {list(bounds)} must rise: the lower bound, then the upper")
        return self

    @model_validator(mode="after")
    def _keys_are_read(self) -> SourceSection:
        read = {key for name in self.model.names for key in SHAPE_KEYS[name]}
        for key in sorted({key for keys in SHAPE_KEYS.values() for key in keys} - read):
            if getattr(self, key) != type(self).model_fields[key].default:
                kinds = [name for name, keys in SHAPE_KEYS.items() if key in keys]
                raise ValueError(
                    f"{key} is given but model is {' and '.join(self.model.names)}, which has none; "
                    f"take it out, or use model: {' or '.join(kinds)}"
                )
        return self


class PsfSection(Section):
    """The profile that arcs are convolved with; its width is read at each target."""

    model: Literal["gaussian", "moffat"] = "moffat"
    beta: float = Field(3.5, ge=2, le=20)
    width: Literal["nea", "fwhm"] = "nea"
    """What the survey's ``psfsize`` is: the Gaussian-equivalent width of the noise-equivalent area
    (as it is published), or the FWHM of the profile (to reproduce others)."""
    pixel: Literal["effective", "integrate"] = "effective"
    """``effective``: the width already holds the pixel's response, so the image is sampled;
    ``integrate``: it holds the optics only, and the pixel is integrated."""


class RenderSection(Section):
    """How finely arcs are computed."""

    supersample: Literal[4, 8, 16, 32] = 16
    """Finest samples per pixel side that the renderer may use; recorded per row."""


LATER_KEYS: dict[str, tuple[str, ...]] = {
    "lens": ("slope",),
    "source": (
        "bulge_fraction", "bulge_reff", "bulge_n", "bulge_q", "image_mag", "image_reff",
        "image_scale", "rotation", "deconvolved",
    ),
    "fix": ("src_reff_max", "theta_e_min", "min_theta_e_over_psf", "core_matched_negatives"),
    "store": ("invvar",),
}  # fmt: skip
"""Keys that came after the first data sets: at their defaults they are no part of the identity, so that
an older experiment keeps its own."""
