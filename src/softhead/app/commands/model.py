"""``softhead report``, ``softhead export`` and ``softhead info``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from softhead.app.commands.common import (
    AsJson,
    Data,
    Features,
    Model,
    Quiet,
    Stored,
    Target,
    naming,
    refuse_unwritable,
    reports_errors,
)


@reports_errors
def report(
    model: Model,
    data: Data,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page to write; ./NAME.html by default.", show_default=False)
    ] = None,
    target: Target = None,
    features: Features = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a page about a model and the labelled rows it is scored on: pictures, mistakes, what counts.

    The page is one HTML file that loads nothing. The rows and the scores are those of evaluate.
    """
    from softhead._files import atomic_output
    from softhead.app import display, training
    from softhead.app.evaluation import evaluation
    from softhead.app.report.page import page
    from softhead.app.report.subject import Subject

    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise typer.BadParameter(f"{str(out)!r} is not an .html file", param_hint="--out")
    stored = Stored.read(model, target=target, features=features, labelled=True)
    fitted, record, dataset = stored.model, stored.record, stored.data(data)
    path = Path(f"{dataset.name}.html") if out is None else out
    refuse_unwritable(path, data, model)
    with naming(data):
        scored = training.scored_rows(fitted, record, dataset)
        scores = evaluation(fitted[-1], scored.matrix, scored.target)
    text = page(Subject.of(model, fitted, record, dataset, scored), scores).encode()
    with atomic_output(path) as file:
        file.write(text)
    if not quiet:
        display.show({"report": str(path), "bytes": len(text)}, as_json=as_json)


@reports_errors
def export(
    model: Model,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The .onnx file to write; ./NAME.onnx by default.", show_default=False),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float64"] | None,
        typer.Option(help="Of input and probabilities; by default that of the model.", show_default=False),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a model as an ONNX file: encoding, logits, temperature, softmax and label.

    A table's columns are the inputs: strings for categories, float64 numbers for all others. Texts cannot be exported.
    """
    from softhead.app import display
    from softhead.export import to_onnx
    from softhead.model_file import load

    if out is not None and out.suffix.lower() != ".onnx":
        raise typer.BadParameter(f"{str(out)!r} is not an .onnx file", param_hint="--out")
    path = Path(f"{model.stem}.onnx") if out is None else out
    refuse_unwritable(path, model)
    try:
        with display.warnings_as_lines(quiet):
            to_onnx(load(model), path, dtype=dtype)
    except (ImportError, TypeError) as error:
        raise ValueError(f"{model}: {error}") from error
    if not quiet:
        display.show({"onnx": str(path), "bytes": path.stat().st_size}, as_json=as_json)


@reports_errors
def info(model: Model, as_json: AsJson = False) -> None:
    """Say what a model file holds."""
    from softhead.app import display
    from softhead.model_file import read_model

    display.show(display.model_summary(model, read_model(model)), as_json=as_json)
