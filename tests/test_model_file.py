"""A model file gives back the model that was saved, bit for bit, or says in one line why not."""

import hashlib
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open
from sklearn.base import BaseEstimator
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from softhead import SoftmaxClassifier, TableEncoder, __version__, load, model_file, save
from softhead.model_file import read_model, write_model

DIGEST = slice(51, 115)  # of the file, as its specification has it
LABELS = ["", "\x00 and more", "<script>", "a\nb", "\U0001f600", "é" * 40]


# --- stand-ins for the steps, so that files can hold any state


class Head(BaseEstimator):
    """In the place of SoftmaxClassifier: its state is whatever it was fitted to."""

    def fit(self, state):
        self.state_ = state
        return self

    def to_state(self):
        return self.state_

    @classmethod
    def from_state(cls, state):
        return cls().fit(state)


class Encoder(Head):
    """In the place of TableEncoder."""


@pytest.fixture
def stand_ins(monkeypatch):
    monkeypatch.setattr(model_file, "_step_classes", lambda: {"SoftmaxClassifier": Head, "TableEncoder": Encoder})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a model.safetensors"


def sealed(data):
    """The bytes of a file with the digest that they must have."""
    blank = data[: DIGEST.start] + b"0" * 64 + data[DIGEST.stop :]
    return data[: DIGEST.start] + hashlib.sha256(blank).hexdigest().encode() + data[DIGEST.stop :]


# --- round trips


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "labels",
    [np.array(LABELS), np.arange(6) - 3, np.arange(6, dtype=np.uint8), [False, True]],
    ids=["str", "int", "uint8", "bool"],
)
def test_a_classifier_comes_back_bit_for_bit(path, labels, dtype):
    X, y = np.random.default_rng(0).normal(size=(60, 4)).astype(dtype), np.resize(labels, 60)
    model = SoftmaxClassifier(C=3.0, fit_intercept=False, max_iter=50).fit(X, y)
    save(model, str(path))
    same = load(path)
    assert type(same) is SoftmaxClassifier
    assert same.get_params() == model.get_params()
    for name in ("coef_", "intercept_"):
        assert getattr(same, name).dtype == dtype
        assert getattr(same, name).tobytes() == getattr(model, name).tobytes()
    assert same.classes_.dtype == model.classes_.dtype
    assert same.classes_.tolist() == model.classes_.tolist()
    assert same.predict(X).tolist() == model.predict(X).tolist()
    assert same.predict_proba(X).tobytes() == model.predict_proba(X).tobytes()
    assert read_model(path).record is None


def test_labels_of_an_object_array_come_back_equal(path):
    model = SoftmaxClassifier().fit(np.eye(6), np.array(LABELS, dtype=object))
    save(model, path)
    assert load(path).classes_.tolist() == sorted(LABELS)
    assert load(path).predict(np.eye(6)).tolist() == LABELS


def test_a_table_model_comes_back_bit_for_bit(path):
    table = load_iris(as_frame=True)
    X = table.data.assign(kind=[None, "é", "", "<script>", "\x00"] * 30)
    model = make_pipeline(TableEncoder(), SoftmaxClassifier()).fit(X, table.target_names[table.target])
    save(model, path)
    same = load(path)
    assert [(name, type(step)) for name, step in same.steps] == [(name, type(step)) for name, step in model.steps]
    assert same.predict_proba(X).tobytes() == model.predict_proba(X).tobytes()
    assert same.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    reordered = X[X.columns[::-1]]
    assert same.predict_proba(reordered).tobytes() == model.predict_proba(X).tobytes()


def test_a_loaded_model_saves_to_the_same_bytes_and_can_be_fitted_on(path, tmp_path):
    X, y = load_digits(return_X_y=True)
    model = make_pipeline(TableEncoder(), SoftmaxClassifier(warm_start=True)).fit(X[:300], y[:300])
    save(model, path)
    again = tmp_path / "again"
    same = load(path)
    save(same, again)
    assert again.read_bytes() == path.read_bytes()
    same.fit(X[:300], y[:300])
    assert same.score(X[:300], y[:300]) == model.score(X[:300], y[:300])


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("code", ["?", "i1", "u2", "<i4", ">i4", ">u8", "f2", ">f4", "<f8", "q"])
def test_arrays_come_back_as_ordinary_ones(path, code):
    numbers = (np.arange(24) % 7).astype(code)
    arrays = [
        numbers.reshape(2, 3, 4),
        np.asfortranarray(numbers.reshape(4, 6)),
        numbers[::-5],
        numbers[:0].reshape(0, 3),
        numbers[3:4].reshape(()),
        np.broadcast_to(numbers[2], (2, 2)),
    ]
    save(Head().fit({"arrays": arrays}), path)
    for array, same in zip(arrays, load(path).state_["arrays"], strict=True):
        assert (same.shape, same.dtype) == (array.shape, array.dtype.newbyteorder("="))
        assert same.tolist() == array.tolist()
        assert same.flags.c_contiguous
        assert same.flags.owndata
        assert same.flags.writeable


@pytest.mark.usefixtures("stand_ins")
def test_memory_maps_are_stored_as_arrays(path, tmp_path):
    np.save(tmp_path / "coef.npy", np.arange(6.0).reshape(2, 3))
    save(Head().fit({"coef": np.load(tmp_path / "coef.npy", mmap_mode="r")}), path)
    coef = load(path).state_["coef"]
    assert type(coef) is np.ndarray
    assert coef.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.usefixtures("stand_ins")
def test_names_of_steps_and_the_record_come_back(path):
    model = Pipeline([("é/table~", Encoder().fit({"a": [1, True, None, -0.0]})), ("head", Head().fit({"tensor": 2}))])
    record = {"held_out": np.array([4, 1]), "seconds": float("inf"), "sha256": "0" * 64, "": {}}
    write_model(model, path, record)
    same, same_record = read_model(path)
    assert list(same.named_steps) == ["é/table~", "head"]
    assert repr(same["é/table~"].state_) == "{'a': [1, True, None, -0.0]}"
    assert same["head"].state_ == {"tensor": 2}
    assert same_record.pop("held_out").tolist() == record.pop("held_out").tolist()
    assert same_record == record


@pytest.mark.usefixtures("stand_ins")
def test_equal_models_give_equal_bytes(path, tmp_path):
    state = {name: np.arange(3.0) for name in "zyxwvutsrqponm"}
    save(Head().fit(state), path)
    save(Head().fit(dict(sorted(state.items()))), tmp_path / "other")
    assert path.read_bytes() == (tmp_path / "other").read_bytes()
    (tmp_path / "other").unlink()
    state["m"][0] = 1e-300
    save(Head().fit(state), tmp_path / "other")
    assert path.read_bytes() != (tmp_path / "other").read_bytes()


def test_the_file_is_plain_safetensors(path):
    X, y = load_iris(return_X_y=True)
    model = SoftmaxClassifier().fit(X, y)
    save(model, path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert list(metadata) == ["softhead"]
    document = json.loads(metadata["softhead"])
    data = path.read_bytes()
    assert document["sha256"].encode() == data[DIGEST]
    assert sealed(data) == data
    assert document["value"]["softhead"] == __version__
    assert metadata["softhead"].isascii()
    tensors = safetensors.numpy.load_file(path)
    assert tensors["/model/0/state/coef_"].tobytes() == model.coef_.tobytes()
    assert set(tensors) == set(re.findall(r'"tensor":"(.*?)"', metadata["softhead"]))


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("labels", [["no", "yes"], ["a", "b", "c"]])
def test_the_documented_reader_works(path, labels, temperature, monkeypatch):
    page = Path(__file__).parents[1] / "docs" / "model-file.md"
    examples = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    X = np.random.default_rng(0).normal(size=(30, 5))
    model = SoftmaxClassifier().fit(X, np.resize(labels, 30))
    model.temperature_ = temperature
    path = path.with_name("model.safetensors")
    save(model, path)
    monkeypatch.chdir(path.parent)
    reader, check = examples
    names = {}
    exec(reader, names)
    np.testing.assert_allclose(names["predict_proba"](X), model.predict_proba(X), rtol=1e-12)
    assert names["labels"] == labels
    exec(check, names)


# --- what cannot be saved


@pytest.mark.parametrize(
    ("model", "got"),
    [
        (LogisticRegression(), "sklearn.linear_model._logistic.LogisticRegression"),
        (SoftmaxClassifier, "type"),
        (TableEncoder(), "softhead.tables.TableEncoder"),
        (make_pipeline(SoftmaxClassifier()), "Pipeline of SoftmaxClassifier"),
        (make_pipeline(StandardScaler(), SoftmaxClassifier()), "Pipeline of StandardScaler, SoftmaxClassifier"),
        (make_pipeline(SoftmaxClassifier(), TableEncoder()), "Pipeline of SoftmaxClassifier, TableEncoder"),
        (make_pipeline(TableEncoder(), "passthrough"), "Pipeline of TableEncoder, str"),
        (type("MyPipeline", (Pipeline,), {})([("head", SoftmaxClassifier())]), "MyPipeline"),
        (None, "NoneType"),
    ],
)
def test_other_models_are_refused(path, model, got):
    with pytest.raises(TypeError, match=f"SoftmaxClassifier or a Pipeline of TableEncoder, Soft.*; got .*{got}$"):
        save(model, path)
    assert os.listdir(path.parent) == []


def test_models_not_fitted_are_refused(path):
    half = make_pipeline(TableEncoder(), SoftmaxClassifier().fit([[0.0], [1.0]], [0, 1]))
    for model in (SoftmaxClassifier(), make_pipeline(TableEncoder(), SoftmaxClassifier()), half):
        with pytest.raises(NotFittedError):
            save(model, path)
    assert os.listdir(path.parent) == []


@pytest.mark.usefixtures("stand_ins")
def test_values_that_cannot_be_stored_leave_the_old_file(path):
    save(Head().fit({}), path)
    before = path.read_bytes()
    with pytest.raises(TypeError, match="cannot store /model/0/state/when: got slice"):
        save(Head().fit({"when": slice(3)}), path)
    with pytest.raises(TypeError, match="cannot store /record/when: got slice"):
        write_model(Head().fit({}), path, {"when": slice(3)})
    assert path.read_bytes() == before


@pytest.mark.usefixtures("stand_ins")
def test_what_could_not_be_loaded_is_not_saved(path, monkeypatch):
    monkeypatch.setattr(model_file, "_MAX_HEADER", 1000)
    with pytest.raises(ValueError, match=r"text outside arrays takes .* bytes, more than the 1000"):
        save(Head().fit({"text": "x" * 1000}), path)
    monkeypatch.setattr(model_file, "serialize", lambda tensors, metadata: safetensors.numpy.save(tensors))
    with pytest.raises(RuntimeError, match="metadata first"):
        save(Head().fit({}), path)
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("coef_", np.ones((3, 5))),
        ("coef_", np.ones((2, 2))),
        ("coef_", np.full((3, 2), np.nan)),
        ("coef_", [[1.0, 2.0]] * 3),
        ("intercept_", np.zeros(2)),
        ("intercept_", None),
        ("classes_", np.array([2, 1, 0])),
        ("classes_", np.arange(4)),
        ("gap_", "small"),
        ("status_", "fine"),
        ("C", -1.0),
    ],
)
def test_a_model_changed_after_fit_is_refused_where_it_could_not_be_loaded(path, name, value):
    model = SoftmaxClassifier().fit([[0.0, 1.0], [1.0, 3.0], [2.0, 0.0]], [0, 1, 2])
    save(model, path)
    before = path.read_bytes()
    setattr(model, name, value)
    with pytest.raises(ValueError, match=r"^model cannot be saved: its SoftmaxClassifier has "):
        save(model, path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


# --- failures while saving


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=repr)
def test_a_failure_while_writing_leaves_the_old_model(path, monkeypatch, error):
    old = SoftmaxClassifier().fit([[0.0], [1.0]], ["a", "b"])
    save(old, path)

    def fail(descriptor):
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error)):
        save(SoftmaxClassifier().fit([[0.0], [3.0]], ["a", "c"]), path)
    assert load(path).coef_.tobytes() == old.coef_.tobytes()
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes to kill them")
def test_a_process_killed_or_out_of_space_while_saving_leaves_a_whole_model(path):
    code = """
        import itertools, os, resource, signal, sys, time
        import numpy as np
        from softhead import SoftmaxClassifier, load, save

        path = sys.argv[1]
        X = np.random.default_rng(0).normal(size=(30, 5000))
        models = [SoftmaxClassifier(max_iter=500, C=C).fit(X, np.arange(30) % 6) for C in (1e-3, 1e-2)]
        save(models[0], path)
        old = open(path, "rb").read()

        def save_in_child(prepare, seconds):
            child = os.fork()
            if child == 0:
                prepare()
                try:
                    for turn in itertools.count(1):
                        save(models[turn % 2], path)
                except OSError as error:
                    os._exit(error.errno)
            time.sleep(seconds)
            if seconds:
                os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1]

        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        for function in ("fsync", "replace"):
            assert os.WTERMSIG(save_in_child(lambda: setattr(os, function, die), 0)) == signal.SIGKILL
            assert open(path, "rb").read() == old

        limit = len(old) // 2
        status = save_in_child(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)), 0)
        assert os.waitstatus_to_exitcode(status) == 27, status  # EFBIG
        assert open(path, "rb").read() == old

        seen = set()
        for trial in range(40):
            save_in_child(lambda: None, 1e-3 + trial * 3e-4)
            coef = load(path).coef_.tobytes()
            seen.add([model.coef_.tobytes() for model in models].index(coef))
        print(sorted(seen))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), path], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout in ("[0]\n", "[0, 1]\n", "[1]\n")
