"""What stands in for Numba where it is not installed, so that what runs on a GPU can be measured all the same.

Loops that Numba would compile stay functions of Python: right, as far as they are called, and far too slow. Nothing on
the way of CUDA tensors calls them but what is as small as a table of classes.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types

_NAMES = ("numba", "llvmlite")


class _Anything:
    """A value that takes part in any definition: called with a function alone, as a decorator is, it returns that."""

    def __init__(self, *_, **__):
        pass

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()

    def __call__(self, *arguments, **options):
        alone = len(arguments) == 1 and not options
        return arguments[0] if alone and isinstance(arguments[0], types.FunctionType) else _Anything()

    def __getitem__(self, _):
        return _Anything()

    def __bool__(self):
        return False


class _Module(types.ModuleType):
    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _overload if name == "overload" else _Anything()


def _overload(_, **__):
    """Return a decorator, as Numba's of this name does, whose argument is a function too."""
    return lambda function: function


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in _NAMES:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


def stand_in():
    """Let modules that import Numba be imported where it is missing; return whether it is."""
    missing = importlib.util.find_spec("numba") is None
    if missing:
        sys.meta_path.append(_Finder())
    return missing
