"""Weights that turn the prior of a run into another: the ratio of the two densities at each row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.special import ndtr

from darkhaloscope.completeness.rows import Injections
from darkhaloscope.config import Experiment
from darkhaloscope.draw import Draw, parse_draw
from darkhaloscope.errors import UserError
from darkhaloscope.survey.targets import by_lower_name, numbers, read_table

Floats = NDArray[np.float64]

PARAMETERS = {
    "theta_e": ("lens", "theta_e", "arcsec"),
    "lens_q": ("lens", "q", ""),
    "src_dmag": ("source", "dmag", "mag"),
    "src_reff": ("source", "reff", "arcsec"),
    "src_n": ("source", "n", ""),
    "src_q": ("source", "q", ""),
}
"""Columns whose prior the experiment states: its section, key and unit."""

_ROUNDING = 1e-6
"""Columns are float32: a value may lie so much outside its bounds, relatively."""


@dataclass(frozen=True)
class Table:
    """A density given by points, linear between them, 0 outside."""

    x: Floats
    density: Floats

    @property
    def bounds(self) -> tuple[float, float]:
        return float(self.x[0]), float(self.x[-1])

    def at(self, values: Floats) -> Floats:
        return np.interp(values, self.x, self.density, left=0.0, right=0.0)


@dataclass(frozen=True)
class Prior:
    """Another prior of one parameter: a distribution of the experiment's language, or a table."""

    column: str
    law: Draw | Table
    text: str

    @property
    def bounds(self) -> tuple[float, float]:
        return self.law.bounds if isinstance(self.law, Table) else bounds(self.law)

    def at(self, values: Floats) -> Floats:
        return self.law.at(values) if isinstance(self.law, Table) else density(self.law, values)


def bounds(law: Draw) -> tuple[float, float]:
    """Between which a continuous distribution draws."""
    return law.values[-2], law.values[-1]


def density(law: Draw, values: Floats) -> Floats:
    """Probability density of a continuous distribution at ``values``, in one over the parameter's unit."""
    low, high = bounds(law)
    inside = (values >= low - _ROUNDING * abs(low)) & (values <= high + _ROUNDING * abs(high))
    if law.kind == "uniform":
        return inside / (high - low)
    if law.kind == "log_uniform":
        return inside / (np.where(inside, values, 1.0) * math.log(high / low))
    mean, sd = law.values[:2]
    mass = float(ndtr((high - mean) / sd) - ndtr((low - mean) / sd))
    bell = np.exp(-0.5 * ((values - mean) / sd) ** 2) / (sd * math.sqrt(2 * math.pi))
    return np.where(inside, bell / mass, 0.0)


def parse_priors(texts: Sequence[str]) -> list[Prior]:
    """Read ``NAME=DISTRIBUTION``, e.g. ``theta_e={log_uniform: [0.5, 2.5]}``, or ``NAME=TABLE.csv``.

    A table has the columns NAME and ``density``, in any unit of density.

    Raises
    ------
    UserError
        A name is none of :data:`PARAMETERS`, or what follows is no continuous distribution and no table.
    """
    made: list[Prior] = []
    for text in texts:
        name, equals, rule = (part.strip() for part in text.partition("="))
        if name not in PARAMETERS or not equals or not rule:
            raise UserError(
                f"the prior {text!r} is not NAME=DISTRIBUTION with a name of {', '.join(PARAMETERS)}, like "
                "'theta_e={log_uniform: [0.5, 2.5]}'"
            )
        if name in [prior.column for prior in made]:
            raise UserError(f"the prior of {name} is given twice; give it once")
        is_table = rule.endswith((".csv", ".parquet", ".fits"))
        law = _table(rule, name) if is_table else _law(rule, name)
        made.append(Prior(name, law, f"{name}={rule}"))
    return made


def _law(rule: str, name: str) -> Draw:
    try:
        law = parse_draw(yaml.safe_load(rule), -math.inf, math.inf, PARAMETERS[name][2])
    except yaml.YAMLError:
        raise UserError(f"the prior of {name}, {rule!r}, is not valid YAML") from None
    except ValueError as error:
        raise UserError(f"the prior of {name}: {error}") from None
    if law.kind not in _CONTINUOUS:
        raise UserError(
            f"the prior of {name} is a {law.kind}, which has no density; give {', '.join(_CONTINUOUS)} or "
            f"a table with the columns {name} and density"
        )
    return law


_CONTINUOUS = ("uniform", "log_uniform", "normal")


def _table(url: str, name: str) -> Table:
    table = read_table(url)
    lower = by_lower_name(table)
    if not {name, "density"} <= lower.keys():
        raise UserError(f"{url} is no table of a prior: it needs the columns {name} and density")
    x, height = numbers(table[lower[name]]), numbers(table[lower["density"]])
    order = np.argsort(x)
    x, height = x[order], height[order]
    good = len(x) > 1 and np.isfinite(x).all() and (np.diff(x) > 0).all()
    if not good or not (np.isfinite(height).all() and (height >= 0).all() and height.any()):
        raise UserError(
            f"{url}: the prior needs two or more values of {name}, each once, and densities that are numbers "
            "from 0 up, not all 0"
        )
    return Table(x, height / float(np.trapezoid(height, x)))


def prior_weights(rows: Injections, priors: Sequence[Prior]) -> Floats | None:
    """Weight of each row: the product of new over drawn densities; None without priors.

    Raises
    ------
    UserError
        The run did not draw a parameter from a continuous distribution, or not as widely as the prior.
    """
    if not priors:
        return None
    if rows.experiment is None or rows.experiment.plan.joint is not None:
        raise UserError(
            "this run's parameters come from a joint table, so their densities are not known and no other "
            "prior can be weighed in"
        )
    weight = np.ones(len(rows))
    for prior in priors:
        drawn = _drawn(rows.experiment, prior.column)
        (low, high), (least, most) = bounds(drawn), prior.bounds
        if least < low - _ROUNDING * abs(low) or most > high + _ROUNDING * abs(high):
            raise UserError(
                f"the prior {prior.text} reaches from {least:g} to {most:g}, and the run drew {prior.column} "
                f"from {low:g} to {high:g} only: beyond that nothing is measured; narrow the prior"
            )
        values = rows.columns[prior.column].values.astype(float)
        known = np.isfinite(values)
        here = density(drawn, np.where(known, values, low))
        ratio = np.divide(
            prior.at(np.where(known, values, low)), here, out=np.zeros(len(rows)), where=here > 0
        )
        weight *= np.where(known, ratio, 0.0)
    if not weight.any():
        raise UserError("no test injection has any weight under the prior; widen it")
    return weight


def _drawn(experiment: Experiment, column: str) -> Draw:
    section, key, _ = PARAMETERS[column]
    law: Draw = getattr(getattr(experiment, section), key)
    if law.kind not in _CONTINUOUS:
        raise UserError(
            f"the run's {section}.{key} is a {law.kind} and no continuous distribution, so the ratio of a "
            "prior to it is not known"
        )
    if column == "src_reff" and experiment.fix.src_reff_max is not None:
        raise UserError(
            "the run capped src_reff (fix.src_reff_max), so what it was drawn from is not known"
        )
    return law
