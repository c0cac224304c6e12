"""A damaged, foreign or crafted file is refused in one line; never a crash, a hang, or another model."""

import copy
import hashlib
import json
import os
import pickle
import re
import struct
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
from sklearn.base import BaseEstimator
from sklearn.datasets import load_digits, load_iris
from sklearn.pipeline import make_pipeline

from softhead import SoftmaxClassifier, TableEncoder, TextEncoder, load, model_file, save
from softhead.model_file import ModelFileError, read_model

DIGEST = slice(51, 115)  # of the file, as its specification has it


class Head(BaseEstimator):
    """In the place of SoftmaxClassifier: its state is whatever it was fitted to."""

    def fit(self, state):
        self.state_ = state
        return self

    def to_state(self):
        return self.state_

    @classmethod
    def from_state(cls, state):
        if "refuse" in state:
            raise ValueError("this\nis no state")
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


def canonical(value):
    return json.dumps({"sha256": "0" * 64, "value": value}, sort_keys=True, separators=(",", ":"))


def crafted(text, tensors=None):
    """A file of these metadata and tensors, with a valid digest."""
    return sealed(safetensors.numpy.save(tensors or {}, {"softhead": text}))


def crafted_header(header, data=b""):
    """A file of this header, with a valid digest."""
    return sealed(struct.pack("<Q", len(header)) + header + data)


def content(**changes):
    """What a file says of a bare stand-in with an empty state, changed."""
    step = {"class": "SoftmaxClassifier", "name": None, "state": {}}
    return {"format": 1, "model": [step], "record": None, "softhead": "0.1.0"} | changes


def error_of(path, data=None):
    """The message with which reading `path`, written anew with `data`, fails: one line that begins with its name."""
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        read_model(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.usefixtures("stand_ins")
def test_every_truncation_and_every_flipped_bit_is_noticed(path):
    save(Head().fit({"coef": np.arange(3.0), "labels": np.array(["a", "é"], dtype=object), "gap": 1e-9}), path)
    size = path.stat().st_size
    with open(path, "r+b", buffering=0) as file:  # in place: a thousand new files would be slow
        data = file.read()
        for position, byte in enumerate(data):
            for bit in range(8):
                file.seek(position)
                file.write(bytes([byte ^ 1 << bit]))
                assert re.search("damaged|not a softhead model file", error_of(path))
            file.seek(position)
            file.write(bytes([byte]))
        assert load(path).state_["coef"].tolist() == [0, 1, 2]
        for length in reversed(range(size)):
            file.truncate(length)
            assert re.search("truncated|not a softhead model file", error_of(path))
    assert "digest" in error_of(path, data + b"\n")


def test_random_damage_to_a_real_model_is_noticed(path):
    X, y = load_digits(return_X_y=True)
    save(make_pipeline(TableEncoder(), SoftmaxClassifier()).fit(X[:200], y[:200]), path)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for length in rng.integers(len(data), size=300):
        assert re.search("truncated|not a softhead model file", error_of(path, data[:length]))
    for _ in range(300):
        damaged = bytearray(data)
        start, length = rng.integers(len(data)), rng.integers(1, 9)
        damaged[start : start + length] = bytes(b ^ 0x5A for b in damaged[start : start + length])
        assert re.search("damaged|not a softhead model file", error_of(path, damaged))


TENSOR = {"x": np.zeros(1)}
PREFIX = rb'{"__metadata__":{"softhead":"{\"sha256\":\"' + b"0" * 64 + rb"\","


def entry(dtype="U8", shape=(1,), offsets=(0, 1)):
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": offsets}).encode()


def text_of(**changes):
    return canonical(content(**changes))


def header_of(tensors, record):
    """A header with these entries, whose record refers to tensors."""
    text = json.dumps(text_of(record=record)).encode()
    return b'{"__metadata__":{"softhead":' + text + b"}," + tensors + b"}"


def steps(*classes_and_names):
    return text_of(model=[{"class": cls, "name": name, "state": {}} for cls, name in classes_and_names])


FOREIGN = {
    "empty": (b"", "only 0 bytes"),
    "short": (b"\x40", "only 1 bytes"),
    "pickle": (pickle.dumps({"coef": np.zeros(100)}), "^not a softhead model file$"),
    "text": (b"label,x,y\n" * 20, "^not a softhead model file$"),
    "safetensors": (safetensors.numpy.save(TENSOR, {"format": "pt"}), "^not a softhead model file$"),
    "bare safetensors": (safetensors.numpy.save(TENSOR), "^not a softhead model file$"),
    "huge header": (struct.pack("<Q", 2**63) + crafted(text_of())[8:], "truncated or damaged: .* header of 9223372036"),
    "no digest": (safetensors.numpy.save({}, {"softhead": text_of()}), "digest differs"),
    "newer": (crafted(canonical({"format": 2, "anything": {"tensor": 3}})), "newer softhead: its format is 2, .* to 1"),
}

CRAFTED = {
    "format of 0": (crafted(text_of(format=0)), "its format is 0, accepted is 1"),
    "format of true": (crafted(text_of(format=True)), "its format is True"),
    "format of text": (crafted(text_of(format="1")), "its format is '1'"),
    "no format": (crafted(canonical([])), "its format is None"),
    "unknown key": (crafted(text_of(extra=1)), "the keys format, model, record, softhead"),
    "no record": (crafted(canonical({"format": 1, "model": [], "softhead": ""})), "the keys format, model, record"),
    "unknown top key": (
        crafted(text_of()[:-1] + ',"z":1}'),
        "the keys sha256, value, got",
    ),
    "unknown class": (crafted(steps(("Popen", None))), r"its steps \('Popen',\), .* no model known"),
    "import by name": (crafted(steps(("os.system", None))), r"'os.system'"),
    "lone encoder": (crafted(steps(("TableEncoder", None))), "no model known"),
    "named classifier": (crafted(steps(("SoftmaxClassifier", "x"))), "no model known"),
    "no steps": (crafted(steps()), "no model known"),
    "unnamed pipeline": (crafted(steps(("TableEncoder", None), ("SoftmaxClassifier", None))), "no model known"),
    "wrong order": (crafted(steps(("SoftmaxClassifier", "a"), ("TableEncoder", "b"))), "no model known"),
    "model no list": (crafted(text_of(model={"class": "SoftmaxClassifier"})), "must be a list of steps"),
    "model a tensor": (crafted(text_of(model={"tensor": "x"}), TENSOR), "must be a list of steps"),
    "class a tensor": (
        crafted(text_of(model=[{"class": {"tensor": "x"}, "name": None, "state": {}}]), TENSOR),
        "strings for class and name",
    ),
    "state a list": (
        crafted(text_of(model=[{"class": "SoftmaxClassifier", "name": None, "state": []}])),
        "a dictionary for state",
    ),
    "refused state": (
        crafted(text_of(model=[{"class": "SoftmaxClassifier", "name": None, "state": {"refuse": 1}}])),
        "its SoftmaxClassifier has a state that cannot be: this is no state",
    ),
    "missing tensor": (crafted(text_of(record={"tensor": "x"})), "tensor 'x' is missing"),
    "extra tensor": (crafted(text_of(), TENSOR), "nothing refers to tensor 'x'"),
    "tensor twice": (crafted(text_of(record=[{"tensor": "x"}] * 2), TENSOR), "referred to twice"),
    "type unknown": (
        crafted_header(header_of(b'"x":' + entry("BF16", offsets=(0, 2)), {"tensor": "x"}), b"xx"),
        "type BF16; known are BOOL",
    ),
    "complex": (  # which older versions of safetensors do not know either
        crafted_header(header_of(b'"x":' + entry("C64", offsets=(0, 8)), {"tensor": "x"}), b"12345678"),
        "type C64|not valid safetensors",
    ),
    "bad booleans": (
        crafted_header(header_of(b'"x":' + entry("BOOL"), {"tensor": "x"}), b"\x02"),
        "'x' holds booleans that are neither 0 nor 1",
    ),
    "negative offsets": (
        crafted_header(header_of(b'"x":' + entry(offsets=(-1, 1)), {"tensor": "x"}), b"x"),
        "safetens",
    ),
    "offsets beyond": (
        crafted_header(header_of(b'"x":' + entry(offsets=(0, 9)), {"tensor": "x"}), b"x"),
        "safetensors",
    ),
    "bytes too many": (crafted_header(header_of(b'"x":' + entry(), {"tensor": "x"}), b"xyz"), "safetensors"),
    "huge shape": (crafted_header(header_of(b'"x":' + entry(shape=(2**62, 8)), {"tensor": "x"}), b"x"), "safetensors"),
    "huge empty shape": (
        crafted_header(header_of(b'"x":' + entry(shape=(2**62, 2, 0), offsets=(0, 0)), {"tensor": "x"})),
        "'x' has a shape that no array has",
    ),
    "large empty shape": (
        crafted_header(header_of(b'"x":' + entry(shape=(2**40, 0), offsets=(0, 0)), {"tensor": "x"})),
        "'x' is empty, with a shape of more than 65536",
    ),
    "too many dimensions": (
        crafted_header(header_of(b'"x":' + entry(shape=(1,) * 99), {"tensor": "x"}), b"x"),
        "'x' has a shape that no array has",
    ),
    "endless shape": (
        crafted_header(header_of(b'"x":' + entry(shape=(0,) + (2**40,) * 100_000, offsets=(0, 0)), {"tensor": "x"})),
        "'x' has a shape that no array has",
    ),
    "tensor name twice": (
        crafted_header(header_of(b'"x":' + entry() + b',"x":' + entry(), {"tensor": "x"}), b"x"),
        "a key comes twice",
    ),
    "metadata twice": (
        crafted_header(header_of(b'"__metadata__":{"softhead":"{}"}', None)),
        "a key comes twice",
    ),
    "other metadata": (
        crafted_header(PREFIX + rb'\"value\":{}}","other":"x"}}'),
        "__metadata__ must have the keys softhead",
    ),
    "key twice": (crafted(text_of().replace('"record":', '"record":1,"record":')), "not canonical JSON"),
    "not canonical": (crafted(text_of().replace(",", ", ")), "not canonical JSON"),
    "number not canonical": (crafted(text_of(record="?").replace('"?"', "1.50")), "not canonical JSON"),
    "NaN": (crafted(text_of(record=float("nan"))), "header is not valid JSON|not JSON compliant"),
    "infinite number": (crafted(text_of(record="?").replace('"?"', "1e999")), "not JSON compliant"),
    "endless number": (crafted(text_of(record="?").replace('"?"', "7" * 9999)), "header is not valid JSON"),
    "no JSON": (crafted(text_of()[:-1]), "header is not valid JSON"),
    "header no JSON": (crafted_header(PREFIX + b"\x00" * 9), "header is not valid JSON"),
    "header no UTF-8": (crafted_header(header_of(b'"\xff":' + entry(), None), b"x"), "utf-8"),
    "deep metadata": (crafted(text_of(record="?").replace('"?"', "[" * 50_000)), "too deeply"),
    "deep but closed": (crafted(text_of(record="?").replace('"?"', "[" * 5000 + "]" * 5000)), "too deeply"),
    "deep header": (crafted_header(PREFIX + b'":' + b"[" * 50_000), "too deeply|JSON"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_files_are_refused(path, case):
    data, message = FOREIGN[case]
    assert re.search(message, error_of(path, data))


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_files_are_refused(path, case):
    data, message = CRAFTED[case]
    assert re.search(message, error_of(path, data))


@pytest.mark.usefixtures("stand_ins")
def test_crafted_files_differ_from_good_ones_only_as_they_say(path):
    path.write_bytes(crafted(text_of(record={"tensor": "x"}), TENSOR))
    model, record = read_model(path)
    assert (type(model), model.state_, record.tolist()) == (Head, {}, [0.0])
    path.write_bytes(crafted_header(header_of(b'"x":' + entry("BOOL"), {"tensor": "x"}), b"\x01"))
    assert read_model(path).record.tolist() == [True]


JUNK = [
    *(None, True, -1, 2**70, 1.5, float("nan"), "x", "", [], ["a"], [[1]], {}, {"a": 1}),
    *(np.zeros(0), np.zeros(3), np.zeros((3, 3), np.float32), np.array(3.0), np.array([np.nan] * 3)),
    *(np.array(["a", "b"], dtype=object), np.array([], dtype=object), np.zeros((256, 0))),
]


def places(value, place=()):
    """The path to every value inside a state."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*place, key)
        yield from places(item, (*place, key))


@pytest.mark.parametrize(("kind", "step"), [("table", 0), ("table", 1), ("text", 0)])
def test_states_that_no_model_has_are_refused_or_harmless(path, kind, step, monkeypatch):
    X = load_iris(as_frame=True).data[::10].assign(kind=["a", "b", None] * 5, day=np.arange(15).astype("M8[D]"))
    encoder = TableEncoder()
    if kind == "text":
        X, encoder = X[["kind"]].fillna("c").map(lambda letter: f"the {letter}{letter}"), TextEncoder()
    model = make_pipeline(encoder, SoftmaxClassifier(class_weight={0: 1.0, 1: 2.0, 2: 1.0}))
    model.fit(X, np.arange(15) % 3)
    state = model[step].to_state()
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # hundreds of files that need no disk
    monkeypatch.setattr(model_file, "_check_loadable", lambda *content: None)  # `save` would refuse them
    refused = 0
    for place in places(state):
        for junk in JUNK:
            changed = copy.deepcopy(state)
            inner = changed
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = junk
            monkeypatch.setattr(type(model[step]), "to_state", lambda self, changed=changed: changed)
            save(model, path)
            try:
                loaded = load(path)
            except ModelFileError:
                refused += 1
                continue
            try:
                probabilities = loaded.predict_proba(X)
            except ValueError:  # the steps do not fit together
                continue
            np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-6)
    assert refused > (80 if kind == "text" else 100)


@pytest.mark.usefixtures("stand_ins")
def test_claims_of_size_take_no_memory(path):
    claims = ["huge header", "huge shape", "huge empty shape", "large empty shape", "offsets beyond"]
    tracemalloc.start()
    try:
        for case in claims:
            error_of(path, (FOREIGN | CRAFTED)[case][0])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_a_foreign_file_is_not_read_to_its_end(path):
    with open(path, "wb") as file:
        file.truncate(2**36)  # a hole: takes no space on the disk
    with pytest.raises(ModelFileError, match="not a softhead model file"):
        load(path)


def test_missing_files_are_the_systems_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.safetensors")
    with pytest.raises(OSError, match=re.escape(tmp_path.name)):
        load(tmp_path)
