"""Blocks of rows from arrays: in memory, mapped, or in .npy and .npz files, which are read from the first byte on."""

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.lib import format as npy

_DAMAGE = (EOFError, OSError, ValueError, zlib.error, zipfile.BadZipFile)
_BLOCK_BYTES = 2**25


class Array(Protocol):
    """An array of which consecutive rows can be taken."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def parts(self, rows: int) -> Iterator[np.ndarray]:
        """Yield so many rows after the other."""
        ...


class HeldArray:
    """An array in memory, or a memory map."""

    def __init__(self, array: Any) -> None:
        self._array = np.asarray(array)
        self.shape, self.dtype = self._array.shape, self._array.dtype

    def parts(self, rows: int) -> Iterator[np.ndarray]:
        """Yield so many rows after the other."""
        for start in range(0, self.shape[0], rows):
            yield self._array[start : start + rows]


class StoredArray:
    """An array in a .npy file, or a member of a .npz file, compressed or not.

    It is read, not mapped: what is mapped counts as memory of the process until the system takes it back.
    """

    def __init__(self, path: Path, member: str | None = None) -> None:
        self._path, self._member = path, member
        with self._open() as (_, shape, dtype):
            self.shape, self.dtype = shape, dtype

    def parts(self, rows: int) -> Iterator[np.ndarray]:
        """Yield so many rows after the other."""
        width = int(np.prod(self.shape[1:], dtype=np.int64))
        with self._open() as (stream, _, _):
            for start in range(0, self.shape[0], rows):
                n = min(rows, self.shape[0] - start)
                part = np.empty((n, *self.shape[1:]), self.dtype)
                self._fill(stream, part, n * width * self.dtype.itemsize)
                yield part

    def _fill(self, stream: BinaryIO, part: np.ndarray, n_bytes: int) -> None:
        view = memoryview(part.reshape(-1).view(np.uint8))
        done = 0
        while done < n_bytes:
            got = stream.readinto(view[done:])  # type: ignore[attr-defined]
            if not got:
                raise ValueError(f"{self._name}: the file ends before its array does")
            done += got

    @property
    def _name(self) -> str:
        return str(self._path) if self._member is None else f"{self._path}, array {self._member!r}"

    @contextmanager
    def _open(self) -> Iterator[tuple[BinaryIO, tuple[int, ...], np.dtype]]:
        """Open the file behind its header; errors of damaged files name it."""
        try:
            if self._member is None:
                with open(self._path, "rb") as stream:
                    yield stream, *self._header(stream)
            else:
                with zipfile.ZipFile(self._path) as archive, archive.open(f"{self._member}.npy") as stream:
                    yield stream, *self._header(stream)  # type: ignore[misc,arg-type]
        except _DAMAGE as error:
            if isinstance(error, FileNotFoundError) or str(self._path) in str(error):
                raise
            raise ValueError(f"{self._name}: truncated, damaged or no array ({error})") from error

    def _header(self, stream: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, by_columns, dtype = read(stream)
        if dtype.hasobject:
            raise ValueError(f"{self._name}: holds Python objects, which are not loaded")
        if by_columns and len(shape) > 1:
            raise ValueError(f"{self._name}: is stored column by column; save np.ascontiguousarray of it")
        return shape, dtype


class ArrayBlocks:
    """Blocks of features, labels and weights that lie in arrays of one length."""

    def __init__(self, X: Array, y: Array | None, weight: Array | None, rows: int | None) -> None:
        if len(X.shape) < 2 or X.dtype.kind not in "biuf":
            raise ValueError(
                f"features: shape {X.shape} and type {X.dtype}; accepted are numbers of two or more dimensions"
            )
        for name, array in (("target", y), ("sample_weight", weight)):
            if array is not None and array.shape != X.shape[:1]:
                raise ValueError(f"{name}: shape {array.shape} for {X.shape[0]} rows of features")
        self._X, self._y, self._weight = X, y, weight
        n_features = int(np.prod(X.shape[1:], dtype=np.int64))
        itemsize = 4 if X.dtype == np.float32 else 8
        self._rows = rows or max(16, _BLOCK_BYTES // (itemsize * max(1, n_features)))

    def __iter__(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield ``(X, y, weight)``."""
        parts = [None if array is None else array.parts(self._rows) for array in (self._y, self._weight)]
        for X in self._X.parts(self._rows):
            y, weight = (None if part is None else next(part) for part in parts)
            if y is not None and y.dtype.kind == "U":
                y = y.astype(object)
            yield X.reshape(len(X), -1), y, weight


def array_of(given: Any) -> Array | None:
    """Return labels or weights that are an array, or the path of a .npy file."""
    if given is None:
        return None
    if isinstance(given, str | os.PathLike):
        return StoredArray(Path(given))
    return HeldArray(given)


def npz_blocks(
    path: Path, target: str | None, features: str | None, weight: str | None, rows: int | None
) -> ArrayBlocks:
    """Return the blocks of the arrays of a .npz file with these names.

    Without a name, the features are the only other array, or the only one of the target's length.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: truncated, damaged or not a .npz file ({error})") from error
    for name in (target, weight, features):
        if name is not None and name not in members:
            raise ValueError(f"{path}: no array {name!r}; there are {', '.join(map(repr, members))}")
    y, s = (None if name is None else StoredArray(path, name) for name in (target, weight))
    if features is None:
        others = {name: StoredArray(path, name) for name in members if name not in (target, weight)}
        fitting = [
            name for name, array in others.items() if len(array.shape) > 1 and (y is None or array.shape[:1] == y.shape)
        ]
        if len(fitting) != 1:
            raise ValueError(f"{path}: the features must be named; there are {', '.join(map(repr, members))}")
        features = fitting[0]
    return ArrayBlocks(StoredArray(path, features), y, s, rows)
