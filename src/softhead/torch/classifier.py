"""Rows in a tensor for the classifier: checked, encoded, fitted and answered on their device."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from softhead.kernels.algebra import on_host
from softhead.torch.maps import log_softmax, softmax
from softhead.torch.objective import TensorObjective

_BLOCK_BYTES = 2**28  # of float64 logits, or of rows in float64


class TensorRows(NamedTuple):
    """Checked rows on a device, with their targets and weights."""

    X: Tensor  # float32 or float64, finite
    targets: Tensor  # classes (n_rows,), int64, or distributions (n_rows, n_classes) in the dtype of X
    weight: Tensor | None  # (n_rows,), float64; None where all are 1
    n_classes: int

    def objective(self, *, l2: float = 0.0, fit_intercept: bool = True) -> TensorObjective:
        """Return the objective of the rows."""
        return TensorObjective(
            self.X,
            self.targets,
            n_classes=self.n_classes,
            sample_weight=self.weight,
            l2=l2,
            fit_intercept=fit_intercept,
        )

    def weights_of_classes(self) -> np.ndarray:
        """Return the sum of the weights of the rows of each class, or of their shares in it."""
        if self.targets.ndim == 2:
            shares = self.targets if self.weight is None else self.targets * self.weight[:, None]
            return on_host(shares.sum(0, dtype=torch.float64))
        # On the host: a GPU would add them up in an order that changes.
        weight = None if self.weight is None else on_host(self.weight)
        return np.bincount(on_host(self.targets), weight, self.n_classes).astype(np.float64)

    def weighted(self, factors: np.ndarray) -> "TensorRows":
        """Return the rows with a factor for each class on the weights of its rows; labels only."""
        if (factors == 1.0).all():
            return self
        by_row = torch.as_tensor(factors, device=self.X.device)[self.targets]
        return self._replace(weight=by_row if self.weight is None else self.weight * by_row)

    def take(self, index: np.ndarray) -> "TensorRows":
        """Return a copy of some of the rows, in the order of an index or of a mask."""
        chosen = np.flatnonzero(index) if index.dtype == bool else index
        rows = torch.as_tensor(np.ascontiguousarray(chosen), dtype=torch.int64, device=self.X.device)
        weight = None if self.weight is None else self.weight[rows]
        return self._replace(X=self.X[rows], targets=self.targets[rows], weight=weight)


def features(X: Tensor) -> Tensor:
    """Return checked rows in float32 or float64: half types in the first, integers and bools in the second.

    Raises
    ------
    TypeError
        If they are sparse or complex, or hold no numbers.
    ValueError
        If they are not in rows and columns, or not finite.
    """
    if X.device.type == "meta" or X.layout != torch.strided or X.is_complex():
        kind = "on meta, without numbers" if X.device.type == "meta" else f"of {X.layout} and {X.dtype}"
        raise TypeError(f"X is a tensor {kind}; accepted are dense tensors of real numbers")
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(f"X: shape {tuple(X.shape)}; accepted are rows and columns, at least one of each")
    X = X.detach()
    if X.dtype not in (torch.float32, torch.float64):
        X = X.to(torch.float32 if X.is_floating_point() else torch.float64)
    step = max(1, _BLOCK_BYTES // (X.shape[1] * X.element_size()))
    for start in range(0, len(X), step):
        rows = X[start : start + step]
        if not bool(rows.isfinite().all()):
            row = start + int(rows.isfinite().all(1).logical_not().nonzero()[0])
            raise ValueError(f"X: row {row} contains NaN or infinity")
    return X


def encoded(y: Tensor, X: Tensor) -> tuple[np.ndarray, Tensor]:
    """Return the sorted labels, of NumPy, and the place of each row's label among them, beside `X`.

    Raises
    ------
    ValueError
        If there is not one label a row, or one is not finite.
    """
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if tuple(y.shape) != (len(X),):
        raise ValueError(f"y: shape {tuple(y.shape)}; one label a row is needed, shape ({len(X)},)")
    y = y.detach()
    if y.is_floating_point() and not bool(y.isfinite().all()):
        raise ValueError("y contains NaN or infinity")
    y = y.double() if y.is_floating_point() else y
    labels, codes = torch.unique(y.to(X.device), return_inverse=True)
    return on_host(labels), codes


def codes_on_device(codes: np.ndarray, X: Tensor) -> Tensor:
    """Return the places of labels, found by NumPy, beside `X`."""
    return torch.as_tensor(codes, dtype=torch.int64, device=X.device)


def weights(sample_weight: Any, X: Tensor) -> Tensor | None:
    """Return the weights of rows beside `X` in float64; None where none are given.

    Raises
    ------
    ValueError
        If there is not one a row, or one is negative or not finite.
    """
    if sample_weight is None:
        return None
    given = sample_weight.detach() if isinstance(sample_weight, Tensor) else np.asarray(sample_weight, np.float64)
    weight = torch.as_tensor(given, dtype=torch.float64, device=X.device)
    if tuple(weight.shape) != (len(X),):
        raise ValueError(f"sample_weight: shape {tuple(weight.shape)}; one weight a row is needed, shape ({len(X)},)")
    wrong = (weight < 0.0) | ~weight.isfinite()
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(f"sample_weight: {float(weight[row]):g} at row {row}; weights are finite and not negative")
    return weight


def distributions(probabilities: Any, X: Tensor) -> tuple[Tensor, Tensor]:
    """Return a copy of the rows' distributions, beside `X` and in its dtype, and their sums, close to 1, in float64.

    Raises
    ------
    ValueError
        If there is not one a row, or one has a negative number or a sum that is not 1.
    """
    given = probabilities.detach() if isinstance(probabilities, Tensor) else np.asarray(probabilities)
    targets = torch.as_tensor(given, device=X.device).to(X.dtype, copy=True)
    if targets.ndim != 2 or len(targets) != len(X):
        raise ValueError(f"probabilities: shape {tuple(targets.shape)} for {len(X)} rows of X")
    total = targets.sum(1, dtype=torch.float64)
    wrong = (targets < 0.0).any(1) | ~((total - 1.0).abs() <= 1e-4)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"probabilities: row {row} has the minimum {float(targets[row].min()):g} and the sum "
            f"{float(total[row]):g}; rows must be non-negative and sum to 1"
        )
    return targets, total


def soft_rows(X: Tensor, targets: Tensor, total: Tensor, weight: Tensor | None, factors: np.ndarray) -> TensorRows:
    """Return rows with `distributions` and a factor for each class, which goes into their weights.

    -sum_c w_c q_c log p_c is the loss of the distribution w q / sum(w q), times sum(w q). The targets are overwritten.
    """
    targets *= torch.as_tensor(factors, dtype=targets.dtype, device=X.device)
    mass = targets.sum(1, dtype=torch.float64)
    targets /= torch.where(mass > 0.0, mass, 1.0).to(targets.dtype)[:, None]
    shares = mass / total
    return TensorRows(X, targets, shares if weight is None else weight * shares, targets.shape[1])


def logits_by_block(X: Tensor, coef: Any, intercept: Any) -> Iterator[tuple[slice, Tensor]]:
    """Yield the logits of a block of rows, a column for two classes, from float64 products."""
    columns, last = (torch.as_tensor(part, dtype=torch.float64, device=X.device) for part in (coef, intercept))
    step = max(1, _BLOCK_BYTES // (8 * max(X.shape[1], len(columns))))
    for start in range(0, len(X), step):
        rows = slice(start, start + step)
        with torch.no_grad(), torch.autocast(X.device.type, enabled=False):
            logits = torch.addmm(last, X[rows].double(), columns.mT)
        yield rows, logits


def scores(X: Tensor, coef: Any, intercept: Any, dtype: torch.dtype) -> Tensor:
    """Return the logits (n_rows, n_classes), or (n_rows,) of the second of two classes."""
    result = X.new_empty((len(X), len(coef)), dtype=dtype)
    for rows, logits in logits_by_block(X, coef, intercept):
        result[rows] = logits
    return result[:, 0] if len(coef) == 1 else result


def best_classes(X: Tensor, coef: Any, intercept: Any) -> Tensor:
    """Return the place of the most probable class of each row, int64."""
    result = X.new_empty(len(X), dtype=torch.int64)
    for rows, logits in logits_by_block(X, coef, intercept):
        result[rows] = (logits[:, 0] > 0.0).long() if logits.shape[1] == 1 else logits.argmax(1)
    return result


def probabilities_of_classes(
    X: Tensor, coef: Any, intercept: Any, dtype: torch.dtype, *, temperature: float, log: bool
) -> Tensor:
    """Return the softmax of the logits over the temperature, or its logarithm: (n_rows, n_classes)."""
    result = X.new_empty((len(X), max(2, len(coef))), dtype=dtype)
    function = log_softmax if log else softmax
    for rows, logits in logits_by_block(X, coef, intercept):
        both = torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
        result[rows] = function(both, dim=1, temperature=temperature)
    return result


def surprises(X: Tensor, codes: Tensor, coef: Any, intercept: Any) -> Tensor:
    """Return the log-probability of each row's class (n_rows,), float64."""
    result = X.new_empty(len(X), dtype=torch.float64)
    for rows, logits in logits_by_block(X, coef, intercept):
        both = torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
        result[rows] = log_softmax(both, dim=1).gather(1, codes[rows, None])[:, 0]
    return result


def mean(values: Tensor, weight: Tensor | None) -> float:
    """Return the mean of one number a row, weighted."""
    wide = values.double()
    return float(wide.mean() if weight is None else (wide * weight).sum() / weight.sum())
