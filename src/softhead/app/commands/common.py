"""What the commands share: arguments, errors as one line, models and data, checks of what is to be written."""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn, ParamSpec, TypeVar

import typer

P = ParamSpec("P")
R = TypeVar("R")

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
Stream = Annotated[
    bool | None,
    typer.Option(
        "--stream/--in-memory",
        help="Read a .parquet file block by block; by default where memory would not hold it.",
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


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
            discard_stdout()
            raise typer.Exit(1) from None
        except (ValueError, OSError, MemoryError) as error:
            fail(one_line(error))

    return wrapped


def fail(message: str) -> NoReturn:
    """End with the exit code 1 and one line on stderr."""
    print(f"softhead: error: {message}", file=sys.stderr)
    raise typer.Exit(1)


def one_line(error: BaseException) -> str:
    """Return what an error says, as one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())


def discard_stdout() -> None:
    """Let what is still buffered go nowhere: the interpreter would complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Stored(NamedTuple):
    """A model as a pipeline, its record if there is one, and the names of the target and of the features' array."""

    model: Any
    record: Any
    target: str | None
    features: str | None

    @classmethod
    def read(cls, model: Path, *, target: str | None, features: str | None, labelled: bool = False) -> "Stored":
        """Read a model; what is not named is what its record names."""
        from sklearn.pipeline import make_pipeline

        from softhead.app import training
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
        return cls(fitted, record, target, features)

    def data(self, data: str) -> Any:
        """Read data by the names and types of the training."""
        from softhead.app import training
        from softhead.app.datasets import load_data

        known = training.known_columns(self.model)
        return load_data(data, target=self.target, features=self.features, known=known)


@contextmanager
def naming(data: str) -> Iterator[None]:
    """Put the name of the data before errors in its rows and columns."""
    try:
        yield
    except (TypeError, ValueError, NotImplementedError) as error:  # the last one is Arrow's, of a type
        raise ValueError(f"{data}: {one_line(error)}") from error


def refuse_unwritable(path: Path, *inputs: str | Path) -> None:
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
