"""The section ``fix`` of an experiment file: what is done against leaks, nothing by default."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from darkhaloscope.config.base import Number, Section


class CoreMask(Section):
    """Take the arc out of the core, after the PSF.

    A circle about the target's true position, or about pixel (N/2, N/2) of the stamp; or exactly the
    10x10 pixels that the core gate reads. A hard circle whose edge lies inside those pixels is itself
    visible there; one of more than 7.08 pixels covers them whatever the target's sub-pixel position.
    """

    shape: Literal["circle", "box"] = "circle"
    radius_px: Number | None = Field(None, gt=0, le=64)
    radius_arcsec: Number | None = Field(None, gt=0, le=16)
    """One of the two; 5 pixels where neither is given."""
    taper_px: Number = Field(0.0, ge=0, le=32)
    """Width of the tanh taper in pixels; 0 is a hard edge."""
    centre: Literal["target", "pixel_32"] = "target"
    """``pixel_32``: pixel (N/2, N/2), which is (32, 32) of a 64-pixel stamp."""

    @model_validator(mode="after")
    def _keys_are_read(self) -> CoreMask:
        if self.radius_px is not None and self.radius_arcsec is not None:
            raise ValueError("radius_px and radius_arcsec are both given; leave one out")
        if self.shape == "box":
            unread = ("radius_px", "radius_arcsec", "taper_px", "centre")
            for key in unread:
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(
                        f"{key} is given but shape is box, which is the 10x10 pixels of the core gate; "
                        f"take {key} out, or use shape: circle"
                    )
        return self


class FixSection(Section):
    """What is done against leaks. All can be combined; each is recorded in the rows that it touches."""

    core_mask: CoreMask | None = None
    src_reff_max: Number | None = Field(None, ge=0.01, le=5)
    """Larger sources are drawn with this half-light radius, arcsec; all else of the row stays."""
    theta_e_min: Number | None = Field(None, gt=0, le=10)
    """Rows of smaller Einstein radii (arcsec) are marked, not drawn again."""
    min_theta_e_over_psf: Number | None = Field(None, gt=0, le=20)
    """Rows of a smaller theta_e / psf_fwhm_used (reference band) are marked, not drawn again."""
    core_matched_negatives: bool = False
    """Each injection gets a control on its own sky, with round light as bright as the arc in the core."""

    @property
    def cuts(self) -> tuple[str, ...]:
        """The keys in use that mark rows, in the order in which they are asked."""
        names = ("theta_e_min", "min_theta_e_over_psf")
        return tuple(name for name in names if getattr(self, name) is not None)

    @property
    def kinds(self) -> frozenset[str]:
        """Optional kinds (``variables.OPTIONAL_KINDS``) that a data set has because of this section."""
        found = {f"excluded_by_{name}" for name in self.cuts}
        if self.core_mask is not None:
            found.add("core_mask")
        if self.core_matched_negatives:
            found.add("core_matched")
        return frozenset(found)
