"""``softhead predict`` and ``softhead evaluate``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from softhead.app.commands.common import (
    AsJson,
    Data,
    Features,
    Model,
    Stored,
    Stream,
    Target,
    naming,
    refuse_unwritable,
    reports_errors,
)


@reports_errors
def predict(
    model: Model,
    data: Data,
    out: Annotated[
        str, typer.Option("--out", "-o", help="A .csv or .parquet file to write, or - for CSV on stdout.")
    ] = "-",
    features: Features = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Add a column with the probability of each class.")
    ] = False,
    stream: Stream = None,
) -> None:
    """Predict the label of every row, and its probability.

    The columns that the model was trained on are found by name; others are ignored.
    """
    from softhead.app import display, scoring, training

    if out != "-" and Path(out).suffix.lower() not in (".csv", ".parquet"):
        raise typer.BadParameter(f"{out!r} is neither a .csv nor a .parquet file, nor -", param_hint="--out")
    if out != "-":
        refuse_unwritable(Path(out), data, model)
    stored = Stored.read(model, target=None, features=features)
    with naming(data):
        file = scoring.opened(stored.model, data, None, wanted=stream)
    dataset: Any = None if file else stored.data(data)
    with naming(data):
        if file:
            columns = file.predictions(probabilities=probabilities)
        else:
            columns = training.predictions(stored.model, dataset, probabilities=probabilities)
        display.write_columns(columns, out)


@reports_errors
def evaluate(
    model: Model,
    data: Data,
    target: Target = None,
    features: Features = None,
    stream: Stream = None,
    as_json: AsJson = False,
) -> None:
    """Score a model on labelled rows.

    On the very table that the model was trained from, only the rows held out then are scored.
    """
    from softhead.app import display, scoring, training

    stored = Stored.read(model, target=target, features=features, labelled=True)
    with naming(data):
        file = scoring.opened(stored.model, data, stored.target, wanted=stream)
    dataset: Any = None if file else stored.data(data)
    with naming(data):
        if file:
            scores, held_out = file.evaluate(stored.record)
        else:
            scores, held_out = training.evaluate(stored.model, stored.record, dataset)
    display.show(display.evaluation_summary(model, data, scores, held_out), as_json=as_json)
