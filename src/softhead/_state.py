"""Checks of a fitted estimator's state, which may come from an untrusted file."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def require(condition: object, what: str) -> None:
    """Raise a ValueError that names a part of the state, unless a condition holds."""
    if not condition:
        raise ValueError(f"not a state as to_state gives it: its {what} are wrong")


def fields(state: object, **types: type | tuple[type, ...]) -> list[Any]:
    """Return the values of a state that must have exactly these keys and types."""
    values = state if isinstance(state, dict) else {}
    require(values.keys() == types.keys(), "keys")
    for key, accepted in types.items():
        require(type(values[key]) in (accepted if isinstance(accepted, tuple) else (accepted,)), f"values of {key!r}")
    return [values[key] for key in types]


def texts(array: NDArray[Any]) -> list[str]:
    """Return the strings of a 1-D object array that must hold nothing else."""
    require(array.dtype == object and array.ndim == 1 and all(type(text) is str for text in array), "strings")
    return array.tolist()


def labels_to_state(labels: NDArray[Any]) -> dict[str, object]:
    """Return labels as plain values: text as objects, with a note of whether it was objects before."""
    fixed_width = labels.dtype.kind == "U"
    return {"fixed_width": fixed_width, "values": labels.astype(object) if fixed_width else labels}


def labels_from_state(state: object) -> NDArray[Any]:
    """Return the labels that `labels_to_state` described."""
    fixed_width, values = fields(state, fixed_width=bool, values=np.ndarray)
    require(values.ndim == 1 and values.dtype.kind in ("O" if fixed_width else "Obiuf"), "labels")
    if values.dtype == object:
        texts(values)
    return values.astype(np.str_) if fixed_width else values
