"""Fits that are stopped and resumed: the same coefficients to the last bit, or a refusal that says why."""

import os
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from softhead import RowSource, SoftmaxClassifier
from softhead._checkpoint import CheckpointFile


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:600] / 16.0, y[:600]


class StopError(Exception):
    """What ends a fit in the middle of a pass."""


def stopped_after(n_blocks, X, y):
    """A source that gives so many blocks and then fails."""
    given = 0

    def blocks():
        nonlocal given
        for rows in (slice(0, 250), slice(250, 400), slice(400, None)):
            given += 1
            if given > n_blocks:
                raise StopError
            yield X[rows], y[rows]

    return RowSource(blocks)


@pytest.fixture
def every_iteration(monkeypatch):
    monkeypatch.setattr("softhead._checkpoint._SHARE", 0.0)


def assert_same(a, b):
    np.testing.assert_array_equal(a.coef_, b.coef_)
    np.testing.assert_array_equal(a.intercept_, b.intercept_)
    for name in ("objective_", "gap_", "n_passes_", "status_"):
        assert getattr(a, name) == getattr(b, name), name
    assert a.n_iter_ == b.n_iter_


@pytest.mark.usefixtures("every_iteration")
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (np.float64, {"tol": 1e-9}),
        (np.float32, {"tol": 1e-9}),  # ends in float64
        (np.float32, {"C": np.inf, "tol": 1e-3, "max_iter": 60}),
        (np.float64, {"fit_intercept": False, "class_weight": "balanced"}),
    ],
)
def test_a_fit_stopped_in_any_pass_ends_with_the_same_bits(tmp_path, digits, dtype, options):
    X, y = digits[0].astype(dtype), digits[1]
    path = tmp_path / "fit.safetensors"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        whole = SoftmaxClassifier(**options).fit(stopped_after(10**9, X, y))
        model = SoftmaxClassifier(**options, checkpoint=path)
        stops = 0
        for n_blocks in [*range(4, 160, 13)] * 3:  # each fit goes some passes further than the one before, or ends
            try:
                model.fit(stopped_after(n_blocks, X, y))
                break
            except StopError:
                stops += 1
                assert not hasattr(model, "coef_")
        else:
            pytest.fail("no progress from fit to fit")
    assert stops >= 3
    assert_same(model, whole)
    assert path.exists() == (whole.status_ == "max_iter")


@pytest.mark.usefixtures("every_iteration")
def test_more_iterations_go_on_where_fewer_ended(tmp_path, digits):
    path = tmp_path / "fit.safetensors"
    whole = SoftmaxClassifier().fit(*digits)
    with pytest.warns(ConvergenceWarning, match="max_iter=5"):
        SoftmaxClassifier(max_iter=5, checkpoint=path).fit(*digits)
    assert path.exists()
    model = SoftmaxClassifier(checkpoint=path).fit(*digits)
    assert_same(model, whole)
    assert not path.exists()


@pytest.mark.usefixtures("every_iteration")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"C": 2.0}, "with C = 1.0; here it is 2.0"),
        ({"tol": 1e-3}, "with tol = 0.0001; here it is 0.001"),
        ({"fit_intercept": False}, "with fit_intercept = True; here it is False"),
        ({"class_weight": "balanced"}, "with class_weight = 'None'"),
        ({"rows": "fewer"}, "with the number of rows = 600; here it is 599"),
        ({"rows": "float32"}, "with the dtype = 'float64'; here it is 'float32'"),
        ({"rows": "other class"}, "with the classes = "),
        ({"rows": "one bit"}, "its rows, labels or weights are others: at its coefficients the objective is "),
        ({"rows": "one label"}, "its rows, labels or weights are others: at its coefficients the objective is "),
        ({"rows": "weights"}, "its rows, labels or weights are others: at its coefficients the objective is "),
    ],
)
def test_another_fit_is_refused_with_the_reason(tmp_path, digits, change, words):
    X, y = digits
    path = tmp_path / "fit.safetensors"
    with pytest.warns(ConvergenceWarning):
        SoftmaxClassifier(max_iter=4, checkpoint=path).fit(X, y)
    before = path.read_bytes()
    change = dict(change)
    rows, weight = change.pop("rows", None), None
    X, y = X.copy(), y.copy()
    if rows == "fewer":
        X, y = X[1:], y[1:]
    elif rows == "float32":
        X = X.astype(np.float32)
    elif rows == "other class":
        y[y == 9] = 10
    elif rows == "one bit":
        X[17, 20] += 1e-3
    elif rows == "one label":
        y[3] = 7
    elif rows == "weights":
        weight = np.ones(len(y))
        weight[:2] = 0.5, 1.5
    with pytest.raises(ValueError, match=words):
        SoftmaxClassifier(checkpoint=path, **change).fit(X, y, weight)
    assert path.read_bytes() == before


def test_what_is_no_checkpoint_is_refused(tmp_path, digits):
    path = tmp_path / "fit.safetensors"
    for content in (b"", b"no checkpoint", b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged, or no checkpoint"):
            SoftmaxClassifier(checkpoint=path).fit(*digits)
        assert path.read_bytes() == content
    path.unlink()
    with pytest.warns(ConvergenceWarning):
        SoftmaxClassifier(max_iter=3, checkpoint=path).fit(*digits)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        SoftmaxClassifier(checkpoint=path).fit(*digits)
    with pytest.raises(FileNotFoundError, match="folder of the checkpoint does not exist"):
        SoftmaxClassifier(checkpoint=tmp_path / "no" / "fit").fit(*digits)
    with pytest.raises(IsADirectoryError, match="the checkpoint is to be a file, and this is a folder"):
        SoftmaxClassifier(checkpoint=tmp_path).fit(*digits)
    with pytest.raises(TypeError, match="checkpoint: 3; accepted are the path of a file, and None"):
        SoftmaxClassifier(checkpoint=3).fit(*digits)


def test_rows_in_other_blocks_are_told_by_their_gradient(tmp_path, digits):
    X, y = digits
    path = tmp_path / "fit.safetensors"
    with pytest.warns(ConvergenceWarning):
        SoftmaxClassifier(max_iter=8, checkpoint=path).fit(RowSource([(X[:250], y[:250]), (X[250:], y[250:])]))
    other = RowSource([(X[:251], y[:251]), (X[251:], y[251:])])
    words = r"^checkpoint: its rows.* or their blocks are\. Remove the file to begin anew$"
    with pytest.raises(ValueError, match=words):
        SoftmaxClassifier(checkpoint=path).fit(other)


def test_another_machine_is_told_and_the_optimum_is_the_same(tmp_path, digits, monkeypatch):
    path = tmp_path / "fit.safetensors"
    with pytest.warns(ConvergenceWarning):
        SoftmaxClassifier(max_iter=8, checkpoint=path).fit(*digits)
    monkeypatch.setattr("softhead.linear.blas.described", lambda: "another BLAS")
    model = SoftmaxClassifier(checkpoint=path)
    with pytest.warns(UserWarning, match="made on another machine .* now another BLAS"):
        model.fit(*digits)
    assert model.objective_ == pytest.approx(SoftmaxClassifier().fit(*digits).objective_, rel=1e-4)


def test_states_are_written_no_more_often_than_they_are_worth(tmp_path, monkeypatch):
    times = iter([0.0, 1.0, 5.0, 12.0, 12.5])
    monkeypatch.setattr("softhead._checkpoint.time.monotonic", lambda: next(times))
    file = CheckpointFile(tmp_path / "c", {"a": 1})
    made = []

    def state():
        made.append(1)
        return {"x": np.arange(3.0), "inf": np.inf}

    file.offer(state)  # takes a second
    file.offer(state)  # at 5: too soon
    file.offer(state)  # at 12
    assert len(made) == 2
    found = CheckpointFile(tmp_path / "c", {"a": 1}).load()
    assert found["x"].tolist() == [0.0, 1.0, 2.0]
    assert found["inf"] == np.inf


def test_the_path_is_a_parameter_that_clones_have():
    model = SoftmaxClassifier(checkpoint="somewhere")
    assert clone(model).get_params()["checkpoint"] == "somewhere"


SCRIPT = """
import sys, os
import numpy as np
from sklearn.datasets import load_digits
from softhead import SoftmaxClassifier, _checkpoint

write = _checkpoint.CheckpointFile.offer

def write_and_die(self, state, **more):
    write(self, state, **more)
    if state()["n_iter"] == int(sys.argv[3]):
        os.kill(os.getpid(), 9)

_checkpoint.CheckpointFile.offer, _checkpoint._SHARE = write_and_die, 0.0
X, y = load_digits(return_X_y=True)
model = SoftmaxClassifier(checkpoint=sys.argv[1]).fit(X[:600] / 16.0, y[:600])
np.savez(sys.argv[2], coef=model.coef_, intercept=model.intercept_, passes=model.n_passes_)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_process_is_resumed_by_another_to_the_same_bits(tmp_path, digits):
    checkpoint, result = tmp_path / "fit.safetensors", tmp_path / "result.npz"
    run = [sys.executable, "-c", SCRIPT, checkpoint, result]
    assert subprocess.run([*run, "5"]).returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == [checkpoint.name]
    subprocess.run([*run, "-1"], check=True)
    assert os.listdir(tmp_path) == [result.name]
    whole = SoftmaxClassifier().fit(*digits)
    assert whole.n_iter_ > 5
    with np.load(result) as resumed:
        np.testing.assert_array_equal(resumed["coef"], whole.coef_)
        np.testing.assert_array_equal(resumed["intercept"], whole.intercept_)
        assert resumed["passes"] == whole.n_passes_
