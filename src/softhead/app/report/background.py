"""The sections of a report on where a model comes from: its data, the choice of its penalty, its fit."""

import platform
from importlib.metadata import version
from typing import Any

import numpy as np

from softhead._version import __version__
from softhead.app.report import describe, figures
from softhead.app.report.describe import count, figure, short
from softhead.app.report.subject import Subject

Part = dict[str, Any]


def data(subject: Subject) -> Part:
    """Return what the data hold."""
    data, labels, most = subject.data, subject.labels, 10
    if data.target is None:
        raise ValueError("a report needs a target")
    codes = np.searchsorted(subject.classifier.classes_, data.target.astype(subject.classifier.classes_.dtype))
    counts = np.bincount(codes, minlength=len(labels))
    order = np.argsort(-counts, kind="stable")
    table = not isinstance(data.features, np.ndarray)
    listed = describe.columns(data.features) if table else []
    if table:
        held = f"{count(data.n_rows, 'row')} of {count(data.features.num_columns, 'column')}"
    else:
        shape = " by ".join(map(str, data.features.shape[1:]))
        held = f"{count(data.n_rows, 'row')} of {shape} numbers ({data.features.dtype})"
    scored = "they were held out from the training" if subject.held_out else "all rows that were given"
    caption = "All classes" if len(labels) <= most else f"The {most} largest of {len(labels)} classes"
    smallest = f"; the smallest has {count(int(counts.min()), 'row')}" if len(labels) > most else ""
    hidden = data.features.num_columns - len(listed) if table else 0
    return {
        "lead": f"{held} beside the target “{short(data.target_name)}”. Scored are {len(subject.rows):,}: {scored}.",
        "balance_caption": caption + smallest,
        "balance": [
            {
                "name": labels[c],
                "text": f"{counts[c]:,}",
                "width": f"{100 * counts[c] / counts.max():.1f}",
                "style": "plain",
            }
            for c in order[:most]
        ],
        "columns": listed,
        "columns_caption": "The columns" + (f"; {hidden} more are not listed" if hidden else ""),
    }


def path(subject: Subject) -> Part | None:
    """Return the sweep that chose C, None where there was none or no two finite C."""
    sweep = subject.record.sweep if subject.record else None
    points = [point for point in sweep or [] if np.isfinite(point["C"])]
    if not sweep or len(points) < 2:
        return None
    chosen = next((i for i, point in enumerate(points) if point["chosen"]), None)
    Cs, losses, spread, norms = (
        [point[name] for point in points] for name in ("C", "log_loss", "log_loss_std", "coef_norm")
    )
    best = next(point for point in sweep if point["chosen"])
    edge = "It is at the end of the range: beyond it may be a better one. " if best in (sweep[0], sweep[-1]) else ""
    return {
        "lead": f"C = {figure(best['C'])} has the smallest log loss in cross-validation, {figure(best['log_loss'])}, "
        f"of {len(sweep)} that were tried. {edge}Every fit comes with a bound on its distance to the optimum.",
        "loss": figures.curve(
            "Log loss in cross-validation",
            f"The smallest is {figure(best['log_loss'])} at C = {figure(best['C'])}.",
            Cs,
            losses,
            spread=spread,
            marked=chosen,
            x_label="C",
            y_label="log loss",
            log_x=True,
            points=True,
        ),
        "loss_caption": "Mean over the folds and one standard deviation to either side; the circle is the choice.",
        "norm": figures.curve(
            "Norm of the coefficients",
            f"It grows from {figure(norms[0])} to {figure(norms[-1])} as the penalty weakens.",
            Cs,
            norms,
            marked=chosen,
            x_label="C",
            y_label="norm of the coefficients",
            log_x=True,
            log_y=min(norms) > 0.0,
            points=True,
        ),
        "norm_caption": "The weaker the penalty, the larger the coefficients.",
        "points_caption": f"The figures of all {len(sweep)} C",
        "points": [
            {
                "C": figure(point["C"]) + (" (chosen)" if point["chosen"] else ""),
                "log_loss": figure(point["log_loss"]),
                "spread": figure(point["log_loss_std"]),
                "norm": figure(point["coef_norm"]),
                "gap": figure(point["gap"]),
            }
            for point in sweep
        ],
    }


def model(subject: Subject) -> Part:
    """Return what the model is, how close to its optimum, and by what it was made."""
    classifier, record = subject.classifier, subject.record
    bounded = np.isfinite(classifier.gap_)
    lead = (
        f"The objective is at most {figure(classifier.gap_)} above its minimum: this is certified, not estimated."
        if bounded
        else "Without a penalty no bound on the distance to the optimum exists."
    )
    rows = [
        ("file", f"{short(subject.path.name)}, {count(subject.path.stat().st_size, 'byte')}"),
        ("steps", ", ".join(type(step).__name__ for _, step in subject.model.steps)),
        ("features", f"{classifier.n_features_in_:,}"),
        ("C", figure(classifier.C)),
        ("temperature", figure(float(getattr(classifier, "temperature_", 1.0)))),
        ("status", classifier.status_),
        ("objective", figure(classifier.objective_)),
        ("gap", figure(classifier.gap_)),
        ("passes over the data", figure(classifier.n_passes_)),
        ("coefficients", f"{len(subject.labels):,} by {classifier.n_features_in_:,}, {classifier.coef_.dtype}"),
    ]
    if record:
        rows.insert(1, ("trained on", f"{short(record.data)}, {count(record.rows - int(record.mask().sum()), 'row')}"))
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "scikit-learn", "numba"))
    rows.append(("versions", f"softhead {__version__}, Python {platform.python_version()}, {libraries}"))
    return {"lead": lead, "rows": rows}
