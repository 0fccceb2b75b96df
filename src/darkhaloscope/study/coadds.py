"""Which coadds a study reads: results are of pixels, and hold for no others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from darkhaloscope import storage
from darkhaloscope.config import Experiment
from darkhaloscope.inject import survey_of


def fingerprint(experiment: Experiment, bricks: Sequence[str]) -> str:
    """What the coadds of some bricks are, without reading them: a sha256 (hex).

    Of each file its size; and the release's list of checksums of its brick or, where there is none, what
    changes when a file is replaced (ETag, time): such coadds count as others when they are copied.

    Raises
    ------
    StorageError
        The survey is out of reach.
    """
    survey = survey_of(experiment)
    kinds = [kind for kind in ("image", "invvar", "psfsize") if kind not in survey.absent]
    keys: list[tuple[str, str | None]] = [(kind, band) for kind in kinds for band in survey.bands]
    if "maskbits" not in survey.absent:
        keys.append(("maskbits", None))
    listed = storage.read_all([survey.checksums_url(brick) for brick in bricks])
    urls = [survey.url(kind, brick, band) for brick in bricks for kind, band in keys]
    stats = iter(storage.stat_all(urls))
    digest = hashlib.sha256()
    for brick, sums in zip(bricks, listed, strict=True):
        known = isinstance(sums, bytes)
        digest.update(f"{brick}\n".encode() + (sums if isinstance(sums, bytes) else b""))
        for _ in keys:
            found = next(stats)
            if isinstance(found, storage.StorageError) and found.trouble != "lasting":
                raise found
            if isinstance(found, storage.Stat):
                said = repr((found.size, () if known else found.version))
            else:
                said = type(
                    found
                ).__name__  # not there, or refused: what is so is a part of what it is
            digest.update(f"{said}\n".encode())
    return digest.hexdigest()
