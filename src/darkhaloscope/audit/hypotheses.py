"""Where p-values meet: the tests of an audit that have one, corrected together.

A test asks whether an effect is larger than its tolerance, one-sided; its p-value comes from Student's t
with regions - 1 degrees of freedom. Holm's step-down procedure (1979, Scand. J. Statist. 6, 65) keeps
the chance of any false alarm of these tests in one audit below :data:`FAMILY_RISK`, however they depend on
each other.

Four more families decide by intervals, each with at most the same risk: closure's effects in every band
(``causes.outcome_of``), the two fractions of arcs that are off (``gates.scatter_gate``,
``gates.localisation_gate``), the strata of the core gate (``conclude``) and single arcs (``singles``). The
designed risk of an audit is the sum over the families, 0.5 %, where every effect is exactly as large as
its limit; in a set without effects it is less. Checks of rows, and of columns against pixels, compare
numbers that have no scatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtr

from darkhaloscope.audit.causes import Cause
from darkhaloscope.audit.intervals import FAMILY_RISK, Floats

TEST_COLUMNS = ["test", "where", "value", "lo", "hi", "limit", "n", "p", "p_holm"]


@dataclass(frozen=True)
class Hypothesis:
    """Is ``value`` above ``limit``? ``says`` is what it means if so, ``kind`` a cause's."""

    name: str
    where: str
    value: float
    interval: tuple[float, float]
    limit: float
    n: int
    p: float
    kind: str
    says: str


def p_above(value: float, limit: float, error: float, n: int) -> float:
    """Chance of a ``value`` so high, or higher, if the truth is ``limit``; ``n`` regions.

    Missing where there is no error or only one region.
    """
    if not (np.isfinite(value) and np.isfinite(error)) or n < 2 or error <= 0:
        return float("nan")
    return float(stdtr(n - 1, (limit - value) / error))


def p_beyond(value: float, limit: float, error: float, n: int) -> float:
    """As :func:`p_above`, of a ``value`` of either sign; missing stays missing."""
    return float(np.minimum(1.0, 2.0 * p_above(abs(value), limit, error, n)))


def holm(p: Sequence[float] | Floats) -> Floats:
    """Adjusted p-values, in the order given; missing ones stay missing and cost nothing."""
    values = np.asarray(p, dtype=float)
    out = np.full(len(values), np.nan)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)
    out[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return out


def without_p(tests: Sequence[Hypothesis]) -> list[str]:
    """What was asked and could not be answered, a sentence for each name: a missing p-value is no pass."""
    open_tests = [t for t in tests if not np.isfinite(t.p)]
    return [
        f"{name}: {sum(t.name == name for t in open_tests)} tests without a p-value, the first: {first}"
        for name, first in {t.name: t.where for t in reversed(open_tests)}.items()
    ]


def judged(tests: Sequence[Hypothesis]) -> tuple[pd.DataFrame, list[Cause]]:
    """All tests as a table, and a cause for each name that is certainly above its limit.

    Of the tests of one name the one with the smallest p-value speaks.
    """
    adjusted = holm([t.p for t in tests])
    table = pd.DataFrame(
        [
            (t.name, t.where, t.value, *t.interval, t.limit, t.n, t.p, a)
            for t, a in zip(tests, adjusted, strict=True)
        ],
        columns=TEST_COLUMNS,
    )
    causes: dict[str, Cause] = {}
    for k in np.argsort(np.nan_to_num(adjusted, nan=1.0), kind="stable"):
        test = tests[int(k)]
        if not adjusted[k] < FAMILY_RISK or test.name in causes:
            continue
        text = f"{test.where}: {test.value:.3g} (limit {test.limit:g}), p = {adjusted[k]:.1e} after Holm"
        causes[test.name] = Cause(
            test.name, test.value, test.interval, f"{test.says}; {text}", test.kind,
            abs(test.value) / test.limit if test.limit else 1.0, test.says,
        )  # fmt: skip
    return table, list(causes.values())
