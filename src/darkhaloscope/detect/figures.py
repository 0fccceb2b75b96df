"""Pictures of a detector: how it learned, what it is worth, where it looks."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from darkhaloscope.detect.assess import Assessment
from darkhaloscope.detect.evaluation import STRATA
from darkhaloscope.report import style

SHOWN = 8
"""Stamps whose patches are shown."""


def png(figure: Figure) -> bytes:
    """A figure as a PNG without a date."""
    held = io.BytesIO()
    with matplotlib.rc_context(style.RC):
        figure.savefig(held, format="png", dpi=120, metadata={"Software": None})
    return held.getvalue()


def training_figure(metrics: pd.DataFrame) -> Figure:
    """Loss and AUROC by epoch."""
    figure, axes = style.panel("Training", "epoch", "binary cross entropy", (5.2, 3.5))
    axes.plot(metrics["epoch"], metrics["train_loss"], color=style.EXPECTED, label="train loss")
    axes.plot(metrics["epoch"], metrics["val_loss"], color=style.OBSERVED, label="val loss")
    best = metrics.iloc[int(metrics["val_loss"].to_numpy(float).argmin())]
    axes.plot(best["epoch"], best["val_loss"], "o", color=style.OBSERVED, label="kept")
    axes.set_yscale("log")
    right = axes.twinx()
    right.plot(metrics["epoch"], metrics["val_auroc"], "--", color=style.INK, label="val AUROC")
    right.set_ylabel("AUROC")
    right.grid(visible=False)
    axes.plot([], [], "--", color=style.INK, label="val AUROC (right)")
    style.legend(figure, axes, 2)
    return figure


def evaluation_figure(found: Assessment) -> Figure:
    """The ROC curve, the areas by stratum, and the reliability curve, on test."""
    with matplotlib.rc_context(style.RC):
        figure = Figure(figsize=(12.5, 3.9), layout="constrained")
        roc, strata, reliable = figure.subplots(1, 3)
        test = found.evaluation.test
        least = 1.0 / len(test.neg)
        cut = np.sort(test.neg)[::-1]
        ranked = np.sort(test.pos)
        tpr = 1.0 - np.searchsorted(ranked, cut, side="right") / len(ranked)
        roc.plot(np.arange(1, len(cut) + 1) * least, tpr, color=style.OBSERVED)
        roc.axvspan(least, 10 * least, color=style.GRID, label="fewer than 10 false positives")
        roc.set(
            xscale="log", xlabel="false-positive rate", ylabel="true-positive rate", ylim=(0, 1.02)
        )
        roc.set_title("ROC", loc="left", fontweight="bold")
        roc.legend(frameon=False)
        table = found.evaluation.table
        lines = table[(table["quantity"] == "auroc") & (table["split"] == "test")]
        lines = lines[lines["axis"].isin(["", *STRATA])].iloc[::-1]
        y = np.arange(len(lines))
        value = lines["value"].to_numpy(float)
        ends = [np.abs(lines[end].to_numpy(float) - value) for end in ("lo", "hi")]
        strata.errorbar(value, y, xerr=np.nan_to_num(ends), fmt="o", color=style.OBSERVED)
        names = [f"{a} {s}".strip() for a, s in zip(lines["axis"], lines["stratum"], strict=True)]
        strata.set_yticks(y, names, fontsize=8)
        strata.set_xlabel("AUROC")
        strata.set_title("By stratum", loc="left", fontweight="bold")
        curve = found.evaluation.reliability.curve
        reliable.plot([0, 1], [0, 1], color=style.MUTED, lw=1)
        reliable.plot(curve["probability"], curve["fraction"], "o-", color=style.OBSERVED)
        error = found.evaluation.reliability
        reliable.set(xlabel="stated probability", ylabel="fraction with an arc")
        reliable.set_title(
            f"Calibration error {error.error:.3f} [{error.lo:.3f}, {error.hi:.3f}]",
            loc="left",
            fontweight="bold",
        )
    return figure


def looked_figure(found: Assessment) -> Figure:
    """Some stamps, what hiding each patch costs, and the arcs that their parameters promise."""
    images, arcs, cost = found.looked
    n = min(SHOWN, len(images))
    with matplotlib.rc_context(style.RC):
        figure = Figure(figsize=(1.6 * max(n, 1), 5.0), layout="constrained")
        axes = figure.subplots(3, max(n, 1), squeeze=False)
        for row, name in enumerate(("stamp", "cost of hiding", "arc expected")):
            axes[row, 0].set_ylabel(name)
        for k in range(n):
            shown = images[k].mean(axis=0)
            lo, hi = np.percentile(shown, (1, 99.5))
            axes[0, k].imshow(shown, origin="lower", cmap="gray", vmin=lo, vmax=hi)
            axes[1, k].imshow(cost[k], origin="lower", cmap="viridis")
            axes[2, k].imshow(arcs[k], origin="lower", cmap="viridis")
        for one in axes.ravel():
            one.set(xticks=[], yticks=[])
            one.grid(visible=False)
    return figure
