"""Nested values as JSON and tensors, and back: what a model file is made of.

A value is None, a bool, int, float or str, an array of numbers or strings, or a list or dictionary of values. Arrays
become tensors, which the JSON refers to by name; ``docs/model-file.md`` has the rules.
"""

import math
import reprlib
from itertools import pairwise
from typing import Any

import numpy as np

_DTYPES = {  # of tensors: the name that safetensors has for them, and NumPy's; on file they are little-endian
    "BOOL": "|b1",
    "I8": "|i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "U8": "|u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}

# A JSON object with one of these as its only key stands for a value that JSON lacks. A dictionary that happens to
# look like one is wrapped in {"dict": ...}.
_TAGS = frozenset({"dict", "float", "strings", "tensor"})

# Largest product of the other dimensions of an array with a dimension of length 0. Such an array takes no bytes, but
# what is made of it may: nested lists, arrays as long as its longest dimension.
_MAX_EMPTY = 1 << 16


def encode(value: object, path: str, tensors: dict[str, np.ndarray]) -> object:
    """Turn a value into JSON; its arrays go to `tensors`, named by the path to them (RFC 6901, JSON Pointer)."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, str):
        _utf8(value)
        return value
    if isinstance(value, list):
        return [encode(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
    if isinstance(value, dict):
        encoded = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"cannot store {path}: the keys of a dictionary must be str, got {key!r}")
            _utf8(key)
            encoded[key] = encode(item, f"{path}/{key.replace('~', '~0').replace('/', '~1')}", tensors)
        return {"dict": encoded} if _is_tagged(encoded) else encoded
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):  # a mask would get lost
        return _encode_array(value, path, tensors)
    raise TypeError(
        f"cannot store {path}: got {type(value).__name__}; accepted are None, bool, int, float, str, "
        "NumPy arrays, and lists and dictionaries of these"
    )


def _encode_array(array: np.ndarray, path: str, tensors: dict[str, np.ndarray]) -> object:
    """Move an array to `tensors`: numbers as they are; strings as their UTF-8 bytes and where each begins and ends."""
    if array.dtype.newbyteorder("<").str in _DTYPES.values():
        _check_shape(array, path)
        tensors[path] = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
        return {"tensor": path}
    if array.dtype == object and array.ndim == 1 and all(isinstance(item, str) for item in array):
        encoded = [_utf8(item) for item in array]
        tensors[f"{path}/utf8"] = np.frombuffer(b"".join(encoded), np.uint8)
        tensors[f"{path}/offsets"] = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return {"strings": path}
    raise TypeError(
        f"cannot store {path}: got an array of {array.ndim} dimensions and dtype {array.dtype}; accepted are bool, "
        "integers, float16, float32, float64, and one-dimensional object arrays of str"
    )


def decode(value: object, tensors: dict[str, np.ndarray]) -> Any:
    """Undo `encode`, or raise ValueError. A tensor that is referred to leaves `tensors`: none is used twice."""
    if isinstance(value, str):
        _utf8(value)
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if _is_tagged(value):
        ((tag, content),) = value.items()
        if tag == "tensor":
            return _take(content, tensors)
        if tag == "strings":
            return _decode_strings(content, tensors)
        if tag == "float" and content in ("inf", "-inf", "nan"):
            return float(content)
        if tag != "dict" or not isinstance(content, dict):
            raise ValueError(f"{reprlib.repr(value)} stands for nothing known")
        value = content
    for key in value:
        _utf8(key)
    return {key: decode(item, tensors) for key, item in value.items()}


def _is_tagged(value: dict[str, object]) -> bool:
    """Whether a JSON object stands for a value that JSON lacks."""
    return len(value) == 1 and not _TAGS.isdisjoint(value)


def _take(name: object, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Take a tensor out of those not used yet."""
    if not isinstance(name, str) or name not in tensors:
        raise ValueError(f"tensor {reprlib.repr(name)} is missing or referred to twice")
    return tensors.pop(name)


def _decode_strings(name: object, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Object array of n strings, from the bytes of all of them and the n + 1 offsets between them."""
    utf8, offsets = _take(f"{name}/utf8", tensors), _take(f"{name}/offsets", tensors)
    if not (
        utf8.dtype == np.uint8
        and offsets.dtype == np.int64
        and utf8.ndim == offsets.ndim == 1
        and offsets.size > 0
        and offsets[0] == 0
        and offsets[-1] == utf8.size
        and (offsets[:-1] <= offsets[1:]).all()
    ):
        raise ValueError(f"the offsets of strings {reprlib.repr(name)} do not fit their bytes")
    data = utf8.tobytes()
    try:
        strings = [data[start:stop].decode() for start, stop in pairwise(offsets.tolist())]
    except UnicodeDecodeError:
        raise ValueError(f"strings {reprlib.repr(name)} are not valid UTF-8") from None
    result = np.empty(len(strings), dtype=object)
    result[:] = strings
    return result


def _utf8(text: str) -> bytes:
    """UTF-8 of a string, which one half of a surrogate pair does not have."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{reprlib.repr(text)} is not valid Unicode") from None


def to_array(name: str, tensor: dict[str, Any]) -> np.ndarray:
    """Turn a tensor, as safetensors deserialises it, into an array of its own: native, contiguous, writable."""
    code = _DTYPES.get(tensor["dtype"])
    if code is None:
        raise ValueError(f"tensor {reprlib.repr(name)} has type {tensor['dtype']}; known are {', '.join(_DTYPES)}")
    flat = np.frombuffer(tensor["data"], code)
    if flat.dtype == bool and flat.view(np.uint8).max(initial=0) > 1:
        raise ValueError(f"tensor {reprlib.repr(name)} holds booleans that are neither 0 nor 1")
    try:
        array = flat.reshape(tensor["shape"])
    except ValueError as error:
        raise ValueError(f"tensor {reprlib.repr(name)} has a shape that no array has: {error}") from error
    _check_shape(array, name)
    return array.astype(array.dtype.newbyteorder("="))


def _check_shape(array: np.ndarray, name: str) -> None:
    """Refuse an array that has no elements but claims much."""
    if array.size == 0 and math.prod(length for length in array.shape if length) > _MAX_EMPTY:
        raise ValueError(f"array {reprlib.repr(name)} is empty, with a shape of more than {_MAX_EMPTY}: {array.shape}")
