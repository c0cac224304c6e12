"""The command line: ``softhead train | predict | evaluate | report | export | info``."""

import functools
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, ParamSpec, TypeVar

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
        help="A .csv, .tsv or .jsonl file (also .gz, .bz2, .zip), .parquet or .npz, or a bundled name: digits, iris, "
        "wine, breast_cancer.",
        show_default=False,
    ),
]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file that train wrote.", show_default=False)]
Features = Annotated[str | None, typer.Option(help="The array of features, in .npz files.", show_default=False)]
Text = Annotated[
    str | None, typer.Option(help="The column with texts: the only one used, by its words.", show_default=False)
]
Target = Annotated[str | None, typer.Option(help="The column, or array, with the labels.", show_default=False)]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON; a number that is infinite or NaN is null.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def run() -> None:
    """Run the command line; it never returns."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started us with SIGINT ignored
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # labels in any script, terminals of any encoding
    code: object = 0
    try:
        try:
            app()
        except SystemExit as end:
            code = end.code
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except OSError as error:
        _discard_stdout()
        code = code or f"softhead: error: standard output: {error.strerror}"
    sys.exit(code)  # type: ignore[arg-type]


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn what can go wrong with data and models into one line on stderr and an exit code."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            print("softhead: interrupted", file=sys.stderr)
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader of our output went away: nothing to report, and nowhere to flush to
            _discard_stdout()
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
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())


def _discard_stdout() -> None:
    """Let what is still buffered go nowhere: the interpreter would complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--in-memory",
            help="Read a .parquet file block by block in every pass; by default where memory would not hold it.",
            show_default=False,
        ),
    ] = None,
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
    with _naming(data):
        file = streaming.opened(data, target, wanted=stream, alone=alone, quiet=quiet)
    dataset: Any = file or load_data(data, target=target, features=features, known=KnownColumns(text=text))
    path = Path(f"{dataset.name}.safetensors") if out is None else out
    _refuse_unwritable(path, data)
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
        _naming(data),
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
    if out != "-":
        _refuse_unwritable(Path(out), data, model)
    fitted, _, dataset = _model_and_data(model, data, target=None, features=features)
    with _naming(data):
        columns = training.predictions(fitted, dataset, probabilities=probabilities)
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

    fitted, record, dataset = _model_and_data(model, data, target=target, features=features, labelled=True)
    with _naming(data):
        scores, held_out = training.evaluate(fitted, record, dataset)
    display.show(display.evaluation_summary(model, data, scores, held_out), as_json=as_json)


@app.command()
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
    fitted, record, dataset = _model_and_data(model, data, target=target, features=features, labelled=True)
    path = Path(f"{dataset.name}.html") if out is None else out
    _refuse_unwritable(path, data, model)
    with _naming(data):
        scored = training.scored_rows(fitted, record, dataset)
        scores = evaluation(fitted[-1], scored.matrix, scored.target)
    text = page(Subject.of(model, fitted, record, dataset, scored), scores).encode()
    with atomic_output(path) as file:
        file.write(text)
    if not quiet:
        display.show({"report": str(path), "bytes": len(text)}, as_json=as_json)


@app.command()
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
    _refuse_unwritable(path, model)
    try:
        with display.warnings_as_lines(quiet):
            to_onnx(load(model), path, dtype=dtype)
    except (ImportError, TypeError) as error:
        raise ValueError(f"{model}: {error}") from error
    if not quiet:
        display.show({"onnx": str(path), "bytes": path.stat().st_size}, as_json=as_json)


@app.command()
@reports_errors
def info(model: Model, as_json: AsJson = False) -> None:
    """Say what a model file holds."""
    from softhead.app import display
    from softhead.model_file import read_model

    display.show(display.model_summary(model, read_model(model)), as_json=as_json)


def _model_and_data(
    model: Path, data: str, *, target: str | None, features: str | None, labelled: bool = False
) -> tuple[Any, Any, Any]:
    """Read a model as a pipeline, its record if there is one, and data by the names and types of its training."""
    from sklearn.pipeline import make_pipeline

    from softhead.app import training
    from softhead.app.datasets import load_data
    from softhead.model_file import read_model

    stored = read_model(model)
    fitted = stored.model if hasattr(stored.model, "steps") else make_pipeline(stored.model)
    record = training.Record.read(stored.record)
    if labelled and target is None:
        if record is None:
            raise typer.BadParameter("needed: this model file does not name its target", param_hint="--target")
        target = record.target
    if features is None and record is not None:
        features = record.features
    dataset = load_data(data, target=target, features=features, known=training.known_columns(fitted))
    return fitted, record, dataset


@contextmanager
def _naming(data: str) -> Iterator[None]:
    """Put the name of the data before errors in its rows and columns."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{data}: {_one_line(error)}") from error


def _refuse_unwritable(path: Path, *inputs: str | Path) -> None:
    """Raise now what writing to `path` would raise after the work, and where it would replace what is read."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(21, "is a folder", str(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(2, "its folder does not exist", str(path))
    if target.exists() and not target.is_file():
        return  # a device or a pipe
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(13, "its folder is read-only", str(path))
    for source in inputs:
        if target.exists() and os.path.exists(source) and os.path.samefile(target, source):
            raise FileExistsError(17, "is the input; write to another file", str(path))
