"""Scores of every image of a run that has pixels, as one Parquet file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from darkhaloscope import storage, store
from darkhaloscope.detect.detector import Detector
from darkhaloscope.detect.loader import Loader
from darkhaloscope.detect.training import scored
from darkhaloscope.errors import UserError
from darkhaloscope.variables import NEGATIVE_KINDS, SPLITS
from darkhaloscope.views import CTRL, STAMP, Reading

IMAGES = ("ctrl", "stamp")
ALL_SPLITS = SPLITS
MATCHED = NEGATIVE_KINDS.index("core_matched")


def loader_of(
    detector: Detector,
    run: str,
    split: str | None,
    workers: int = 0,
    reading: Reading | None = None,
) -> Loader:
    """A loader that reads a run as a detector was trained to, or as ``reading`` says.

    Without a ``split`` it reads the rows that it is asked for, whatever classes the run has.

    Raises
    ------
    UserError
        The run has other bands or another size.
    """
    loader = Loader(
        run,
        reading or detector.reading,
        split=split,
        seed=0,
        workers=workers,
        scale=detector.scale,
        aux_scale=detector.aux_scale,
    )
    if (loader.bands, loader.size) != (detector.bands, detector.size):
        raise UserError(
            f"the detector reads {''.join(detector.bands)} images of {detector.size} pixels, and {run} has "
            f"{''.join(loader.bands)} of {loader.size}; score a run like the one it was trained on"
        )
    return loader


def score_run(
    detector: Detector,
    run: str,
    *,
    splits: tuple[str, ...] = ALL_SPLITS,
    workers: int = 0,
    on_rows: Callable[[int, int], None] = lambda done, of: None,
) -> pd.DataFrame:
    """Calibrated log odds of each image of each row with pixels.

    Parameters
    ----------
    run : str
        A run's folder.
    splits : tuple of str
        Of ``train``, ``val``, ``test``, ``guard``.
    on_rows : callable
        Told (images done, all).

    Returns
    -------
    DataFrame
        A line an image, in stored order: ``brick``, ``slot``, ``image`` (``ctrl``; ``stamp`` of injections
        and of core-matched negatives), ``region_id``, ``region_split``, ``host_id``, ``score``; ``label``,
        whether it holds an arc, and ``row`` of the data set.
    """
    loader = loader_of(detector, run, None, workers)
    columns = loader.columns
    split = columns["region_split"].values
    wanted = np.isin(split, [SPLITS.index(name) for name in splits])
    rows = np.flatnonzero(wanted & columns["cutout_ok"].values.astype(bool))
    if not len(rows):
        raise UserError(f"{run} has no row with pixels in {', '.join(splits)}")
    done = 0

    def on_images(n: int) -> None:
        nonlocal done
        done += n
        on_rows(done, 2 * len(rows))

    seen = scored(detector.network, loader.in_order(rows), on_images=on_images)
    injected = columns["lens_model"].values[seen.row] > 0
    lit = injected.copy()
    if "negative_kind" in columns:
        lit |= columns["negative_kind"].values[seen.row] == MATCHED
    keep = (seen.image == CTRL) | lit  # a plain control's two images are one
    row, image = seen.row[keep], seen.image[keep]
    return pd.DataFrame(
        {
            "brick": columns["brick"].values[row].astype(object),
            "slot": columns["slot"].values[row].astype(np.int64),
            "image": np.array(IMAGES)[image],
            "region_id": columns["region_id"].values[row].astype(object),
            "region_split": np.array(SPLITS)[split[row]],
            "host_id": columns["host_id"].values[row].astype(np.int64),
            "score": detector.calibrated(seen.logit[keep]).astype(np.float32),
            "label": injected[keep] & (image == STAMP),
            "row": row,
        }
    )


def identity_of(run: str) -> str:
    """The identity of a run's data set."""
    return str(store.open_dataset(run).attrs.get("identity", ""))


def write_scores(
    url: str, table: pd.DataFrame, detector: Detector, identity: str, folder: str
) -> None:
    """Write scores with what they are of in the schema's metadata, key ``darkhaloscope``.

    ``folder`` is the detector's: whoever looks at test through these scores writes it down there.
    """
    facts = {
        "data_identity": identity,
        "detector": detector.digest,
        "folder": storage.absolute(folder),
        "view": detector.reading.model_dump(mode="json"),
        "score": "log odds at even odds, calibrated on val",
        "despite": detector.despite,
    }
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = {**(arrow.schema.metadata or {}), b"darkhaloscope": json.dumps(facts).encode()}
    held = io.BytesIO()
    pq.write_table(arrow.replace_schema_metadata(metadata), held)
    storage.write(url, held.getvalue())
