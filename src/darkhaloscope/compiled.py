"""Compiled functions, kept on disk under the state of their sources.

numba keeps machine code as long as the file that defines a function stays as it is. A change in another
file, of a function that is called or of a constant, leaves the old code in use without a word. Here the
cache of a function moves when any file of its folder changes.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit
from numba.core import config as numba_config

config: Any = numba_config
"""numba's settings; its own types do not list them."""

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Decorator: ``numba.njit`` without the interpreter's lock, its machine code kept on disk.

    It is kept in ``NUMBA_CACHE_DIR``, else beside the sources, else in the user's cache.
    """
    before = config.CACHE_DIR
    config.CACHE_DIR = str(_cache(Path(function.__code__.co_filename).parent))
    try:
        return cast("F", njit(cache=True, nogil=True)(function))
    finally:
        config.CACHE_DIR = before  # other packages keep their own


@functools.cache
def _cache(sources: Path) -> Path:
    digest = hashlib.sha256()
    for path in sorted(sources.glob("*.py")):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return _base(sources) / f"numba-{digest.hexdigest()[:16]}"


def _base(sources: Path) -> Path:
    if named := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(named)
    if os.access(sources, os.W_OK):
        return sources / "__pycache__"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darkhaloscope"
