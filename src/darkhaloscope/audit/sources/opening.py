"""What a data set of others is: which of its images make the pairs, their bands, and what it does not say."""

from __future__ import annotations

from dataclasses import replace

import fsspec

from darkhaloscope.audit.sources.arrays import ArrayFile, kind_of
from darkhaloscope.audit.sources.complete import lacking
from darkhaloscope.audit.sources.fits import FitsFolder
from darkhaloscope.audit.sources.named import misshapen, not_used, unfound
from darkhaloscope.audit.sources.pairs import NONLENS, PairSource
from darkhaloscope.audit.sources.tables import BlobTable
from darkhaloscope.audit.sources.units import Factors, factors
from darkhaloscope.errors import UserError
from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.mapping import Mapping, import_rows

KNOWN = {
    "stamp": ("stamp", "stamps", "lensed", "injected"),
    "ctrl": ("ctrl", "control", "controls", "unlensed"),
    "arc": ("arc", "arcs"),
    "lens": ("lens", "lenses", "positive", "positives"),
    "nonlens": ("nonlens", "non_lens", "nonlenses", "non_lenses", "negative", "negatives"),
}
"""Names by which stacks are known where no mapping says otherwise."""

WAYS = (("stamp", "ctrl"), ("ctrl", "arc"), ("lens", "nonlens"))
"""What makes a set, the first that is there: a classifier sees stamps, whatever arcs lie beside them."""

BANDS_OF = {1: ("r",), 3: ("g", "r", "z"), 4: ("g", "r", "i", "z")}
SMALLEST = 24
MOST_BANDS = 8
"""``nodata`` has a bit for each."""

_ONE = (
    "{named} is named as {one} and as {other}, and images do not differ from themselves; name two"
)


def open_source(url: str, mapping: Mapping | None = None) -> PairSource:
    """Find out what a data set is, and what it says.

    Parameters
    ----------
    url : str
        A Zarr group, a NetCDF, HDF5 or NPZ file, Parquet files, or a folder of FITS stamps.
    mapping : Mapping, optional
        Names and conventions; without one, columns count by the names of docs/data-set.md.

    Raises
    ------
    UserError
        It is none of these, or which images make the pairs cannot be told.
    """
    url, said = url.rstrip("/"), mapping or Mapping(name="own names")
    kind = kind_of(url)
    if kind is not None:
        return _with_record(_of_stacks(ArrayFile(url, kind), said))
    fs, path = fsspec.url_to_fs(url)
    if fs.isfile(path) and fs.size(path) == 0:
        raise UserError(f"{url} is empty, a file of 0 bytes; write it again")
    folder = FitsFolder.find(url)
    if folder is not None:
        source = _of_stacks(folder, said)
        files = dict(folder.files)
        if source.paired and files[source.first] != files[source.second]:
            raise UserError(
                f"{url}/{source.first} and {url}/{source.second} do not hold files of the same names; "
                "a pair is a file of the same name in both"
            )
        return _with_record(source)
    table = BlobTable.find(url, said)
    if table is not None:
        if said.images is not None and said.images.stamp == said.images.ctrl:
            named = f"the column {said.images.ctrl} of {url}"
            raise UserError(_ONE.format(named=named, one="stamp", other="ctrl"))
        bands = said.bands or table.bands()
        if len(bands) > MOST_BANDS:
            raise UserError(
                f"the stamps of {url} have {len(bands)} bands; an audit takes up to {MOST_BANDS}, name "
                "some in a mapping (bands)"
            )
        size = _size(url, table.shape(bands))
        found = PairSource(
            table, ("stamp", "ctrl"), "stamp", "ctrl", (table.rows,) * 2, bands, size, False, said
        )
        return _with_record(found)
    if not fs.exists(path):
        raise UserError(f"there is no {url}; check the path")
    raise UserError(
        f"{url} is no data set that can be audited: no Zarr group, NetCDF, HDF5 or NPZ file, no Parquet "
        "files, and no folder with stamp/ and ctrl/ (or lens/ and nonlens/) of FITS images"
    )


def _of_stacks(reader: ArrayFile | FitsFolder, mapping: Mapping) -> PairSource:
    url, shapes = reader.url, reader.shapes()
    named: dict[str, str] = {}
    for role, known in KNOWN.items():
        said = getattr(mapping.stacks, role) if mapping.stacks is not None else None
        hit = _called(known, shapes) if said is None else _as_said(said, shapes)
        if not hit and said is not None:
            raise UserError(f"{url} has no stack of images {said}; it has {_there(reader, said)}")
        if len(hit) > 1:
            raise UserError(
                f"{' and '.join(hit)} of {url} could both be the {role}; name one in a mapping (stacks)"
            )
        if hit:
            named[role] = hit[0]
    by_name = {role for role in named if getattr(mapping.stacks, role, None) is not None}
    way = next((w for roles in (by_name, set(named)) for w in WAYS if set(w) <= roles), None)
    if way is None:
        raise UserError(
            f"which images of {url} make the pairs cannot be told: it has {_there(reader)}; name them in "
            "a mapping (stacks: stamp and ctrl, ctrl and arc, or lens and nonlens)"
        )
    first, second = (named[role] for role in way)
    if first == second:
        raise UserError(_ONE.format(named=f"{first} of {url}", one=way[0], other=way[1]))
    one, two = shapes[first], shapes[second]
    if one[1:] != two[1:]:
        raise UserError(
            f"{first} {one} and {second} {two} of {url} differ in shape; cut them alike"
        )
    if way != ("lens", "nonlens") and one[0] != two[0]:
        raise UserError(
            f"{first} has {one[0]} rows and {second} {two[0]} in {url}; pairs have the same row in both"
        )
    last = len(one) == 4 and one[1] == one[2] != one[3]
    n_bands = 1 if len(one) == 3 else one[3] if last else one[1]
    bands = mapping.bands or reader.bands()
    notes: tuple[str, ...] = ()
    unused = [stack for role, stack in named.items() if role not in way]
    if unused:
        notes += (
            f"{', '.join(unused)}: not looked at; what is audited is {first} and {second}, unless a "
            "mapping names others (stacks)",
        )
    if not bands and n_bands in BANDS_OF:
        bands = BANDS_OF[n_bands]
        notes += (f"bands: the data set does not name them; taken for {', '.join(bands)}",)
    if n_bands > MOST_BANDS:
        swapped = len(one) == 4 and not last and one[0] <= MOST_BANDS
        raise UserError(
            f"the images of {url} have {n_bands} bands, read as (row, band, y, x) from {one}; an audit takes "
            f"up to {MOST_BANDS}, "
            + ("bring rows to the first axis (np.swapaxes 0, 1)" if swapped else "leave some out")
        )
    if len(bands) != n_bands:
        raise UserError(
            f"the images of {url} have {n_bands} bands, {len(bands)} are named"
            f"{' (' + ', '.join(bands) + ')' if bands else ''}; say bands: [...] in a mapping"
        )
    size = _size(url, one[:3] if last else one)
    if isinstance(reader, FitsFolder):
        reader = reader.in_order_of(bands)
    scaled: Factors = ()
    if isinstance(reader, ArrayFile):
        scale = mapping.pixel_scale or PIXEL_SCALE
        of_second = NONLENS if way == ("lens", "nonlens") else ""
        scaled, more = factors(
            reader.units(), mapping, bands, (first, second), scale, url, of_second
        )
        notes += more
    return PairSource(
        reader,
        way,
        first,
        second,
        (one[0], two[0]),
        bands,
        size,
        last,
        mapping,
        scaled,
        notes=notes,
    )


def _called(known: tuple[str, ...], shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Stacks with the first of these names that any has, whatever group of a file they lie in."""
    for name in known:
        hit = [n for n in shapes if n.rsplit("/", 1)[-1].lower() == name]
        if hit:
            return hit
    return []


def _as_said(name: str, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """The stack of this name; else those that end in it, whatever group of a file they lie in."""
    return [name] if name in shapes else [n for n in shapes if n.rsplit("/", 1)[-1] == name]


def _there(reader: ArrayFile | FitsFolder, said: str = "") -> str:
    """The stacks of images, and what is called like one (or ``said``), or as large, and is none."""
    found = [f"{n} {s}" for n, s in reader.shapes().items()]
    says = ", ".join(found) or "no stack of images"
    if not isinstance(reader, ArrayFile):
        return says
    known = {name for names in KNOWN.values() for name in names}
    columns = {n for n, s in reader.columns().items() if len(s) == 1 or s[-1] <= MOST_BANDS}

    def meant(path: str) -> bool:
        name = path.rsplit("/", 1)[-1]
        asked = said in (path, name, name.lower()) or {name, name.lower()} & known
        return bool(asked) or name not in columns

    others = [f"{p} is none, it is {what}" for p, what in reader.no_stacks().items() if meant(p)]
    return "; ".join([says, *others])


def _size(url: str, shape: tuple[int, ...]) -> int:
    y, x = shape[-2:]
    if y != x or x < SMALLEST:
        raise UserError(
            f"the images of {url} are {y} by {x} pixels; an audit needs squares of at least {SMALLEST}"
        )
    if shape[0] == 0:
        raise UserError(f"{url} holds no rows; there is nothing to audit")
    return x


def _with_record(source: PairSource) -> PairSource:
    """What the set does not say, and what stands for it, found in its first row."""
    if len(set(source.bands)) < len(source.bands):
        raise UserError(
            f"the bands of {source.url} are {', '.join(source.bands)}, one of them twice; say bands: [...] "
            "in a mapping"
        )
    table = source.table(source.first, 0, slice(0, 1))
    columns = [str(column) for column in table]
    shapes = source.reader.columns() if isinstance(source.reader, ArrayFile) else {}
    notes = not_used(source.mapping, isinstance(source.reader, BlobTable))
    notes += misshapen(shapes, columns, source.mapping, source.bands, source.lengths[0])
    notes += unfound(columns, source.mapping, source.bands, source.url, notes)
    if source.mapping.pixel_scale is None:
        notes += (
            f"pixel_scale: taken for {PIXEL_SCALE} arcsec, as of the Legacy Surveys; a mapping says another",
        )
    lacks, more = lacking(import_rows(table, source.mapping, source.bands))
    notes += more
    if not source.paired:
        notes = (
            *notes,
            "pairs: the set has two classes and no pairs, so nothing that compares a stamp with its own "
            "ctrl is tested",
        )
        most = max(source.lengths)
        if most > source.rows:
            notes = (
                *notes,
                f"pixels: {source.rows} of the {most} images of the larger class are looked at, one out "
                "of each of as many equal pieces of it",
            )
    return replace(source, lacks=lacks, notes=(*source.notes, *notes))
