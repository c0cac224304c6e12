"""What the command line shows: summaries as a table or JSON, progress, warnings, and files of predictions."""

import json
import math
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from softhead._files import atomic_output
from softhead.app.datasets import Dataset
from softhead.app.evaluation import CONFIDENCE, Evaluation, Figures
from softhead.app.training import Record, Sweep, Trained
from softhead.cross_validation import SoftmaxClassifierCV
from softhead.estimator import SoftmaxClassifier
from softhead.model_file import ModelFile
from softhead.rows.arrow import grouped

Summary = dict[str, Any]

_PROGRESS_AFTER = 1.0  # seconds: a shorter fit shows nothing
_GROUP_ROWS, _GROUP_NUMBERS = 2**20, 2**22  # at most, in a row group of Parquet, which is held in memory
_NOTES = {"gap": "  (the objective is at most this far above its minimum)"}
_NAMES = {
    "rows_tested": "rows tested",
    "calibration_error_quantile": "calibration error, bins of equal weight",
    "calibration_error_every_class": "calibration error, every class",
    "ks_calibration_error": "calibration error, without bins",
    "risk_coverage_area": "area of risk over coverage",
}


def training_summary(data: Dataset, trained: Trained, path: Path) -> Summary:
    """Return what training ends with."""
    classifier = trained.model[-1]
    held_out = trained.scores.rows if trained.scores else 0
    summary: Summary = {
        "data": data.name,
        "rows": data.n_rows - held_out,
        "features": classifier.n_features_in_,
        "classes": len(classifier.classes_),
        **({"C": classifier.C, "sweep": trained.sweep} if trained.sweep else {}),
        **_fit(classifier),
        "seconds": round(trained.seconds, 3),
        **(_calibration(classifier, trained.record.calibration) if trained.record.calibration else {}),
    }
    if trained.scores:
        summary |= _scores(trained.scores)
    elif trained.record.test_size:
        summary["rows_tested"] = 0  # too few rows of each class to hold any out
    return summary | {"model": str(path)}


def evaluation_summary(model: Path, data: str, scores: Evaluation, held_out: bool) -> Summary:
    """Return every figure of a model with its interval, before and after calibration, and which rows they are of."""
    scored = "the rows held out from its training on this table" if held_out else "all"
    return {
        "model": str(model),
        "data": data,
        "scored": scored,
        "rows_tested": scores.rows,
        **_values(scores.figures),
        "confidence": CONFIDENCE,
        "intervals": _intervals(scores.figures),
        "temperature": scores.temperature,
        "uncalibrated": scores.uncalibrated
        and {**_values(scores.uncalibrated), "intervals": _intervals(scores.uncalibrated)},
    }


def model_summary(path: Path, stored: ModelFile) -> Summary:
    """Return what a model file holds."""
    model, record = stored.model, Record.read(stored.record)
    classifier: SoftmaxClassifier = model[-1] if hasattr(model, "steps") else model
    steps = [type(step).__name__ for _, step in model.steps] if hasattr(model, "steps") else [type(model).__name__]
    columns = getattr(model[0] if hasattr(model, "steps") else model, "feature_names_in_", None)
    summary: Summary = {"model": str(path), "steps": steps, "bytes": path.stat().st_size}
    if record:
        summary |= {
            "trained on": record.data,
            "target": record.target,
            "rows": record.rows,
            "rows held out": int(record.mask().sum()),
        }
    if columns is not None:
        summary["columns"] = [str(name) for name in columns]
    return summary | {
        "features": classifier.n_features_in_,
        "classes": len(classifier.classes_),
        "labels": classifier.classes_.tolist(),
        "dtype": str(classifier.coef_.dtype),
        "C": classifier.C,
        **_fit(classifier),
        **_calibration(classifier, record.calibration if record else None),
    }


def _calibration(classifier: SoftmaxClassifier, calibration: dict[str, Any] | None) -> Summary:
    """Return the temperature, and which rows it was fitted to where that is known."""
    summary: Summary = {"temperature": classifier.temperature_}
    if calibration:
        how = f"in {calibration['folds']} folds" if calibration["method"] == "cv" else "kept for it"
        summary["calibrated on"] = f"{calibration['rows']} rows of the training, {how}"
    return summary


def show(summary: Summary, *, as_json: bool) -> None:
    """Print a summary to stdout."""
    if as_json:
        print(json.dumps({key.replace(" ", "_"): _json_value(value) for key, value in summary.items()}))
        return
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 10_000  # never fold what another program reads
    if summary.get("sweep"):
        console.print(_sweep_table(summary["sweep"]), end="\n\n")
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    intervals = summary.get("intervals", {})
    for key, value in summary.items():
        if key == "uncalibrated" and value:
            _add_uncalibrated(table, summary, value)
        if key in ("sweep", "confidence", "intervals", "uncalibrated"):
            continue
        note = _NOTES.get(key, "") if value != math.inf else "  (no bound exists without a penalty)"
        table.add_row(_name(key), _text(value) + (_interval(intervals[key]) if key in intervals else note))
    console.print(table)


def _add_uncalibrated(table: Table, summary: Summary, before: Summary) -> None:
    """Add a line for every figure that calibration has changed."""
    intervals = before.get("intervals", {})
    for key, value in before.items():
        if key != "intervals" and value != summary[key]:
            cell = _text(value) + (_interval(intervals[key]) if key in intervals else "")
            table.add_row(f"{_name(key)}, uncalibrated", cell)


def _name(key: str) -> str:
    return _NAMES.get(key, key.replace("_", " "))


def _interval(bounds: list[float]) -> str:
    return f"  ({_text(bounds[0])} to {_text(bounds[1])}, {CONFIDENCE:.0%})"


def _sweep_table(sweep: list[Sweep]) -> Table:
    """Return the path of a sweep: a line for each C, the chosen one marked."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("C", "log loss", "relative gap"):
        table.add_column(name, justify="right")
    table.add_column()
    for point in sweep:
        cells = (_text(point.C), _text(point.log_loss), f"{point.gap:.1e}", "chosen" if point.chosen else "")
        table.add_row(*cells, style="bold" if point.chosen else "")
    return table


@contextmanager
def fit_progress(classifier: SoftmaxClassifier | SoftmaxClassifierCV, *, silent: bool) -> Iterator[None]:
    """Show the iterations of a long fit on stderr, where that is a terminal."""
    console = Console(stderr=True)
    if silent or not console.is_terminal:
        yield
        return
    with console.status("training") as status:
        classifier.set_callbacks(_Progress(status))
        try:
            yield
        finally:
            classifier.set_callbacks()


class _Progress:
    """A scikit-learn callback that writes the last iteration into a status line."""

    def __init__(self, status: Any) -> None:
        self.status = status
        self.start = time.monotonic()

    def setup(self, estimator: Any, context: Any) -> None:
        """Begin the clock."""
        self.start = time.monotonic()

    def teardown(self, estimator: Any, context: Any) -> None:
        """Do nothing."""

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Do nothing."""

    def on_fit_task_end(self, estimator: Any, context: Any, *, fitted_estimator: Any = None) -> None:
        """Show the passes and the objective so far."""
        seconds = time.monotonic() - self.start
        if fitted_estimator is not None and seconds > _PROGRESS_AFTER:
            objective = fitted_estimator.objective_
            gap = fitted_estimator.gap_ / objective if objective else math.inf
            self.status.update(
                f"training: {fitted_estimator.n_passes_:.0f} passes over the data, {seconds:.0f} s, "
                f"objective {objective:.6g}, relative gap {gap:.1e}"
            )


@contextmanager
def warnings_as_lines(quiet: bool) -> Iterator[None]:
    """Print warnings as one line each on stderr."""

    def line(message: Any, *_: Any, **__: Any) -> None:
        if not quiet:
            print(f"softhead: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = line
        yield


def write_columns(blocks: Iterable[dict[str, np.ndarray]], out: str) -> None:
    """Write blocks of columns as CSV or Parquet: to a file, complete or not at all, or to stdout ("-"), as they come.

    The bytes do not depend on where blocks end.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    tables = iter(pa.table({name: pa.array(column) for name, column in columns.items()}) for columns in blocks)
    first = next(tables)
    if out == "-":
        if sys.stdout is None:
            raise OSError("standard output is closed")
        with csv.CSVWriter(sys.stdout.buffer, first.schema) as writer:
            for table in chain([first], tables):
                writer.write_table(table)
        sys.stdout.flush()
        return
    with atomic_output(out) as file:
        if out.lower().endswith(".csv"):
            with csv.CSVWriter(file, first.schema) as writer:
                for table in chain([first], tables):
                    writer.write_table(table)
            return
        with parquet.ParquetWriter(file, first.schema) as writer:
            rows = max(1, min(_GROUP_ROWS, _GROUP_NUMBERS // first.num_columns))
            batches = chain.from_iterable(table.to_batches() for table in chain([first], tables))
            for group in grouped(batches, rows):
                writer.write_table(pa.Table.from_batches(group).combine_chunks(), row_group_size=rows)


def _fit(classifier: SoftmaxClassifier) -> Summary:
    return {
        "status": classifier.status_,
        "passes": classifier.n_passes_,
        "objective": classifier.objective_,
        "gap": classifier.gap_,
    }


def _scores(scores: Evaluation) -> Summary:
    """Return the main figures on the rows held out, and what they were before calibration."""
    main = ("accuracy", "log_loss", "calibration_error")
    summary = {"rows_tested": scores.rows} | {name: getattr(scores.figures, name).value for name in main}
    if scores.uncalibrated:
        before = {name: getattr(scores.uncalibrated, name).value for name in main[1:]}
        summary["uncalibrated"] = before
    return summary


def _values(figures: Figures) -> Summary:
    return {name: estimate.value for name, estimate in figures._asdict().items()}


def _intervals(figures: Figures) -> Summary:
    return {name: [estimate.low, estimate.high] for name, estimate in figures._asdict().items()}


def _text(value: Any) -> str:
    """Return a value for a reader: lists shortened, floats to a useful number of digits."""
    if isinstance(value, list):
        shown = ", ".join(str(item) for item in value[:10])
        return shown if len(value) <= 10 else f"{shown}, ... ({len(value)} in all)"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _json_value(value: Any) -> Any:
    """Return a value that JSON can hold: infinities and NaN, which it lacks, are null."""
    if isinstance(value, Sweep):
        return {name: _json_value(part) for name, part in value._asdict().items()}
    if isinstance(value, dict):
        return {key: _json_value(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
