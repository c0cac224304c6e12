"""Every row of the benchmarks' table against its definition: what is measured is right."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

path = Path(__file__).parents[1] / "benchmarks" / "functions.py"
spec = importlib.util.spec_from_file_location("benchmarks_functions", path)
table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(table)


@pytest.mark.parametrize("function", table.FUNCTIONS, ids=lambda function: function.name)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_classes", sorted({c for _, c in table.SHAPES}))
def test_every_function_keeps_its_bound(function, dtype, n_classes):
    rng = np.random.default_rng(n_classes)
    scale = rng.choice([0.01, 1.0, 2.0], (12, 1))  # rows so plain that the textbook's formulas are exact enough
    x = (rng.standard_normal((12, n_classes)) * scale).astype(dtype)
    labels = rng.integers(0, n_classes, 12)
    labels[::2] = x[::2].argmax(axis=1)
    exact = function.definition(x, labels)
    computed = function.ours(x, labels)
    slack = 0.1 if np.finfo(np.longdouble).nmant > 60 or dtype == "float32" else 20.0
    size = exact if function.terms is None else function.terms(x, labels)
    ulp = np.spacing(np.abs(size).astype(dtype))
    size = np.abs(x.astype(np.longdouble)).max(axis=1) if function.name == "logsumexp" else 0.0
    unit = np.maximum(ulp, np.spacing(np.asarray(size, dtype)))
    assert (np.abs(computed - exact) <= (function.bounds[dtype] + slack) * unit).all()
