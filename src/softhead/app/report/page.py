"""The report: one page that shows what a model knows, how sure it is, and where it errs."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from softhead._version import __version__
from softhead.app.evaluation import Evaluation
from softhead.app.report import background, insights, performance
from softhead.app.report.describe import count, figure, parts, percent, short
from softhead.app.report.subject import Subject

Part = dict[str, Any]

# The scores by their keys in the JSON of ``softhead evaluate``: name, how it is written, what it is.
_SCORES = {
    "accuracy": ("accuracy", percent, "share of rows whose most probable class is the true one"),
    "log_loss": ("log loss", figure, "mean of minus log p of the true class, in nats; 0 is best"),
    "calibration_error": ("calibration error", percent, "mean distance of confidence from accuracy, over 15 bins"),
}


def page(subject: Subject, scores: Evaluation) -> str:
    """Return the report as an HTML page that needs nothing beside itself.

    Every text goes through the template's escaping; nothing is marked as safe.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("softhead.app.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["parts"] = parts
    found = insights.outcomes(subject.classifier, subject.matrix, subject.truth)
    shown = _scores(subject, scores)
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
    return environment.get_template("report.html").render(
        title=short(subject.data.name),
        lead=_lead(subject),
        tiles=_tiles(subject, shown),
        contents=contents,
        scores=shown,
        calibration=performance.calibration(subject, found),
        confusions=performance.confusions(subject, found),
        mistakes=performance.mistakes(subject, found),
        features=performance.features(subject),
        data=background.data(subject),
        path=path,
        model=background.model(subject),
        versions=f"softhead {__version__}",
    )


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


def _scores(subject: Subject, scores: Evaluation) -> Part:
    rows = [
        {
            "key": key,
            "name": name,
            "note": note,
            "value": _number(getattr(scores.figures, key).value, write),
            "low": None,
            "high": None,
            "before": None,
        }
        for key, (name, write, note) in _SCORES.items()
    ]
    return {"lead": f"Means over {count(scores.rows, 'row')}.", "rows": rows, "before": False}


def _tiles(subject: Subject, scores: Part) -> list[Part]:
    """Return the figures that a reader looks at first."""
    by_key = {score["key"]: score for score in scores["rows"]}
    tiles = [by_key[key] for key in ("accuracy", "log_loss", "calibration_error")]
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
