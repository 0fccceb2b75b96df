"""What fraction of a run's injections is recovered: a table, pictures, a page, a function."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from darkhaloscope import __version__, storage
from darkhaloscope import completeness as of
from darkhaloscope.completeness.function import dump
from darkhaloscope.completeness.measure import OVER
from darkhaloscope.errors import UserError

SEED = 0
"""Of the resampling, where the run's experiment says none."""


def completeness(
    run: str,
    *,
    scores: str | None = None,
    fpr: float | None = None,
    criterion: str | None = None,
    out: str | None = None,
    over: Sequence[str] = OVER,
    priors: Sequence[str] = (),
    console: Console | None = None,
) -> of.Measured:
    """Measure the completeness of a run on its test split.

    Parameters
    ----------
    run : str
        A finished run's folder.
    scores : str, optional
        ``scores.parquet`` of a detector; recovered is a score above the threshold of ``fpr``. Each call is
        recorded in the detector's ``run.json``, as every look at test.
    fpr : float, optional
        False-positive rate on val's galaxies; 1e-3 if not given.
    criterion : str, optional
        Instead of scores: ``arc_snr > 10``.
    out : str, optional
        Folder of the results; ``completeness`` below the run if not given.
    over : sequence of str
        Axes of the function.
    priors : sequence of str
        Other priors: ``theta_e={log_uniform: [0.5, 2.5]}``.

    Raises
    ------
    UserError
        Of scores and criterion not exactly one is given, or as :func:`darkhaloscope.completeness.measure`.
    """
    console = console or Console()
    if (scores is None) == (criterion is None):
        raise UserError(
            "say what recovered means: --scores FILE (of dhs score) or --criterion 'arc_snr > 10', "
            "one of the two"
        )
    if criterion is not None and fpr is not None:
        raise UserError("--fpr belongs to --scores; a criterion has no threshold to set")
    rule = None if criterion is None else of.parse_criterion(criterion)
    weighed = of.parse_priors(priors)
    rows = of.read_injections(run)
    seed = rows.experiment.seed if rows.experiment is not None else SEED
    if scores is not None:
        table, metadata = of.read_scores(scores)
        rate = 1e-3 if fpr is None else fpr
        uses = record_look(scores, metadata, rows.identity)
        recovered = of.by_scores(rows, table, metadata, rate, seed=seed, label=scores)
        recovered.facts["test_uses"] = uses
    else:
        assert rule is not None
        recovered = of.by_criterion(rows, rule)
    found = of.measure(rows, recovered, over=over, priors=weighed, seed=seed)
    if scores is not None:
        found.notes.append(_said(recovered.facts["test_uses"]))
    folder = storage.absolute((out or storage.join(run, "completeness")).rstrip("/"))
    page = _write(folder, run, found)
    for line in (found.sentence, *found.notes):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print(f"page:    {page}", soft_wrap=True, highlight=False, markup=False)
    return found


def record_look(scores: str, metadata: Mapping[str, Any], identity: str) -> int | None:
    """Write down this look at test in the detector's folder; None where the folder is not found.

    Scores of another data set are refused later, and show nothing of test.
    """
    folder = of.detector_of(scores, metadata)
    if folder is None or metadata.get("data_identity") != identity:
        return None
    digest = str(metadata.get("detector", ""))
    return of.record_test_use(folder, "completeness", data=identity, detector=digest)


def _said(uses: int | None) -> str:
    if uses is None:
        return (
            "This look at test is recorded nowhere: the folder of the detector that made these scores is "
            "neither beside them nor where they say; score again with dhs score."
        )
    return f"Counting this one, test was shown to this detector {uses} times."


def _write(folder: str, run: str, found: of.Measured) -> str:
    """Tables, pictures, function and page; gives the page's place."""
    from darkhaloscope.completeness.page import completeness_page  # matplotlib is slow to import

    page, figures = completeness_page(run.rstrip("/").rsplit("/", 1)[-1], found)
    parquet = io.BytesIO()
    found.table.to_parquet(parquet, index=False)
    files = {
        "completeness.csv": found.table.to_csv(index=False).encode(),
        "completeness.parquet": parquet.getvalue(),
        "removed.csv": found.removed.to_csv(index=False).encode(),
        "completeness.json": dump(found.functions, __version__).encode(),
        "completeness.html": page.encode(),
    }
    for name, figure in figures.items():
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
        files[f"{name}.png"] = picture.getvalue()
    for name, data in files.items():
        storage.write(storage.join(folder, name), data)
    return storage.join(folder, "completeness.html")
