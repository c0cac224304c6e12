"""The model file: a fitted model as one safetensors file that holds numbers and text, and runs no code.

The tensors are the model's arrays. The metadata has one key, ``softhead``: canonical JSON that says what the arrays
mean, with a SHA-256 digest of the whole file. ``docs/model-file.md`` specifies both for readers in other languages.
"""

import hashlib
import json
import os
import reprlib
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as serialize
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from softhead._files import atomic_output
from softhead._values import decode, encode, to_array
from softhead._version import __version__

FORMAT = 1  # raised when the JSON, or a state inside it, changes in a way that older versions would misread

# Every model file, whatever its format, begins with the length of its header (8 bytes) and these bytes; then come the
# 64 hexadecimal digits of its digest. A reader can so check the digest before it believes anything else.
_MAGIC = rb'{"__metadata__":{"softhead":"{\"sha256\":\"'
_DIGEST = slice(8 + len(_MAGIC), 8 + len(_MAGIC) + 64)
_MAX_HEADER = 100_000_000  # bytes; what safetensors itself accepts

# The models a file can hold, by the classes of their steps.
_BARE = ("SoftmaxClassifier",)
_PIPELINES = (("TableEncoder", "SoftmaxClassifier"), ("TextEncoder", "SoftmaxClassifier"))


class _Step(Protocol):
    """An estimator that gives its fitted state as plain values and arrays, and is made again from them."""

    def to_state(self) -> dict[str, object]: ...

    @classmethod
    def from_state(cls, state: dict[str, object]) -> Self: ...


def _step_classes() -> dict[str, type[_Step]]:
    """Every class that a file may name: nothing is ever looked up elsewhere."""
    from softhead.estimator import SoftmaxClassifier
    from softhead.tables import TableEncoder
    from softhead.text import TextEncoder

    return {"SoftmaxClassifier": SoftmaxClassifier, "TableEncoder": TableEncoder, "TextEncoder": TextEncoder}


class ModelFileError(ValueError):
    """A file that is not a readable model; the message is one line that names the file and what is wrong with it."""


class ModelFile(NamedTuple):
    """What a model file holds: the fitted model, and the record that was stored beside it."""

    model: Any
    record: Any


def save(model: object, path: str | os.PathLike[str]) -> None:
    """Write a fitted model to a file.

    The file appears under its name complete, or not at all: whatever fails, an older file of that name survives byte
    for byte. Saving the same model again gives the same bytes.

    Parameters
    ----------
    model : SoftmaxClassifier, SoftmaxClassifierCV or Pipeline
        A fitted classifier, or a fitted pipeline of a `TableEncoder` or `TextEncoder` and a classifier. Of the
        pipeline the steps and their names are kept; of a `SoftmaxClassifierCV`, its ``best_estimator_``.
    path : str or path-like
        The file to write; ``.safetensors`` is the customary suffix.

    Raises
    ------
    TypeError
        If `model` is something else.
    ValueError
        If its attributes do not fit together, as after a change by hand; nothing is written.
    sklearn.exceptions.NotFittedError
        If `model` is not fitted.
    OSError
        If the file cannot be written.

    References
    ----------
    Safetensors: https://github.com/safetensors/safetensors. SHA-256: FIPS 180-4, Secure Hash Standard.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from softhead import SoftmaxClassifier, load, save
    >>> model = SoftmaxClassifier().fit([[0.0], [1.0], [2.0]], ["low", "low", "high"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.safetensors")
    ...     save(model, path)
    ...     same = load(path)
    >>> (same.coef_ == model.coef_).all(), same.classes_.tolist()
    (np.True_, ['high', 'low'])
    """
    write_model(model, path, None)


def load(path: str | os.PathLike[str]) -> Any:
    """Read a fitted model back from a file that `save` or the command line wrote.

    The digest of the file is checked first, then its structure. Nothing in a file is run or imported, so a file from
    anywhere can be opened safely; whether its predictions deserve trust is another question.

    Parameters
    ----------
    path : str or path-like
        The file to read.

    Returns
    -------
    SoftmaxClassifier or Pipeline
        The model, its arrays bit for bit those that were saved.

    Raises
    ------
    ModelFileError
        A `ValueError`: the file is not a softhead model, is damaged or truncated, or was written by a newer softhead.
    OSError
        If there is no such file, or it cannot be read.

    References
    ----------
    Safetensors: https://github.com/safetensors/safetensors. SHA-256: FIPS 180-4, Secure Hash Standard.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from softhead import load
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "letter.safetensors")
    ...     _ = path.write_text("Dear reader, this is no model at all.")
    ...     load(path)
    Traceback (most recent call last):
    softhead.model_file.ModelFileError: ...letter.safetensors: not a softhead model file
    """
    return read_model(path).model


def write_model(model: object, path: str | os.PathLike[str], record: object) -> None:
    """Write a fitted model, and a record beside it, to a file.

    Parameters
    ----------
    model, path
        As for `save`, which writes the record None.
    record : None, bool, int, float, str, ndarray, list or dict
        Anything worth keeping with the model. Lists, and dictionaries with keys of str, may hold any of these;
        arrays may be of bool, integers, float16, float32, float64, or one-dimensional object arrays of str.

    Raises
    ------
    TypeError, NotFittedError, OSError
        As for `save`; TypeError also where `record` holds anything else.
    ValueError
        Where the record cannot be stored: text that is not valid Unicode, or some 100 MB of it outside arrays.

    References
    ----------
    As for `save`.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from softhead import SoftmaxClassifier
    >>> from softhead.model_file import read_model, write_model
    >>> model = SoftmaxClassifier().fit([[0.0], [1.0]], [False, True])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.safetensors")
    ...     write_model(model, path, {"held_out_rows": np.array([3, 5])})
    ...     read_model(path).record
    {'held_out_rows': array([3, 5])}
    """
    tensors: dict[str, np.ndarray] = {}
    content = {"format": FORMAT, "model": _describe(model), "record": record, "softhead": __version__}
    value = encode(content, "", tensors)
    _check_loadable(value, tensors)
    document = {"sha256": "0" * 64, "value": value}
    data = serialize(tensors, {"softhead": _canonical_json(document)})
    # Guards the law that what was saved can be loaded, also with a safetensors library of another day.
    if not data.startswith(_MAGIC, 8):
        raise RuntimeError("this version of safetensors does not put the metadata first, where a model file has it")
    if (length := _header_length(data)) > _MAX_HEADER:
        raise ValueError(f"text outside arrays takes {length} bytes, more than the {_MAX_HEADER} that a file can hold")
    with atomic_output(path) as file:
        file.write(data[: _DIGEST.start])
        file.write(_digest(data))
        file.write(memoryview(data)[_DIGEST.stop :])


def read_model(path: str | os.PathLike[str]) -> ModelFile:
    """Read a model and the record beside it.

    Parameters
    ----------
    path : str or path-like
        The file to read.

    Returns
    -------
    ModelFile
        The pair ``(model, record)``.

    Raises
    ------
    ModelFileError, OSError
        As for `load`.

    References
    ----------
    As for `load`.

    Examples
    --------
    See `write_model`.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(_DIGEST.stop)
            _check_start(start)  # before reading on: the file may be anything, of any size
            data = start + file.read()
        return _decode_file(data)
    except RecursionError as error:
        raise ModelFileError(f"{os.fspath(path)}: nested too deeply") from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"{os.fspath(path)}: {reason}") from error


# --- the file as bytes


def _header_length(data: bytes) -> int:
    """Bytes of the JSON header, which follows the eight bytes of this number."""
    return int.from_bytes(data[:8], "little")


def _digest(data: bytes) -> bytes:
    """SHA-256 of a file, taken as if the digest's own characters were zeros."""
    digest = hashlib.sha256(data[: _DIGEST.start])
    digest.update(b"0" * 64)
    digest.update(memoryview(data)[_DIGEST.stop :])
    return digest.hexdigest().encode()


def _check_start(start: bytes) -> None:
    """Refuse a file that does not begin as a model file does."""
    if not _MAGIC.startswith(start[8 : _DIGEST.start]):
        raise ValueError("not a softhead model file")
    if len(start) < _DIGEST.stop:
        raise ValueError(f"not a softhead model file, or truncated: only {len(start)} bytes long")


def _decode_file(data: bytes) -> ModelFile:
    """Model and record from the bytes of a file that begins well; ValueError says what is wrong with the rest."""
    length = _header_length(data)
    if length > min(len(data) - 8, _MAX_HEADER):
        raise ValueError(f"truncated or damaged: {len(data)} bytes long, with a header of {length} bytes")
    if _digest(data) != data[_DIGEST]:
        raise ValueError("damaged or truncated: its SHA-256 digest differs from the one written in it")
    value = _read_header(data[8 : 8 + length])
    try:
        tensors = {name: to_array(name, tensor) for name, tensor in deserialize(data)}  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise ValueError(f"not valid safetensors: {error}") from error
    content = decode(value, tensors)
    _check_keys(content, "the metadata", "format", "model", "record", "softhead")
    if tensors:
        raise ValueError(f"nothing refers to tensor {reprlib.repr(min(tensors))}")
    return ModelFile(_build(content["model"]), content["record"])


def _read_header(header: bytes) -> object:
    """Return what the header's metadata say, still encoded, once their form and format version are known to be ours."""
    metadata = _parse_json(header.decode(), object_pairs_hook=_unique)["__metadata__"]
    _check_keys(metadata, "__metadata__", "softhead")
    document = _parse_json(metadata["softhead"])
    if _canonical_json(document) != metadata["softhead"]:  # has a key twice, say, of which one was not read
        raise ValueError("its metadata is not canonical JSON")
    _check_keys(document, "the metadata", "sha256", "value")
    value = document["value"]
    version = value.get("format") if isinstance(value, dict) else None
    if type(version) is not int or version < 1:
        raise ValueError(f"its format is {reprlib.repr(version)}, accepted is {FORMAT}")
    if version > FORMAT:
        raise ValueError(
            f"written by a newer softhead: its format is {reprlib.repr(version)}, "
            f"while softhead {__version__} reads up to {FORMAT}"
        )
    return value


def _parse_json(text: str, **options: Any) -> Any:
    """``json.loads``, with an error that says what it is about."""
    try:
        return json.loads(text, **options)
    except ValueError as error:
        raise ValueError(f"its header is not valid JSON: {error}") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make a dictionary of key and value pairs, in which no key may come twice."""
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key comes twice")
    return result


def _canonical_json(document: object) -> str:
    """Return the one JSON text of a document: sorted keys, no spaces, ASCII, shortest form of every number."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _check_keys(value: object, what: str, *keys: str) -> None:
    """Refuse what is not a dictionary with exactly these keys."""
    if not isinstance(value, dict) or value.keys() != set(keys):
        raise ValueError(f"{what} must have the keys {', '.join(keys)}, got {reprlib.repr(value)}")


# --- models as values


def _describe(model: Any) -> list[dict[str, object]]:
    """Class, name and state of each step of a fitted model; a bare classifier is one step without a name."""
    names: dict[type, str] = {cls: name for name, cls in _step_classes().items()}
    steps = model.steps if type(model) is Pipeline else [(None, model)]
    steps = [(name, _kept(step)) for name, step in steps]
    classes = tuple(names.get(type(step)) for _, step in steps)
    if classes not in (_PIPELINES if type(model) is Pipeline else (_BARE,)):
        got = f"{type(model).__module__}.{type(model).__qualname__}"
        if type(model) is Pipeline:
            got += f" of {', '.join(type(step).__name__ for _, step in steps)}"
        accepted = " or ".join(", ".join(classes) for classes in _PIPELINES)
        raise TypeError(f"model must be a {_BARE[0]} or a Pipeline of {accepted}; got {got}")
    for _, step in steps:
        check_is_fitted(step)
    description: list[dict[str, object]] = []
    for cls, (name, step) in zip(classes, steps, strict=True):
        try:
            description.append({"class": cls, "name": name, "state": step.to_state()})
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"model cannot be saved: its {cls} has no state: {error}") from error
    return description


def _check_loadable(value: object, tensors: dict[str, np.ndarray]) -> None:
    """Refuse a model that could not be made again, such as one with an attribute changed after `fit`."""
    try:
        _build(decode(value, dict(tensors))["model"])
    except ValueError as error:
        raise ValueError(f"model cannot be saved: {error}; was an attribute changed after fit?") from error


def _kept(step: object) -> object:
    """Return what is kept of a step: of a search, the classifier that it found."""
    from softhead.cross_validation import SoftmaxClassifierCV

    if type(step) is not SoftmaxClassifierCV:
        return step
    check_is_fitted(step, "best_estimator_")
    return step.best_estimator_


def _build(description: object) -> Any:
    """Make the model that `_describe` described."""
    if not isinstance(description, list):
        raise ValueError(f"the model must be a list of steps, got {reprlib.repr(description)}")
    for step in description:
        _check_keys(step, "a step", "class", "name", "state")
        if not (
            isinstance(step["class"], str) and isinstance(step["name"], str | None) and isinstance(step["state"], dict)
        ):
            raise ValueError(
                f"a step must have strings for class and name, a dictionary for state, got {reprlib.repr(step)}"
            )
    classes = tuple(step["class"] for step in description)
    names = [step["name"] for step in description]
    is_pipeline = None not in names
    if classes not in (_PIPELINES if is_pipeline else (_BARE,)):
        raise ValueError(f"its steps {reprlib.repr(classes)}, named {reprlib.repr(names)}, are no model known here")
    table = _step_classes()
    steps = []
    for step in description:
        try:
            steps.append(table[step["class"]].from_state(step["state"]))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"its {step['class']} has a state that cannot be: {error}") from error
    return Pipeline(list(zip(names, steps, strict=True))) if is_pipeline else steps[0]
