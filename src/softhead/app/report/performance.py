"""The sections of a report on what a model knows and where it errs."""

from typing import Any

import numpy as np

from softhead._reliability import reliability, selective
from softhead.app.evaluation import CONFIDENCE, N_BINS, Evaluation, Figures, Outcomes
from softhead.app.report import describe, figures, insights, rasters
from softhead.app.report.describe import coefficient, count, figure, passage, percent, short
from softhead.app.report.subject import Subject
from softhead.app.training import Record
from softhead.text import TextEncoder

_CONFUSIONS = 12
_MISTAKES = 12
_CLASSES = 200  # that features are shown of
_FIRST = 12  # of them before the reader asks for more
_FEATURES = 8  # of each class
_VALUES = 32  # of a row without names

Part = dict[str, Any]


def calibration(subject: Subject, scores: Evaluation) -> Part:
    """Return how far probabilities are frequencies, and what abstaining buys."""
    charts = [_reliability("Reliability", "The model as it is.", scores.figures, scores.outcomes)]
    if scores.uncalibrated and scores.uncalibrated_outcomes:
        charts[0]["caption"] = charts[0]["caption"].replace("The model as it is", "After calibration")
        before = _reliability(
            "Reliability before calibration",
            "Before calibration, at the temperature 1.",
            scores.uncalibrated,
            scores.uncalibrated_outcomes,
        )
        charts.insert(0, before)
        lead = f"Logits are divided by the temperature {figure(scores.temperature)}. {_chosen_on(subject.record)}"
    else:
        lead = "The model has not been calibrated: its temperature is 1. "
    found = scores.outcomes
    curve = selective(found.confidence, found.correct, np.ones(len(found.true)), CONFIDENCE)
    return {
        "lead": f"{lead}Where a point lies on the dotted line, probabilities are frequencies; below it, the model is "
        "too sure. Bars are 95% intervals.",
        "charts": charts,
        "risk": figures.curve(
            "Risk against coverage",
            f"The error rate is {percent(float(curve.risk[-1]))} when every row is answered.",
            np.append(0.0, curve.coverage),
            np.append(curve.risk[0], curve.risk),
            x_label="share of rows answered",
            y_label="error rate among them",
            from_zero=True,
        ),
        "risk_caption": "When only the most confident rows are answered. "
        f"Mean error rate over all coverages {percent(scores.figures.risk_coverage_area.value)}.",
    }


def _chosen_on(record: Record | None) -> str:
    """Say which rows a temperature was fitted to, where that is known."""
    if not record or not record.calibration:
        return ""
    rows, folds = record.calibration["rows"], record.calibration["folds"]
    how = f"out of {count(folds, 'fold')}" if record.calibration["method"] == "cv" else "kept apart for it"
    return f"It was fitted to {count(rows, 'row')} of the training, {how}. "


def _reliability(title: str, caption: str, values: Figures, found: Outcomes) -> Part:
    table = reliability(
        found.confidence,
        found.correct,
        np.ones(len(found.true)),
        n_bins=N_BINS,
        strategy="uniform",
        confidence=CONFIDENCE,
    )
    pairs = zip(table.confidence, table.accuracy, table.mass, strict=True)
    described = ", ".join(f"{c:.2f}: {a:.2f}" for c, a, mass in pairs if mass > 0.0)
    chart = figures.reliability(title, f"Accuracy at each mean confidence: {described}.", table)
    return {"chart": chart, "caption": f"{caption} Calibration error {percent(values.calibration_error.value)}."}


def confusions(subject: Subject, found: Outcomes) -> Part:
    """Return which classes are taken for which."""
    labels = subject.labels
    counts = insights.confusion_counts(found, len(labels))
    wrong = int((~found.correct).sum())
    verb = "is" if wrong == 1 else "are"
    pairs = insights.largest_confusions(counts, _CONFUSIONS)
    rows, taken, right = counts.sum(axis=1), counts.sum(axis=0), np.diag(counts)
    with np.errstate(invalid="ignore"):
        recall, precision = right / rows, right / taken
    order = np.argsort(np.where(rows > 0, recall, 2.0), kind="stable")
    dense = len(labels) > figures.LABELS_UP_TO
    return {
        "lead": f"{count(wrong, 'row')} of {len(found.true):,} {verb} taken for another class.",
        "chart": figures.confusion(
            "Confusion matrix",
            "Rows are true classes, columns are predictions. "
            + " ".join(f"{labels[c.truth]} taken for {labels[c.predicted]}: {c.rows}." for c in pairs[:5]),
            counts,
            labels,
        ),
        "dense": dense,
        "caption": "Rows are true classes, columns predictions; blue is right, orange wrong; the stronger, the larger "
        "the share of the true class." + (" Classes are in the order of their labels." if dense else ""),
        "pairs": [
            {
                "truth": labels[c.truth],
                "predicted": labels[c.predicted],
                "rows": f"{c.rows:,}",
                "share": percent(c.share),
            }
            for c in pairs
        ],
        "classes": [
            {
                "name": labels[i],
                "rows": f"{rows[i]:,}",
                "recall": percent(float(recall[i])),
                "precision": percent(float(precision[i])),
            }
            for i in order
        ],
        "classes_caption": f"All {len(labels)} classes, the least recognised first",
    }


def mistakes(subject: Subject, found: Outcomes) -> Part:
    """Return the wrong predictions with the highest probabilities, with their rows and with what led to them."""
    data, labels = subject.data, subject.labels
    pixels = insights.pixel_shape(subject.encoder)
    named = insights.have_names(subject.encoder, subject.classifier)
    names = insights.feature_names(subject.encoder, subject.classifier) if named else []
    weights = insights.class_weights(subject.classifier)
    chosen = insights.boldest_mistakes(found, _MISTAKES)
    cards = []
    for place in chosen:
        row, truth, predicted = int(subject.rows[place]), int(found.true[place]), int(found.predicted[place])
        card: Part = {
            "row": f"{row + 1:,}",
            "truth": labels[truth],
            "predicted": labels[predicted],
            "confidence": percent(float(found.confidence[place])),
            "of_truth": percent(float(np.exp(-found.loss[place]))),
            "image": None,
            "quote": None,
            "cells": [],
            "reasons": [],
        }
        if pixels:
            values = data.features[row].reshape(pixels)
            card["image"] = rasters.picture(values, *_pixel_range(data.features))
            card["alt"] = f"Row {row + 1}, a picture of {pixels[0]} by {pixels[1]} pixels"
        elif isinstance(subject.encoder, TextEncoder):
            card["quote"] = passage(_cells(data.features, row)[0][1])
        else:
            card["cells"] = [(short(name), short(value)) for name, value in _cells(data.features, row)]
            card["cells_caption"] = f"Its {count(len(card['cells']), 'value')}"
        if named:
            reasons = insights.reasons(weights, subject.matrix[place : place + 1], truth, predicted, names, 4)
            card["reasons"] = [{"name": short(r.name, 40), "text": f"+{r.value:.2g}"} for r in reasons]
        cards.append(card)
    lead = "The wrong predictions with the highest probabilities, from the highest on." if cards else "There is none."
    if any(card["reasons"] for card in cards):
        lead += " In brackets: what a feature adds to the logit of the prediction over that of the true class."
    return {"lead": lead, "cards": cards, "images": bool(pixels)}


def _cells(features: Any, row: int) -> list[tuple[str, Any]]:
    """Return the names and values of one row of a table or an array; none of an array with many, which tell nothing."""
    if isinstance(features, np.ndarray):
        values = features[row].ravel().tolist()
        return [(f"x{i}", value) for i, value in enumerate(values)] if len(values) <= _VALUES else []
    return list(features.slice(row, 1).to_pylist()[0].items())[: describe.MOST_COLUMNS]


def _pixel_range(features: np.ndarray) -> tuple[float, float]:
    """Return the values that are drawn black and white: of bytes all, else what a sample of the rows has."""
    if features.dtype == np.uint8:
        return 0.0, 255.0
    sample = features[:: max(1, len(features) // 1000)]
    return float(np.nanmin(sample)), float(np.nanmax(sample))


def features(subject: Subject) -> Part:
    """Return the coefficients that count most: as pictures where features are pixels."""
    weights = insights.class_weights(subject.classifier)
    labels, shown = subject.labels, min(len(subject.labels), _CLASSES)
    hidden = f" {len(labels) - shown} classes are not shown." if shown < len(labels) else ""
    result: Part = {"images": [], "first": [], "rest": [], "heads": ["feature", "coefficient"]}
    if pixels := insights.pixel_shape(subject.encoder):
        largest = float(np.quantile(np.abs(weights), 0.995))
        side = rasters.MOST_PIXELS if shown <= 60 else 32  # 200 pictures of 48 pixels would take 2.4 MB
        result["images"] = [
            {
                "image": rasters.signed_picture(weights[c].reshape(pixels), largest, side),
                "alt": f"Coefficients of the class {labels[c]} as a picture",
                "name": labels[c],
            }
            for c in range(shown)
        ]
        lead = "The coefficient of every pixel: blue speaks for the class where the pixel is bright, orange against it."
        return result | {"lead": lead + hidden}
    names = insights.feature_names(subject.encoder, subject.classifier)
    order = np.argsort(-np.bincount(subject.truth, minlength=len(labels)), kind="stable")[:shown]
    largest = float(np.abs(weights).max()) or 1.0
    cards = [
        {
            "name": labels[c],
            "caption": "The largest coefficients",
            "rows": [
                {
                    "name": short(feature.name, 48),
                    "text": coefficient(feature.value),
                    "width": f"{100 * abs(feature.value) / largest:.1f}",
                    "style": "for" if feature.value > 0 else "against",
                }
                for feature in insights.strongest(weights[c], names, _FEATURES)
            ],
        }
        for c in order
    ]
    lead = "The largest coefficients of each class: blue speaks for it, orange against it. "
    if isinstance(subject.encoder, TextEncoder):
        result["heads"], lead = ["word", "coefficient"], lead + "A word counts by its weight in the text."
    elif subject.encoder is not None:
        lead += "Numbers are standardised, so that coefficients can be compared; a category is 0 or 1."
    first = _FIRST if insights.have_names(subject.encoder, subject.classifier) else 0
    more = "more " if first else ""
    return result | {
        "lead": lead + hidden,
        "first": cards[:first],
        "rest": cards[first:],
        "rest_caption": count(len(cards) - first, f"{more}class", f"{more}classes"),
    }
