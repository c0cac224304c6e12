"""``softhead train``."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from softhead.app.commands.common import (
    AsJson,
    Data,
    Features,
    Quiet,
    Stream,
    Target,
    Text,
    fail,
    naming,
    refuse_unwritable,
    reports_errors,
)


def _positive(value: float) -> float:
    if not value > 0.0:
        raise typer.BadParameter(f"{value:g} is not a positive number (or inf, for no penalty)")
    return value


def _grid(text: str) -> int | list[float]:
    """Return a number of penalties, or the penalties themselves."""
    from softhead._problem import penalty_grid

    try:
        values = int(text) if text.strip().isdecimal() else [float(part) for part in text.split(",")]
        penalty_grid(values)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is neither a number of values nor positive values with commas", param_hint="--Cs"
        ) from error
    return values


def _workers(address: str | None) -> AbstractContextManager[Any]:
    """Return the workers of a cluster."""
    try:
        from softhead.linear.dask import workers
    except ImportError:
        fail("--dask and --scheduler need more than is installed: pip install 'softhead[dask]'")
    return workers(address)


def _finite(value: float) -> float:
    if not 0.0 <= value < float("inf"):
        raise typer.BadParameter(f"{value:g} is not a number from 0 on")
    return value


@reports_errors
def train(
    data: Data,
    target: Target = None,
    out: Annotated[
        Path | None, typer.Option(help="The model file to write; ./NAME.safetensors by default.", show_default=False)
    ] = None,
    features: Features = None,
    text: Text = None,
    penalty_inverse: Annotated[
        float, typer.Option("--C", help="Inverse strength of the L2 penalty; inf for none.", callback=_positive)
    ] = 1.0,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Choose C by the log loss in cross-validation on the rows not held out.")
    ] = False,
    penalties: Annotated[
        str, typer.Option("--Cs", help="For --sweep: how many C, from 1e-4 to 1e4, or which ones: 0.1,1,10.")
    ] = "10",
    folds: Annotated[int, typer.Option("--cv", help="For --sweep and --calibrate cv: the number of folds.", min=2)] = 5,
    calibrate: Annotated[
        Literal["holdout", "cv"] | None,
        typer.Option(
            help="Fit a temperature, so that probabilities are frequencies: on a fifth of the rows not tested on, to "
            "which nothing else is fitted then; or on logits from cross-validation.",
            show_default=False,
        ),
    ] = None,
    tol: Annotated[float, typer.Option(help="Relative optimality gap to certify.", callback=_finite)] = 1e-4,
    max_iter: Annotated[int, typer.Option(help="Iterations of the solver at most.", min=0)] = 1000,
    intercept: Annotated[bool, typer.Option(help="Fit unpenalised intercepts.")] = True,
    balanced: Annotated[bool, typer.Option("--balanced", help="Give every class the same weight.")] = False,
    max_categories: Annotated[
        int | None,
        typer.Option(help="Output columns of a category column at most; 100 by default.", min=2, show_default=False),
    ] = None,
    test_size: Annotated[
        float, typer.Option(help="Part of the rows to hold out and test on; 0 trains on all.", min=0.0, max=0.9)
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Chooses the held-out rows.", min=0)] = 0,
    use_dask: Annotated[
        bool, typer.Option("--dask", help="Fit on Dask workers: a process for each processor of this machine.")
    ] = False,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Fit on the workers of this Dask scheduler.", show_default=False),
    ] = None,
    stream: Stream = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Leave the state of the fit here; go on from it.", show_default=False),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a classifier, test it on held-out rows and save it.

    Columns are encoded by their types: numbers standardised, categories one-hot, dates as numbers; missing values are
    imputed and marked. With --text, the model is one of the words of that column.
    """
    from softhead.app import display, streaming, training
    from softhead.app.datasets import BUNDLED, KnownColumns, load_data
    from softhead.cross_validation import SoftmaxClassifierCV
    from softhead.estimator import SoftmaxClassifier
    from softhead.model_file import write_model
    from softhead.tables import TableEncoder
    from softhead.text import TextEncoder

    if target is None and data not in BUNDLED and Path(data).exists():
        raise typer.BadParameter("needed for files: the column, or array, with the labels", param_hint="--target")
    if sweep and penalty_inverse != 1.0:
        raise typer.BadParameter("not together with --sweep, which chooses it", param_hint="--C")
    if not sweep and (penalties != "10" or (folds != 5 and calibrate != "cv")):
        raise typer.BadParameter("only together with --sweep (--cv also with --calibrate cv)", param_hint="--Cs, --cv")
    if text is not None and max_categories is not None:
        raise typer.BadParameter(
            "not together with --text, which uses no category columns", param_hint="--max-categories"
        )
    if sweep:
        _grid(penalties)
    elsewhere = sweep or calibrate or use_dask or scheduler is not None
    if checkpoint is not None and sweep:
        raise typer.BadParameter("not together with --sweep, which is many fits", param_hint="--checkpoint")
    alone = not elsewhere and text is None and features is None
    with naming(data):
        but = ", and without --sweep, --calibrate, --dask, --scheduler and --text"
        blocks = streaming.wants_blocks(data, wanted=stream, alone=alone and target is not None, quiet=quiet, but=but)
        file = streaming.TableFile(Path(data), target) if blocks else None
    dataset: Any = file or load_data(data, target=target, features=features, known=KnownColumns(text=text))
    path = Path(f"{dataset.name}.safetensors") if out is None else out
    refuse_unwritable(path, data)
    options: dict[str, Any] = {
        "fit_intercept": intercept,
        "class_weight": "balanced" if balanced else None,
        "tol": tol,
        "max_iter": max_iter,
    }
    classifier: SoftmaxClassifier | SoftmaxClassifierCV
    if sweep:
        classifier = SoftmaxClassifierCV(_grid(penalties), cv=folds, **options)
    else:
        classifier = SoftmaxClassifier(C=penalty_inverse, checkpoint=checkpoint, **options)
    encoder = TableEncoder(max_categories=max_categories or 100) if text is None else TextEncoder()
    with (
        _workers(scheduler) if use_dask or scheduler is not None else nullcontext() as divide,
        naming(data),
        display.warnings_as_lines(quiet),
        display.fit_progress(classifier, silent=quiet or as_json),
    ):
        common: dict[str, Any] = {"classifier": classifier, "encoder": encoder, "test_size": test_size, "seed": seed}
        if file is not None:
            dataset, trained = streaming.train(file, **common)
        else:
            trained = training.train(dataset, divide=divide, calibrate=calibrate, folds=folds, **common)
    write_model(trained.model, path, trained.record._asdict())
    if not quiet:
        display.show(display.training_summary(dataset, trained, path), as_json=as_json)
