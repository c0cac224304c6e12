"""Where pytest looks for examples: not in modules whose library is optional and not installed."""

from importlib.util import find_spec

OPTIONAL = {
    "softhead/kernels/triton": "triton",
    "softhead/torch": "torch",
    "softhead/jax": "jax",
    "softhead/linear/dask.py": "dask",
    "softhead/export.py": "onnx",
    "softhead/displays": "matplotlib",
}
collect_ignore = [path for path, library in OPTIONAL.items() if find_spec(library) is None]
