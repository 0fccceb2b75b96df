"""Where the files of a release lie.

The Legacy Surveys lay a release out as (https://www.legacysurvey.org/dr10/files/)::

    {root}/{hemisphere}/coadd/{AAA}/{brick}/legacysurvey-{brick}-{kind}-{band}.fits.fz
    {root}/{hemisphere}/tractor/{AAA}/tractor-{brick}.fits
    {root}/{hemisphere}/tractor/{AAA}/brick-{brick}.sha256sum

with AAA the first three letters of the brick's name. DR6 and older have no hemisphere. A user's own
cache often holds the same files in one folder: the layout ``flat``.

Addresses are fsspec's: a local path, ``s3://``, ``http://``, ``memory://`` and so on. Credentials
and endpoints come from the environment, never from an argument: botocore reads ``AWS_ENDPOINT_URL``
(or ``AWS_ENDPOINT_URL_S3``), ``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE`` and the like by itself, and
fsspec reads ``FSSPEC_S3_ANON=true`` for a public bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from darkhaloscope.errors import UserError

DECLARABLE_ABSENT = frozenset({"maskbits", "psfsize"})
"""Kinds of files that old releases do not have, so that an experiment may declare them absent."""

_WITHOUT_BAND = frozenset({"maskbits"})


@dataclass(frozen=True)
class Survey:
    """One release, as it lies on a disk, a server or an object store.

    Parameters
    ----------
    root : str
        Any fsspec URL or local path of the folder that holds ``south/`` and ``north/`` (or, where
        ``hemisphere`` is None, ``coadd/``; or, where ``layout`` is ``flat``, the files).
    hemisphere : str or None
        ``south``, ``north``, or None for releases without that folder (DR6 and older).
    bands : tuple of str
        The bands that are read, in the order of the arrays.
    absent : frozenset of str
        Kinds of files that this release does not have: of ``maskbits`` and ``psfsize``.
    layout : {'release', 'flat'}
        ``flat``: all files in one folder.
    release : str or None
        Name of the release, e.g. ``dr10``: it picks the table of mask bits for files that do not
        say.

    Raises
    ------
    UserError
        For no bands, repeated bands, an unknown layout, or a kind that cannot be declared absent.
    """

    root: str
    hemisphere: str | None = "south"
    bands: tuple[str, ...] = ("g", "r", "z")
    absent: frozenset[str] = frozenset()
    layout: Literal["release", "flat"] = "release"
    release: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "bands", tuple(self.bands))
        object.__setattr__(self, "absent", frozenset(self.absent))
        if not self.bands or len(set(self.bands)) != len(self.bands):
            raise UserError(f"survey bands must be named once each, not {list(self.bands)}.")
        if unknown := sorted(self.absent - DECLARABLE_ABSENT):
            raise UserError(
                f"files of kind {unknown[0]!r} cannot be declared absent; "
                f"only {' and '.join(sorted(DECLARABLE_ABSENT))} can."
            )
        if self.layout not in ("release", "flat"):
            raise UserError(f"survey layout is 'release' or 'flat', not {self.layout!r}.")

    def url(self, kind: str, brick: str, band: str | None = None) -> str:
        """Address of one coadd file.

        ``kind`` is ``image``, ``invvar``, ``psfsize``, ``maskbits`` ...; ``band`` is ignored for
        ``maskbits``, which has none, and needed for the others.
        """
        stem = f"legacysurvey-{brick}-{kind}"
        if kind not in _WITHOUT_BAND:
            if band is None:
                raise ValueError(f"coadds of kind {kind!r} are per band: give one.")
            stem = f"{stem}-{band}"
        return self._join("coadd", f"{brick[:3]}/{brick}", f"{stem}.fits.fz")

    def tractor_url(self, brick: str) -> str:
        """Address of the brick's tractor catalogue."""
        return self._join("tractor", brick[:3], f"tractor-{brick}.fits")

    def checksums_url(self, brick: str) -> str:
        """Address of the sha256 sums of the brick's files."""
        return self._join("tractor", brick[:3], f"brick-{brick}.sha256sum")

    def _join(self, tree: str, folder: str, name: str) -> str:
        root = self.root if self.root.endswith("://") else self.root.rstrip("/") + "/"
        if self.layout == "flat":
            return f"{root}{name}"
        hemisphere = f"{self.hemisphere}/" if self.hemisphere else ""
        return f"{root}{hemisphere}{tree}/{folder}/{name}"
