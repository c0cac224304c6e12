"""Weights of rows and of classes, checked."""

from typing import Any

import numpy as np
from sklearn.utils.validation import check_array


def check_class_weight(by_class: np.ndarray, *, balanced: bool) -> np.ndarray:
    """Return the factors of the classes, checked; a class without weight has no balanced one, and gets 0."""
    if balanced:
        by_class = np.where(np.isfinite(by_class), by_class, 0.0)
    if not (np.isfinite(by_class) & (by_class >= 0.0)).all():
        raise ValueError(f"class_weight: {by_class.min():g} is among the factors; they must be finite and not negative")
    return by_class


def row_weights(sample_weight: Any, X: Any) -> np.ndarray:
    """Return the weights of the rows of X as a new float64 array."""
    if sample_weight is None:
        return np.ones(X.shape[0])
    weight = check_array(
        sample_weight, dtype=np.float64, ensure_2d=False, copy=True, input_name="sample_weight", ensure_min_samples=0
    )
    if weight.shape != (X.shape[0],):
        raise ValueError(f"sample_weight: shape {weight.shape}; one weight a row is needed, shape ({X.shape[0]},)")
    if (weight < 0.0).any():
        raise ValueError(f"sample_weight: {weight.min():g} at row {weight.argmin()}; weights must not be negative")
    return weight
