"""The report: one page that shows what a model knows, how sure it is, and where it errs."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from softhead._version import __version__
from softhead.app.evaluation import N_BINS, Evaluation
from softhead.app.report import background, performance
from softhead.app.report.describe import count, decimal, figure, parts, percent, short
from softhead.app.report.subject import Subject

Part = dict[str, Any]

# The figures by their names in `Figures`: name, how it is written, what it is.
_FIGURES: dict[str, tuple[str, Callable[[float], str], str]] = {
    "accuracy": ("accuracy", percent, "share of rows whose most probable class is the true one"),
    "log_loss": ("log loss", decimal, "mean of the negative logarithm of the true class's probability, in nats"),
    "brier_score": ("Brier score", decimal, "mean squared distance of the probabilities from the true class, 0 to 2"),
    "calibration_error": (
        "calibration error",
        percent,
        f"confidence against accuracy, {N_BINS} bins of equal width",
    ),
    "calibration_error_quantile": ("", percent, f"the same over {N_BINS} bins of equally many rows"),
    "calibration_error_every_class": ("", percent, "the same of every class, averaged over the classes"),
    "ks_calibration_error": ("", percent, "without bins: the largest cumulative difference (Kolmogorov and Smirnov)"),
    "risk_coverage_area": (
        "area of risk over coverage",
        percent,
        "mean error rate over all shares of rows",
    ),
}
_TILES = ("accuracy", "log_loss", "calibration_error")


def page(subject: Subject, scores: Evaluation) -> str:
    """Return the report as an HTML page that needs nothing beside itself.

    Every text goes through the template's escaping; nothing is marked as safe.
    """
    found = scores.outcomes
    shown = _scores(scores)
    path = background.path(subject)
    contents = [
        ("scores", "Scores"),
        ("calibration", "Calibration"),
        ("confusions", "Confusions"),
        ("mistakes", "Mistakes"),
        ("features", "Features"),
        ("data", "Data"),
        *([("path", "Choice of C")] if path else []),
        ("model", "Model"),
    ]
    return _template().render(
        title=short(subject.data.name),
        lead=_lead(subject),
        tiles=_tiles(subject, shown),
        contents=contents,
        scores=shown,
        calibration=performance.calibration(subject, scores),
        confusions=performance.confusions(subject, found),
        mistakes=performance.mistakes(subject, found),
        features=performance.features(subject),
        data=background.data(subject),
        path=path,
        model=background.model(subject),
        versions=f"softhead {__version__}",
    )


@cache
def _template() -> Any:
    """Return the template, compiled once."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("softhead.app.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["parts"] = parts
    return environment.get_template("report.html")


def _lead(subject: Subject) -> str:
    target = short(subject.data.target_name)
    which = "held out from the training of" if subject.held_out else "given to"
    return (
        f"Which of {count(len(subject.labels), 'class', 'classes')} of “{target}” a row belongs to: "
        f"{count(len(subject.rows), 'row')} {which} the model {short(subject.path.name)}."
    )


def _number(value: float, write: Callable[[float], str]) -> Part:
    """Return a number as it is read and exactly; NaN and infinity, which JSON lacks, are null there."""
    return {"exact": repr(float(value)) if math.isfinite(value) else "null", "text": write(value)}


def _scores(scores: Evaluation) -> Part:
    """Return a row for each figure, with its interval and what it was before calibration."""
    rows = []
    for key, (name, write, note) in _FIGURES.items():
        value, low, high = getattr(scores.figures, key)
        before = getattr(scores.uncalibrated, key).value if scores.uncalibrated else None
        rows.append(
            {
                "key": key,
                "name": name or "calibration error",
                "note": note,
                "value": _number(value, write),
                "low": _number(low, write) if low < high else None,
                "high": _number(high, write),
                "before": None if before is None else _number(before, write),
            }
        )
    lead = f"Over {count(scores.rows, 'row')}."
    if scores.uncalibrated:
        lead += f" Before calibration the temperature was 1; it is {figure(scores.temperature)}."
    return {"lead": lead, "rows": rows, "before": scores.uncalibrated is not None}


def _tiles(subject: Subject, scores: Part) -> list[Part]:
    """Return the figures that a reader looks at first."""
    tiles = [score for score in scores["rows"] if score["key"] in _TILES]
    classifier = subject.classifier
    relative = classifier.gap_ / classifier.objective_ if classifier.objective_ else np.inf
    status = {
        "name": "distance to the optimum",
        "value": _number(relative, figure) if math.isfinite(relative) else {"exact": "null", "text": "no bound"},
        "low": None,
        "high": None,
        "note": f"of the objective at most; {classifier.status_}".replace("_", " "),
    }
    return [*tiles, status]
