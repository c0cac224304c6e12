"""A linear probe of ImageNet's size on generated features: the certified gap against time, and the memory it takes.

1.28 million rows of 768 float32 features (3.9 GB), 1000 classes, C = 0.316, at a scale of 1; `classifier.py --imagenet
SCALE` runs it with that part of the rows.
"""

import time
import warnings
from pathlib import Path

from data_sets import gaussian_classes

import softhead

STATUS = Path("/proc/self/status")


def memory(entry):
    """Return this process's resident memory (VmRSS) or its peak (VmHWM) in MB."""
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines[entry].split()[0]) * 1024 / 1e6


def forget_peak():
    """Let the peak begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


class Progress:
    """A scikit-learn callback that prints the certified gap against time."""

    def __init__(self):
        self.start, self.printed, self.reached = time.perf_counter(), 0.0, {}

    def setup(self, estimator, context):
        """Do nothing, as at the end and at the beginning of a task."""

    teardown = on_fit_task_begin = setup

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        """Print the state, twenty times from a second to three, from three to nine and so on."""
        seconds = time.perf_counter() - self.start
        gap = fitted_estimator.gap_ / fitted_estimator.objective_
        for goal in (1e-1, 1e-2, 1e-3, 1e-4):
            if gap <= goal:
                self.reached.setdefault(goal, seconds)
        if seconds > 1.05 * self.printed:
            self.printed = seconds
            cells = f"{seconds:.1f} | {fitted_estimator.n_passes_:.1f} | {fitted_estimator.objective_:.8g} | {gap:.1e}"
            print(f"| {cells} |", flush=True)


def probe(scale, tol=1e-4):
    """Generate, fit to a certified relative gap of `tol`, and print."""
    start = time.perf_counter()
    X, y = gaussian_classes(round(1_280_000 * scale), 768, 1000)
    print(
        f"{X.shape[0]} x {X.shape[1]}, 1000 classes: {X.nbytes / 1e6:.0f} MB in {time.perf_counter() - start:.0f} s\n"
    )
    print("| seconds | passes | objective | relative gap |\n|---|---|---|---|", flush=True)
    warnings.simplefilter("ignore")  # fits that end early: the table says how far they got
    progress = Progress()
    forget_peak()
    before = memory("VmRSS")
    progress.start = time.perf_counter()
    model = softhead.SoftmaxClassifier(C=0.316, tol=tol).set_callbacks(progress).fit(X, y)
    seconds = time.perf_counter() - progress.start
    print(f"\n{model.status_}: {seconds:.0f} s, {model.n_passes_:.1f} passes, {model.n_iter_[0]} iterations")
    print(f"objective {model.objective_:.9g}, certified relative gap {model.gap_ / model.objective_:.1e}")
    print("gap below " + ", ".join(f"{goal:g}: {passed:.0f} s" for goal, passed in progress.reached.items()))
    print(f"peak memory {memory('VmHWM') - before:.0f} MB above the {before:.0f} MB before the fit")
