"""What `generic` needs of an array library, in the words of the Python array API standard (2024.12) alone."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from softhead import _checks


class Namespace(NamedTuple):
    """An array library, as one of its arrays shows it."""

    xp: Any  # its functions
    device: Any  # where the array lies; None where the library has no one device for it
    wide: Any  # the widest real dtype there: float64, or float32 where there is none
    readable: bool  # whether values can steer Python: not in a library that traces programs, such as JAX

    def array(self, value: Any) -> Any:
        """Return value as an array of the library, which refuses one that lies on another device."""
        library = getattr(value, "__array_namespace__", None)
        if library is not None and library() is self.xp:
            return value
        return self.xp.asarray(value, device=self.device)

    def real(self, name: str, value: Any) -> Any:
        """Return value as an array of real numbers: integers and booleans in the wide dtype, others in their own."""
        array = self.array(value)
        if self.xp.isdtype(array.dtype, ("bool", "integral")):
            return self.widened(array)
        if not self.xp.isdtype(array.dtype, "real floating"):
            raise TypeError(f"{name} has dtype {array.dtype}; accepted are integers, booleans or real floating dtypes")
        return array

    def widened(self, array: Any) -> Any:
        """Return an array in the wide dtype."""
        return self.xp.astype(array, self.wide, copy=False)

    def integers(self, array: Any) -> Any:
        """Return integers or booleans in the library's own integer dtype."""
        info = self.xp.__array_namespace_info__()
        return self.xp.astype(array, info.default_dtypes(device=self.device)["integral"], copy=False)

    def same_shape(self, name: str, value: Any, other: str, shape: tuple[int, ...]) -> Any:
        """Return value as a real array of exactly the shape of another argument."""
        array = self.real(name, value)
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}; it must have the shape of {other}, {shape}")
        return array

    def mask(self, where: Any, shape: tuple[int, ...]) -> Any:
        """Return the mask at full shape, or None."""
        if where is None:
            return None
        array = self.array(where)
        if not self.xp.isdtype(array.dtype, "bool"):
            raise TypeError(f"where has dtype {array.dtype}; it must be boolean")
        return self.broadcast("where", array, shape)

    def broadcast(self, name: str, array: Any, shape: tuple[int, ...]) -> Any:
        """Return an array at a shape that it must broadcast to."""
        try:
            fits = np.broadcast_shapes(array.shape, shape) == shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"{name} has shape {array.shape}; it must broadcast to {shape}")
        return self.xp.broadcast_to(array, shape)

    def not_negative(self, name: str, array: Any) -> Any:
        """Return an array in the wide dtype, having refused what is negative or not finite."""
        wrong = ~(self.xp.isfinite(array) & (array >= 0))
        self.refuse(name, array, wrong, "it must be finite and not negative")
        return self.widened(array)

    def refuse(self, name: str, array: Any, wrong: Any, accepted: str, error: type[Exception] = ValueError) -> None:
        """Raise an error that names the first wrong entry, unless the library hides its values."""
        if not (self.readable and bool(self.xp.any(wrong))):
            return
        flat = int(self.xp.argmax(self.xp.astype(self.xp.reshape(wrong, (-1,)), self.xp.int8)))
        position = tuple(int(i) for i in np.unravel_index(flat, wrong.shape))
        number = int if self.xp.isdtype(array.dtype, "integral") else float
        entry = f"{name}[{', '.join(map(str, position))}]" if position else name
        raise error(f"{entry} is {number(array[position])}; {accepted}")

    def temperature(self, value: float) -> float:
        """Return a temperature within the wide dtype's range; softmax reaches its limits well before either end."""
        limits = self.xp.finfo(self.wide)
        return min(max(_checks.positive("temperature", value), float(limits.smallest_normal)), float(limits.max))

    def to_rows(self, array: Any, axes: tuple[int, ...]) -> Any:
        """Return the array as (rows, entries along axes)."""
        kept = _kept(array.shape, axes)
        moved = self.xp.permute_dims(array, kept + axes)
        return self.xp.reshape(moved, (_size(array.shape, kept), _size(array.shape, axes)))

    def from_rows(self, rows: Any, shape: tuple[int, ...], axes: tuple[int, ...]) -> Any:
        """Return rows in the shape of the array that they were taken from by `to_rows`."""
        order = _kept(shape, axes) + axes
        moved = self.xp.reshape(rows, tuple(shape[i] for i in order))
        return self.xp.permute_dims(moved, tuple(sorted(range(len(order)), key=order.__getitem__)))


_BY_OTHER_NAMES: list[tuple[type, Callable[[Any], Namespace]]] = []


def register(kind: type, named: Callable[[Any], Namespace]) -> None:
    """Have a function give the library of arrays that do not keep the standard, by the standard's names."""
    _BY_OTHER_NAMES.append((kind, named))


def namespace(array: Any) -> Namespace:
    """Return the library of an array."""
    for kind, named in _BY_OTHER_NAMES:
        if isinstance(array, kind):
            return named(array)
    xp = array.__array_namespace__()
    info = xp.__array_namespace_info__()
    # An array of JAX has no device while it is traced, and a layout in its place when it is spread over several.
    device = getattr(array, "device", None)
    if device not in info.devices():
        device = None
    wide = xp.float64 if "float64" in info.dtypes(device=device, kind="real floating") else xp.float32
    return Namespace(xp, device, wide, info.capabilities()["data-dependent shapes"])


def _kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes that are not among the given ones."""
    return tuple(i for i in range(len(shape)) if i not in axes)


def _size(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """Return the number of entries along the axes."""
    return math.prod([shape[i] for i in axes])  # PyTorch compiles no product of a generator
