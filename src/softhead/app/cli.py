"""The command line: ``softhead train | predict | evaluate | report | export | info``."""

import io
import signal
import sys
from typing import Annotated

import pyarrow  # noqa: F401  (every command needs it: fail here, where the missing extra is reported)
import typer

from softhead._version import __version__
from softhead.app.commands.common import discard_stdout
from softhead.app.commands.model import export, info, report
from softhead.app.commands.score import evaluate, predict
from softhead.app.commands.train import train

app = typer.Typer(
    name="softhead",
    help="Train a softmax classifier to its optimum, save it, evaluate it and predict with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (train, predict, evaluate, report, export, info):
    app.command()(command)


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
        discard_stdout()
        code = code or f"softhead: error: standard output: {error.strerror}"
    sys.exit(code)  # type: ignore[arg-type]


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
