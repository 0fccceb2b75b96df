"""A copy of what is read of some bricks: whole, verified, resumed, and read like the release."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from small_brick import BRICK, SIZE, XS, YS, path_of, sky, write_brick

from darkhaloscope.survey import Reading, Survey, read_cutouts
from darkhaloscope.survey.cache import cache_brick

FILES = 10


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_brick(tmp_path / "release")
    return tmp_path / "release"


def list_sums(root: Path, **wrong: str) -> bytes:
    """The release's own list of checksums."""
    digests = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in root.rglob("*.fz")}
    text = "".join(f"{wrong.get(n[-12:-8], d)} *{n}\n" for n, d in sorted(digests.items()))
    place = Path(Survey(str(root)).checksums_url(BRICK))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    return text.encode()


@pytest.mark.parametrize("layout", ["release", "flat"])
@pytest.mark.parametrize("has_list", [True, False])
def test_a_copy_is_read_like_the_release(
    root: Path, tmp_path: Path, layout: str, has_list: bool
) -> None:
    listed = list_sums(root) if has_list else None
    release = Survey(str(root))
    copy = Survey(str(tmp_path / "copy"), layout=layout)  # type: ignore[arg-type]
    done = cache_brick(release, copy, BRICK)
    sizes = sum(f.stat().st_size for f in root.rglob("*.fz"))
    assert (done.copied, done.kept, done.absent, done.bytes) == (FILES, 0, 0, sizes)
    assert done.verified is has_list
    assert not done.failed
    if layout == "flat":
        assert all(f.parent == tmp_path / "copy" for f in (tmp_path / "copy").rglob("*.*"))
    if has_list:
        assert Path(copy.checksums_url(BRICK)).read_bytes() == listed
    where = (BRICK, *sky(XS, YS), SIZE)
    right = read_cutouts(release, *where)
    out = read_cutouts(copy, *where, reading=Reading(checksums=True))
    assert out.ok.all()
    for name in ("image", "invvar", "psfsize", "bad_pixel_frac"):
        assert getattr(out, name).tobytes() == getattr(right, name).tobytes()
    again = cache_brick(release, copy, BRICK)
    assert (again.copied, again.kept, again.bytes) == (0, FILES, 0)


@pytest.mark.parametrize("has_list", [True, False])
def test_what_is_not_whole_is_copied_again(root: Path, tmp_path: Path, has_list: bool) -> None:
    if has_list:
        list_sums(root)
    release, copy = Survey(str(root)), Survey(str(tmp_path / "copy"))
    cache_brick(release, copy, BRICK)
    whole = {f: f.read_bytes() for f in (tmp_path / "copy").rglob("*.*") if f.is_file()}
    short, gone = (path_of(tmp_path / "copy", "image", band) for band in "gr")
    short.write_bytes(short.read_bytes()[:-1])
    gone.unlink()
    assert cache_brick(release, copy, BRICK).copied == 2
    assert {f: f.read_bytes() for f in whole} == whole
    # Killed before the list was written: nobody knows what the files are.
    Path(copy.checksums_url(BRICK)).unlink()
    assert cache_brick(release, copy, BRICK).copied == FILES
    assert {f: f.read_bytes() for f in whole} == whole


def test_a_file_that_is_not_the_releases_is_not_copied(root: Path, tmp_path: Path) -> None:
    list_sums(root, **{"ge-r": "0" * 64})
    release, copy = Survey(str(root)), Survey(str(tmp_path / "copy"))
    done = cache_brick(release, copy, BRICK)
    assert done.copied == FILES - 1
    assert len(done.failed) == 1
    assert "image-r.fits.fz was not copied: its sha256" in done.failed[0]
    assert not path_of(tmp_path / "copy", "image", "r").exists()
    assert not Path(copy.checksums_url(BRICK)).exists()
    list_sums(root)
    assert not cache_brick(release, copy, BRICK).failed
    assert path_of(tmp_path / "copy", "image", "r").exists()


def test_a_release_that_was_replaced_is_copied_again(root: Path, tmp_path: Path) -> None:
    list_sums(root)
    release, copy = Survey(str(root)), Survey(str(tmp_path / "copy"))
    cache_brick(release, copy, BRICK)
    changed = path_of(root, "image", "r")
    raw = bytearray(changed.read_bytes())
    raw[-2881] ^= 1
    changed.write_bytes(bytes(raw))  # as long as before
    list_sums(root)
    assert cache_brick(release, copy, BRICK).copied == FILES
    assert path_of(tmp_path / "copy", "image", "r").read_bytes() == bytes(raw)


def test_only_what_is_needed_and_there_is_copied(root: Path, tmp_path: Path) -> None:
    path_of(root, "image", "g").unlink()
    release = Survey(str(root), bands=("g", "r"), absent=frozenset({"maskbits"}))
    copy = Survey("memory://copy", bands=("g", "r"), absent=frozenset({"maskbits"}))
    done = cache_brick(release, copy, BRICK)
    assert (done.copied, done.absent) == (5, 1)
    nowhere = cache_brick(release, copy, "0000p000")
    assert (nowhere.copied, nowhere.absent, nowhere.failed) == (0, 6, ())


def test_another_experiment_s_bands_join_a_copy(root: Path, tmp_path: Path) -> None:
    """Where the release has no list of checksums, the copy's own keeps those of both."""
    where = (BRICK, *sky(XS, YS), SIZE)
    for bands in (("g", "r"), ("r", "z")):
        release, copy = (Survey(str(p), bands=bands) for p in (root, tmp_path / "copy"))
        cache_brick(release, copy, BRICK)
    whole = Survey(str(tmp_path / "copy"))
    assert read_cutouts(whole, *where, reading=Reading(checksums=True)).ok.all()
    assert cache_brick(Survey(str(root)), whole, BRICK).kept == FILES


def test_bricks_without_images_are_counted(root: Path, tmp_path: Path) -> None:
    copy = Survey(str(tmp_path / "copy"), bands=("i",))
    none = cache_brick(Survey(str(root), bands=("i",)), copy, BRICK)
    assert (none.images, none.copied) == (0, 1)  # its maskbits alone
    assert cache_brick(Survey(str(root)), Survey(str(tmp_path / "copy")), BRICK).images == 3
