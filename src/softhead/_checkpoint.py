"""The file in which a fit leaves its state: written whole or not at all, and refused by another fit."""

import hashlib
import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as serialize

from softhead._files import atomic_output
from softhead._values import decode, encode, to_array
from softhead._version import __version__
from softhead.kernels.processors import cpu_name
from softhead.linear import blas

_KEY = "softhead-checkpoint"
_SHARE = 10.0  # a state is written when so many times as long has passed as the last one took


class CheckpointFile:
    """The states of one fit in a file; see `softhead.linear.solution.Checkpoint`.

    Parameters
    ----------
    path : str or path-like
    settings : dict
        What the result depends on beside the rows: numbers and strings by their names.

    Raises
    ------
    TypeError
        If `path` is no path.
    OSError
        If it is a folder, or the folder of the file does not exist or is not writable.
    """

    def __init__(self, path: str | os.PathLike[str], settings: dict[str, Any]) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"checkpoint: {path!r}; accepted are the path of a file, and None")
        self._path = Path(os.path.realpath(path))
        if self._path.is_dir():
            raise IsADirectoryError(21, "the checkpoint is to be a file, and this is a folder", str(path))
        if not self._path.parent.is_dir():
            raise FileNotFoundError(2, "the folder of the checkpoint does not exist", str(path))
        if not os.access(self._path.parent, os.W_OK):
            raise PermissionError(13, "the folder of the checkpoint is read-only", str(path))
        self._settings = settings
        self._machine = _machine()
        self.exactly = True
        self._due = 0.0

    def load(self) -> dict[str, Any] | None:
        """Return the state in the file, or None where there is no file.

        Raises
        ------
        ValueError
            If the file is no checkpoint, is damaged, or is of a fit with other settings, which it names.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        stored = self._parsed(data)
        if stored is None:
            raise ValueError(f"checkpoint: {self._path} is damaged, or no checkpoint of this version of softhead")
        for name, value in self._settings.items():
            found = stored["settings"].get(name)
            if found != value:
                raise ValueError(
                    f"checkpoint: {self._path} is of another fit, with {name} = {found!r}; here it is {value!r}. "
                    "Remove the file to begin anew"
                )
        changed = [name for name, value in self._machine.items() if stored["machine"].get(name) != value]
        if changed:
            self.exactly = False
            was = "; ".join(f"{name} {stored['machine'].get(name)}, now {self._machine[name]}" for name in changed)
            warnings.warn(
                f"checkpoint: made on another machine ({was}): the result will agree with that of one run to "
                "rounding, not to the last bit",
                stacklevel=2,
            )
        state: dict[str, Any] = stored["state"]
        return state

    def offer(self, state: Callable[[], dict[str, Any]], *, last: bool = False) -> None:
        """Write a state, unless the last one is so new that writing would take a tenth of the time."""
        start = time.monotonic()
        if start < self._due and not last:
            return
        tensors: dict[str, np.ndarray] = {}
        stored = {"settings": self._settings, "machine": self._machine, "state": state()}
        text = json.dumps(encode(stored, "", tensors), sort_keys=True)
        data = serialize(tensors, {_KEY: text, "sha256": _digest(text, tensors)})
        with atomic_output(self._path) as file:
            file.write(data)
        end = time.monotonic()
        self._due = end + _SHARE * (end - start)

    def remove(self) -> None:
        """Remove the file, whose fit has ended."""
        self._path.unlink(missing_ok=True)

    def _parsed(self, data: bytes) -> Any:
        """Return what was written; None where it is not that."""
        try:
            length = int.from_bytes(data[:8], "little")
            metadata = json.loads(data[8 : 8 + length])["__metadata__"]
            tensors = {name: to_array(name, tensor) for name, tensor in deserialize(data)}  # type: ignore[no-untyped-call]
            text = metadata[_KEY]
            if metadata["sha256"] != _digest(text, tensors):
                return None
            return decode(json.loads(text), tensors)
        except (SafetensorError, ValueError, KeyError, TypeError):
            return None


def digest(array: np.ndarray) -> str:
    """Return a short digest of an array of numbers or strings."""
    data = repr(array.tolist()).encode() if array.dtype.kind in "OU" else np.ascontiguousarray(array).tobytes()
    return hashlib.sha256(data).hexdigest()[:16]


def _digest(text: str, tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(np.ascontiguousarray(tensors[name]).view(np.uint8).reshape(-1))
    return digest.hexdigest()


def _machine() -> dict[str, str]:
    """Return what the last bits of a fit depend on beside rows and settings."""
    return {
        "softhead": __version__,
        "numpy": np.__version__,
        "processor": f"{platform.machine()} {cpu_name()}",
        "BLAS": blas.described(),
    }
