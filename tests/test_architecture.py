"""The structure of the package, read from its own files."""

import ast
import doctest
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import softhead

PACKAGE = Path(softhead.__file__).parent

# From the ground up: a module imports from its own layer and from those above it in this list, never from below.
LAYERS = [
    ("_version", "_files", "_state", "_values", "kernels"),
    ("_checks",),
    ("generic",),
    ("_dispatch",),
    ("functional",),
    ("derivatives", "losses", "sampling"),
    ("divergences", "fused", "likelihood"),
    ("jax",),
    ("linear",),
    ("torch",),
    ("rows",),
    ("_series", "_columns", "tables", "text"),
    ("_problem", "_weights", "_checkpoint", "_tensors", "_lazy", "_device", "_streamed", "_classifier_state"),
    ("estimator",),
    ("_scoring", "_device_folds", "cross_validation", "paths"),
    ("_intervals", "_reliability"),
    ("metrics",),
    ("calibration",),
    ("model_file",),
    ("export", "displays"),
    ("app",),
    ("__main__",),
]
# The package's own __init__ names the public modules, and loads them on first use.
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# What each layer may import from outside, beside the standard library and NumPy.
LIBRARIES = {
    "kernels": {"llvmlite", "numba", "torch", "triton"},
    "torch": {"ml_dtypes", "torch"},
    "jax": {"jax"},
    "linear": {"dask", "distributed", "pyarrow", "scipy", "threadpoolctl"},
    "rows": {"pyarrow", "scipy", "sklearn"},
    "_series": {"narwhals", "sklearn"},
    "_columns": {"sklearn"},
    "tables": {"narwhals", "scipy", "sklearn"},
    "text": {"narwhals", "scipy", "sklearn"},
    "_tensors": {"sklearn"},
    "_weights": {"sklearn"},
    "_checkpoint": {"safetensors"},
    "_lazy": {"sklearn"},
    "_device": {"sklearn"},
    "_device_folds": {"sklearn"},
    "_scoring": {"sklearn"},
    "_streamed": {"sklearn"},
    "_problem": {"scipy", "sklearn"},
    "estimator": {"sklearn"},
    "cross_validation": {"sklearn"},
    "paths": {"sklearn"},
    "metrics": {"sklearn"},
    "calibration": {"scipy", "sklearn"},
    "model_file": {"safetensors", "sklearn"},
    "export": {"onnx", "sklearn"},
    "displays": {"matplotlib", "sklearn"},
    "app": {"jinja2", "matplotlib", "pyarrow", "rich", "scipy", "sklearn", "typer"},
}


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part(path):
    """The name in LAYERS that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Every module that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            if node.module == "softhead":
                yield from (f"softhead.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    own = part(path)
    assert own in LEVEL, "a new module needs its place in LAYERS"
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package == "softhead":
            other = rest.partition(".")[0]
            assert LEVEL[other] <= LEVEL[own], f"{own} imports {other}, which is built on it"
        elif package not in sys.stdlib_module_names:
            assert package in {"numpy"} | LIBRARIES.get(own, set()), f"{own} imports {package}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_small_and_say_what_they_are(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 480, "a file that no longer has one subject"
    assert ast.get_docstring(ast.parse(source)), "the first line of a file says what it holds"


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, softhead; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"numba", "sklearn", "scipy", "torch", "pandas", "pyarrow", "safetensors", "typer", "numpy"}
    assert heavy.isdisjoint(loaded)


def test_public_names_are_complete_and_alike_in_every_list():
    assert softhead.__all__ == ["__version__", *sorted(softhead._HOME)]
    assert set(softhead.__all__) <= set(dir(softhead))
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (for_type_checkers,) = (node for node in tree.body if isinstance(node, ast.If))
    listed = {alias.asname: node.module for node in for_type_checkers.body for alias in node.names}
    assert listed == {name: f"softhead.{home}" for name, home in softhead._HOME.items()}
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        softhead.nothing  # noqa: B018


def listed(page):
    """The names in the tables of a page of the reference."""
    text = (Path(__file__).parents[1] / "docs" / page).read_text(encoding="utf-8")
    return sorted(re.findall(r"^   (\w+)$", text, re.MULTILINE))


def test_public_names_are_in_the_reference_and_nothing_else_is():
    assert listed("api.rst") == sorted(softhead._HOME), "every public name has one line in docs/api.rst"


@pytest.mark.parametrize(
    ("page", "files"),
    [("api-torch.rst", ["torch/__init__.py", "torch/parallel.py"]), ("api-jax.rst", ["jax/__init__.py"])],
)
def test_names_of_the_other_libraries_are_in_their_reference(page, files):
    names = []
    for file in files:
        assignments = (
            node for node in ast.parse((PACKAGE / file).read_text("utf-8")).body if isinstance(node, ast.Assign)
        )
        (listing,) = (node.value for node in assignments if getattr(node.targets[0], "id", "") == "__all__")
        names += ast.literal_eval(listing)
    assert listed(page) == sorted(names), f"every public name has one line in docs/{page}"


@pytest.mark.parametrize("name", sorted(softhead._HOME))
def test_public_names_are_documented_with_a_running_example(name):
    value = getattr(softhead, name)
    assert value.__module__ == f"softhead.{softhead._HOME[name]}"
    documentation = inspect.getdoc(value)
    examples = doctest.DocTestParser().get_examples(documentation)
    assert examples, "an example; pytest runs it as a doctest"
    assert all(example.want or "import" in example.source or "=" in example.source for example in examples)
    if inspect.isfunction(value):
        for section in ("Parameters", "Raises", "Examples"):
            assert f"\n{section}\n---" in documentation
        for parameter in inspect.signature(value).parameters:
            assert parameter in documentation.split("Parameters\n---")[1], f"{parameter} is not described"
