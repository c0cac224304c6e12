"""The command line: ``softhead train | predict | evaluate | info``."""

import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, ParamSpec, TypeVar

import pyarrow  # noqa: F401  (every command needs it: fail here, where the missing extra is reported)
import typer

from softhead._version import __version__

P = ParamSpec("P")
R = TypeVar("R")

app = typer.Typer(
    name="softhead",
    help="Train a softmax classifier to its optimum, save it, evaluate it and predict with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A .csv or .tsv file (also .gz, .bz2, .zip), .parquet or .npz, or a bundled name: digits, iris, wine, "
        "breast_cancer.",
        show_default=False,
    ),
]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that train wrote.", show_default=False)]
Features = Annotated[str | None, typer.Option(help="The array of features, in .npz files.", show_default=False)]
Target = Annotated[str | None, typer.Option(help="The column, or array, with the labels.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def run() -> None:
    """Run the command line; it never returns."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started us with SIGINT ignored
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn what can go wrong with data and models into one line on stderr and an exit code."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            print("softhead: interrupted; nothing was written", file=sys.stderr)
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader of our output went away: nothing to report, and nowhere to flush to
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except (ValueError, OSError, MemoryError) as error:
            fail(_one_line(error))

    return wrapped


def fail(message: str) -> NoReturn:
    """End with the exit code 1 and one line on stderr."""
    print(f"softhead: error: {message}", file=sys.stderr)
    raise typer.Exit(1)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}"
    return " ".join(str(error).split())


def _version(wanted: bool) -> None:
    if wanted:
        print(f"softhead {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Hold the options that come before a command."""


@app.command()
@reports_errors
def train(
    data: Data,
    target: Target = None,
    out: Annotated[
        Path | None, typer.Option(help="The model file to write; ./NAME.safetensors by default.", show_default=False)
    ] = None,
    features: Features = None,
    penalty_inverse: Annotated[
        float, typer.Option("--C", help="Inverse strength of the L2 penalty; inf for none.", min=1e-300)
    ] = 1.0,
    tol: Annotated[float, typer.Option(help="Relative optimality gap to certify.", min=0.0)] = 1e-4,
    max_iter: Annotated[int, typer.Option(help="Iterations of the solver at most.", min=0)] = 1000,
    intercept: Annotated[bool, typer.Option(help="Fit unpenalised intercepts.")] = True,
    balanced: Annotated[bool, typer.Option("--balanced", help="Give every class the same weight.")] = False,
    max_categories: Annotated[int, typer.Option(help="Output columns of a category column at most.", min=2)] = 100,
    test_size: Annotated[
        float, typer.Option(help="Part of the rows to hold out and test on; 0 trains on all.", min=0.0, max=0.9)
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Chooses the held-out rows.", min=0)] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a classifier, test it on held-out rows and save it.

    Columns are encoded by their types: numbers standardised, categories one-hot, dates as numbers; missing values are
    imputed and marked.
    """
    from softhead.app import display, training
    from softhead.app.datasets import BUNDLED, load_data
    from softhead.estimator import SoftmaxClassifier
    from softhead.model_file import write_model
    from softhead.tables import TableEncoder

    if target is None and data not in BUNDLED:
        raise typer.BadParameter("needed for files: the column, or array, with the labels", param_hint="--target")
    dataset = load_data(data, target=target, features=features)
    path = Path(f"{dataset.name}.safetensors") if out is None else out
    _refuse_unwritable(path)
    classifier = SoftmaxClassifier(
        C=penalty_inverse,
        fit_intercept=intercept,
        class_weight="balanced" if balanced else None,
        tol=tol,
        max_iter=max_iter,
    )
    with _naming(data), display.warnings_as_lines(quiet), display.fit_progress(classifier, silent=quiet or as_json):
        trained = training.train(
            dataset,
            classifier=classifier,
            encoder=TableEncoder(max_categories=max_categories),
            test_size=test_size,
            seed=seed,
        )
    write_model(trained.model, path, trained.record)
    if not quiet:
        display.show(display.training_summary(dataset, trained, path), as_json=as_json)


@app.command()
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
) -> None:
    """Predict the label of every row, and its probability.

    The columns that the model was trained on are found by name; others are ignored.
    """
    from softhead.app import display, training

    if out != "-" and Path(out).suffix.lower() not in (".csv", ".parquet"):
        raise typer.BadParameter(f"{out!r} is neither a .csv nor a .parquet file, nor -", param_hint="--out")
    stored, dataset = _model_and_data(model, data, target=None, features=features)
    with _naming(data):
        columns = training.predictions(stored.model, dataset, probabilities=probabilities)
    display.write_columns(columns, out)


@app.command()
@reports_errors
def evaluate(
    model: Model,
    data: Data,
    target: Target = None,
    features: Features = None,
    as_json: AsJson = False,
) -> None:
    """Score a model on labelled rows.

    On the very table that the model was trained from, only the rows held out then are scored.
    """
    from softhead.app import display, training

    stored, dataset = _model_and_data(model, data, target=target, features=features, labelled=True)
    with _naming(data):
        scores, held_out = training.evaluate(stored.model, stored.record, dataset)
    display.show(display.evaluation_summary(model, data, scores, held_out), as_json=as_json)


@app.command()
@reports_errors
def info(model: Model, as_json: AsJson = False) -> None:
    """Say what a model file holds."""
    from softhead.app import display
    from softhead.model_file import read_model

    display.show(display.model_summary(model, read_model(model)), as_json=as_json)


def _model_and_data(
    model: Path, data: str, *, target: str | None, features: str | None, labelled: bool = False
) -> tuple[Any, Any]:
    """Read a model and the data to apply it to, by the names and types of its training."""
    from sklearn.pipeline import make_pipeline

    from softhead.app import training
    from softhead.app.datasets import load_data
    from softhead.model_file import read_model

    stored = read_model(model)
    if not hasattr(stored.model, "steps"):
        stored = stored._replace(model=make_pipeline(stored.model))
    record = stored.record or {}
    if labelled and target is None:
        target = record.get("target")
        if target is None:
            raise typer.BadParameter("needed: this model file does not name its target", param_hint="--target")
    known = training.known_columns(stored.model)
    return stored, load_data(data, target=target, features=features or record.get("features"), known=known)


@contextmanager
def _naming(data: str) -> Iterator[None]:
    """Put the name of the data before errors in its rows and columns."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{data}: {_one_line(error)}") from error


def _refuse_unwritable(path: Path) -> None:
    """Raise now what writing to `path` would raise after the training."""
    if path.is_dir():
        raise IsADirectoryError(21, "is a folder", str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(2, "its folder does not exist", str(path))
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(13, "its folder is read-only", str(path))
