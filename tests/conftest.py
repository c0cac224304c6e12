import os

# scikit-learn's estimator checks pass over array-API input where SciPy was not told of it before its import.
os.environ["SCIPY_ARRAY_API"] = "1"

# Without a GPU, Triton's kernels run in its interpreter, which must be asked for before Triton is imported.
if not os.path.exists("/dev/nvidia0"):
    os.environ["TRITON_INTERPRET"] = "1"
