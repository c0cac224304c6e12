import os

# scikit-learn's estimator checks pass over array-API input where SciPy was not told of it before its import.
os.environ["SCIPY_ARRAY_API"] = "1"
