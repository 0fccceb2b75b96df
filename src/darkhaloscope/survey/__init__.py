"""What a release of the Legacy Surveys looks like: where its files lie, and what is in them.

layout    names of files, and whole objects read through fsspec
bricks    the 0.25 deg tiling of the sky, and DESI's TARGETID
maskbits  the bits of a maskbits map, by name
coadd     the pixels of the targets of one brick (cutouts: what comes out)
grid      its WCS
files     the files of a brick, opened together; only the tiles that are needed are fetched
reading   whole files or byte ranges: the cost model
source    the bytes of one FITS file, as far as they were fetched, and its HDUs
tiles     windows of its images
bricktable  PSF widths of whole bricks
cache     a copy of the files of some bricks
health    whether a release can be read at all
decode    one compressed tile to pixels
targets   lists of targets: a user's table made uniform
galaxies  images of real galaxies as sources, and their catalogue
catalogues  published lenses made uniform
selection targets out of tractor or sweep catalogues
regions   regions of the sky, their splits, and the guard between these
sky       a synthetic sky, laid out as a release (skysources, skylight, skyconditions,
          skyfiles)
"""

from darkhaloscope.survey.coadd import read_cutouts
from darkhaloscope.survey.cutouts import Cutouts
from darkhaloscope.survey.galaxies import (
    Galaxies,
    galaxies_digest,
    galaxy_image,
    select_galaxies,
)
from darkhaloscope.survey.layout import Survey
from darkhaloscope.survey.reading import Reading
from darkhaloscope.survey.selection import select_lrg, select_simple, select_targets, whole_bricks
from darkhaloscope.survey.sky import SkySummary, combine, make_brick, make_sky, sky_bricks
from darkhaloscope.survey.targets import position_targets, read_targets, write_targets

__all__ = [
    "Cutouts",
    "Galaxies",
    "Reading",
    "SkySummary",
    "Survey",
    "combine",
    "galaxies_digest",
    "galaxy_image",
    "make_brick",
    "make_sky",
    "position_targets",
    "read_cutouts",
    "read_targets",
    "select_galaxies",
    "select_lrg",
    "select_simple",
    "select_targets",
    "sky_bricks",
    "whole_bricks",
    "write_targets",
]
