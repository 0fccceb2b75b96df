"""Work that many audits of one base share: equal inputs to a pure function are computed once.

A planted defect leaves most of a set as it was. Readers fitted to what it left, and arcs drawn again by the
same parameters, come out the same; they are found by a digest of their inputs, so that nothing is taken
for equal that is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd

from darkhaloscope.audit.dose import DOSE_COLUMNS
from darkhaloscope.audit.rerender import join, redraw_plain

PURE = {
    "core_gate": "out_of_fold_scores",
    "dose": "out_of_fold_scores",
    "leak_map": "out_of_fold",
    "selection": "out_of_fold",
}
"""The readers, where the audit calls them."""

DESCRIBED = {
    "core_gate.OWN_MODEL_PAIRS": 10**9,  # no stratum trains a model of its own
    "core_gate.LEARNING_SIZES": (),  # the AUC at all pairs is of the scores at hand
    "diagnostics.dose_table": lambda *_: pd.DataFrame(columns=DOSE_COLUMNS),
}
"""What only fills tables of the report, and no cause and no required gate reads."""

MOST_ROWS = 100
"""Arcs of more rows than this are drawn again each time: they would fill the memory."""

OUTCOMES = ("arc_snr", "magnification", "total_injected_flux", "arc_flux_total")
"""What a row says of its arc and no arc is drawn from: a plant changes it and leaves the parameters."""


class Memo:
    """Results of pure functions by the digest of their arguments."""

    def __init__(self) -> None:
        self.results: dict[bytes, Any] = {}

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def found(*arguments: Any) -> Any:
            key = digest(function.__qualname__, *arguments)
            if key not in self.results:
                self.results[key] = function(*arguments)
            return self.results[key]

        return found

    def redraw(self, rows: dict[str, Any], spec: Any, tolerance: float) -> dict[str, Any]:
        """Rows drawn again, as :data:`~darkhaloscope.audit.rerender.Redraw`; few of them each by itself."""
        n = len(rows["hash"])
        if not 0 < n <= MOST_ROWS:
            return redraw_plain(rows, spec, tolerance)
        draw, said = self(redraw_plain), {k: v for k, v in rows.items() if k not in OUTCOMES}
        alone = ({k: v[i : i + 1] for k, v in said.items()} for i in range(n))
        return join([draw(row, spec, tolerance) for row in alone])


def digest(*values: Any) -> bytes:
    """Of arrays, mappings of arrays and whatever has a representation."""
    out = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray):
            out.update(f"{value.dtype}{value.shape}".encode())
            plain = value.astype(str) if value.dtype == object else value
            out.update(np.ascontiguousarray(plain).tobytes())
        elif isinstance(value, Mapping):
            out.update(digest(*(part for item in sorted(value.items()) for part in item)))
        else:
            out.update(repr(value).encode())
    return out.digest()


def _no_profiles(sums: Callable[..., Any]) -> Callable[..., Any]:
    """The sums behind the profiles of one pair: of all of them they are for tables alone."""

    def of_one(ds: Any, spec: Any, use: Any, region: Any, stratum: Any) -> Any:
        return sums(ds, spec, use[:1], region[:1], stratum[:1])

    return of_one


@contextmanager
def shared(verdict_alone: bool = False) -> Iterator[Memo]:
    """While it is open, the audit's readers remember what they were fitted to.

    ``verdict_alone`` leaves out what only describes: verdict, causes and tests stay as they are.
    """
    memo = Memo()
    with ExitStack() as stack:
        for room, name in PURE.items():
            module = import_module(f"darkhaloscope.audit.{room}")
            stack.enter_context(patch.object(module, name, memo(getattr(module, name))))
        if verdict_alone:
            for name, value in DESCRIBED.items():
                stack.enter_context(patch(f"darkhaloscope.audit.{name}", value))
            room = import_module("darkhaloscope.audit.measure")
            stack.enter_context(patch.object(room, "_group_sums", _no_profiles(room._group_sums)))
        yield memo
