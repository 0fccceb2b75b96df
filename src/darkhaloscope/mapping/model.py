"""What a mapping file says: which column of a foreign table holds which variable, and how."""

from __future__ import annotations

import difflib
import importlib.resources
from string import Formatter

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from darkhaloscope import storage
from darkhaloscope.config import AuditSection, GatesSection
from darkhaloscope.config.load import explain, parse_yaml
from darkhaloscope.errors import UserError
from darkhaloscope.variables import BAND, BY_NAME, PAIR, Variable

SHIPPED = ("seed",)
"""Mappings that come with the package, by name."""

Names = dict[str, str]
"""Column by variable; a variable with a band has ``{band}`` in its column's name."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tables(_Section):
    """Folders of Parquet files, cut by the values of one column and joined by another."""

    stamps: str
    metrics: str
    partition: str
    key: str

    @model_validator(mode="after")
    def _folders_differ(self) -> Tables:
        if self.stamps.strip("/") == self.metrics.strip("/"):
            raise ValueError(f"stamps and metrics are both {self.stamps}; each has its own folder")
        return self


class Images(_Section):
    """Columns of ``.npz`` blobs, and the arrays inside them."""

    stamp: str
    ctrl: str
    member: str
    """Name of a band's (y, x) array inside a blob, with ``{band}`` where there is more than one band."""


class Stacks(_Section):
    """Names of image arrays (row, [band,] y, x) in a file: two of a pair, or two that are no pairs."""

    stamp: str | None = None
    ctrl: str | None = None
    arc: str | None = None
    lens: str | None = None
    nonlens: str | None = None


class Shear(_Section):
    """External shear as a size and an angle (radians from +x toward +y of the array)."""

    size: str
    angle: str


class Mapping(_Section):
    """How a foreign table says what the data set's variables say.

    Every group maps variables (docs/data-set.md) to columns; the group says the convention of the
    column. Variables that stand in no group keep their own names.
    """

    name: str
    optional: bool = False
    """Whether a set may lack columns that are named here; otherwise one that is not there is a mistake."""
    tables: Tables | None = None
    images: Images | None = None
    stacks: Stacks | None = None
    bands: tuple[str, ...] = ()
    """Bands of the images, in their order; needed where the data do not say it themselves."""
    pixel_scale: float | None = Field(None, ge=0.005, le=10)
    """Arcsec (not mas) per pixel; that of the Legacy Surveys' coadds where nothing is said."""
    same: Names = {}
    """The same quantity in the same unit."""
    west: Names = {}
    """Offsets toward +x of the array, arcsec; the variable counts toward east."""
    ellipticity: Names = {}
    """e; the variable is the axis ratio q = (1 - e) / (1 + e)."""
    array_angle: Names = {}
    """Radians from +x toward +y of the array; the variable is in degrees east of north."""
    semi_major: Names = {}
    """Half-light semi-major axis a; the variable is sqrt(a b), with the axis ratio ``src_q``."""
    fwhm: Names = {}
    """FWHM of the PSF's profile, arcsec; the variable is the noise-equivalent width that ``psf_model`` (and
    ``psf_beta``) have then: 1.23 times it for a Moffat of beta 3.5, the same for a Gaussian."""
    shear: Shear | None = None
    control: str | None = None
    """A column that is true (1) on controls."""
    constants: dict[str, float | str] = {}
    """Values that all injections share, where the table has no column for them."""
    audit: AuditSection = AuditSection()
    """Strata and numbers of rows of an audit, as in an experiment file."""
    gates: GatesSection = GatesSection()
    """What an audit accepts, as in an experiment file."""

    @property
    def groups(self) -> dict[str, Names]:
        """Columns by variable, by the convention that they are in."""
        names = ("same", "west", "ellipticity", "array_angle", "semi_major", "fwhm")
        return {name: getattr(self, name) for name in names}

    @property
    def renamed(self) -> Names:
        """Every variable that has a column of another name, by group order."""
        return {name: column for group in self.groups.values() for name, column in group.items()}

    @property
    def named(self) -> Names:
        """Every column that stands here, by its key: ``same.theta_e``, ``shear.size``, ``control``."""
        found = {f"{g}.{name}": c for g, group in self.groups.items() for name, c in group.items()}
        if self.shear is not None:
            found |= {"shear.size": self.shear.size, "shear.angle": self.shear.angle}
        return found | ({"control": self.control} if self.control is not None else {})

    def column_of(self, variable: Variable) -> str:
        """The column that holds a variable, with ``{band}`` in it where the variable has a band."""
        own = f"{variable.name}_{{band}}" if variable.dims == BAND else variable.name
        return self.renamed.get(variable.name, own)

    @model_validator(mode="after")
    def _names_are_variables(self) -> Mapping:
        twice = sum(map(len, self.groups.values())) - len(self.renamed)
        if twice:
            raise ValueError("a variable stands in two groups; each has one convention")
        for name in (*self.renamed, *self.constants):
            if name not in BY_NAME or BY_NAME[name].dims not in (PAIR, BAND):
                near = difflib.get_close_matches(name, BY_NAME, n=1)
                hint = f"did you mean {near[0]}?" if near else "docs/data-set.md lists them"
                raise ValueError(f"{name} is no variable of a row; {hint}")
        if self.images is not None and not _has_band(self.images.member) and len(self.bands) != 1:
            raise ValueError(
                f"images: member {self.images.member} must hold {{band}}, or bands name the only one"
            )
        for name, column in self.renamed.items():
            if (BY_NAME[name].dims == BAND) != _has_band(column):
                raise ValueError(
                    f"{name}: {column} must hold {{band}} if, and only if, {name} has a band"
                )
        return self


def _has_band(name: str) -> bool:
    """Whether a name holds ``{band}``; a ValueError where it holds something else in braces."""
    try:
        held = {field for _, field, _, _ in Formatter().parse(name) if field is not None}
    except ValueError:
        held = {""}
    if held - {"band"}:
        raise ValueError(f"{name} may hold {{band}} and nothing else in braces")
    return bool(held)


def load_mapping(name: str) -> Mapping:
    """A mapping by the name of a shipped one, or from a YAML file (path or fsspec URL).

    Raises
    ------
    UserError
        There is none of that name, or the file says something that a mapping cannot say.
    """
    try:
        if name in SHIPPED:
            data = (importlib.resources.files(__package__) / f"{name}.yaml").read_bytes()
        else:
            data = storage.read(name)
    except FileNotFoundError:
        raise UserError(
            f"there is no mapping {name}; give one of {', '.join(SHIPPED)}, or a YAML file"
        ) from None
    document = parse_yaml(data, f"the mapping {name}", "a mapping", "keys such as name: and same:")
    try:
        return Mapping.model_validate(document)
    except ValidationError as error:
        raise UserError(f"the mapping {name}: {explain(error, Mapping, 'a mapping')}") from None
