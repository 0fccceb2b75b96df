"""The digest of a document: the one way in which experiments, arms and detectors are told apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def digest_of(document: Mapping[str, Any]) -> str:
    """sha256 (hex) of a document's canonical JSON: keys sorted, no spaces, ASCII alone.

    Parameters
    ----------
    document : mapping
        Plain JSON values, every default filled in.

    Raises
    ------
    ValueError
        A number is not finite: JSON has no word for it.
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
