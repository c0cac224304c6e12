"""The objective over rows in parts that are summed where they are: blocks of a stream, chunks on a cluster."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from softhead.linear.columns import Columns
from softhead.linear.contract import Objective
from softhead.linear.objective import LinearSoftmaxObjective
from softhead.linear.passes import suited

# The methods of an objective that are sums over rows.
Sums = Literal["loss_sums", "moment_sums", "intercept_moments"]


class Part(NamedTuple):
    """Some of the rows: an array, `Columns` or a CSR matrix, targets as an objective takes them, weights or None."""

    X: Any
    targets: np.ndarray
    sample_weight: np.ndarray | None


@dataclass(frozen=True)
class PartSums:
    """What a part adds to the sums over all rows: a pure function, which can be sent to another process."""

    n_classes: int
    total_weight: float  # of all rows
    fit_intercept: bool
    dtype: np.dtype

    def __call__(self, part: Part, sums: Sums, coef: np.ndarray | None = None) -> tuple[Any, ...]:
        """Return sums of `LinearSoftmaxObjective` over the part, at `coef` where they depend on it."""
        X = part.X
        if isinstance(X, Columns) and not (sums == "loss_sums" and suited(X, self.n_classes)):
            X = X.rows()
        objective = LinearSoftmaxObjective(
            X,
            part.targets,
            n_classes=self.n_classes,
            sample_weight=part.sample_weight,
            fit_intercept=self.fit_intercept,
            dtype=self.dtype,
            total_weight=self.total_weight,
        )
        with np.errstate(over="ignore", invalid="ignore"):
            result: tuple[Any, ...] = getattr(objective, sums)(*(() if coef is None else (coef,)))
        return result


def add(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the sums of two parts together."""
    return tuple(x + y for x, y in zip(a, b, strict=True))


class SummedObjective(Objective):
    """An objective whose rows lie in parts. A subclass says how the sums of all parts are added: in a fixed order.

    Parameters
    ----------
    sample : LinearSoftmaxObjective
        Some of the rows, in memory, by which metrics are made: without the penalty, in the dtype of the rows.
    n_rows : int
        Of all parts.
    total_weight : float
        The sum of the weights of all rows.
    l2 : float
    """

    def __init__(self, sample: LinearSoftmaxObjective, *, n_rows: int, total_weight: float, l2: float) -> None:
        super().__init__(
            n_rows,
            sample.n_features,
            sample.n_classes,
            l2=l2,
            fit_intercept=sample.fit_intercept,
            dtype=sample.dtype,
        )
        self._sample, self.total_weight = sample, total_weight
        self.part_sums = PartSums(sample.n_classes, total_weight, sample.fit_intercept, sample.dtype)

    @abstractmethod
    def sum_over_parts(self, sums: Sums, coef: np.ndarray | None = None) -> tuple[Any, ...]:
        """Return `add` of ``self.part_sums(part, sums, coef)`` over all parts."""

    @property
    def compiled(self) -> bool:
        """Whether passes are taken by compiled loops, as those over the sample are."""
        return self._sample.compiled

    def compiled_gram(self, coef: np.ndarray | None, stride: int) -> np.ndarray | None:
        """Return the mean of w_i x~_i x~_i^T over about every `stride`-th row, at most those in memory."""
        return self._sample.compiled_gram(coef, self._stride(stride))

    def compiled_coupling(self, coef: np.ndarray, stride: int) -> np.ndarray | None:
        """Return the mean of (p_i (x) x~_i)(p_i (x) x~_i)^T, as `compiled_gram` returns that of x~_i x~_i^T."""
        return self._sample.compiled_coupling(coef, self._stride(stride))

    def sample(self, stride: int) -> LinearSoftmaxObjective:
        """Return the objective of about every `stride`-th row, at most of those in memory."""
        return self._sample.sample(self._stride(stride))

    def _stride(self, stride: int) -> int:
        """Return the stride among the rows in memory that stands for one among all."""
        return max(1, stride * self._sample.n_rows // self.n_rows)

    def _widened(self) -> Self:
        wide = self.with_l2(0.0)
        wide._sample = self._sample.wide()
        if wide._sample._of_data is not self._sample._of_data:  # else these sums are float64 here and there
            wide._of_data = {}
        wide.dtype = wide._sample.dtype
        wide.part_sums = replace(self.part_sums, dtype=wide.dtype)
        return wide

    def loss_sums(self, coef: np.ndarray) -> tuple[float, np.ndarray]:
        """Return sum_i a_i CE_i and its gradient."""
        loss, gradient = self.sum_over_parts("loss_sums", coef)
        return float(loss), gradient

    def moment_sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return X^T A Q, sum_i a_i q_i and sum_i a_i abs(x_i)."""
        moments, frequencies, sizes = self.sum_over_parts("moment_sums")
        return moments, frequencies, sizes

    def intercept_moments(self, coef: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pbar and P^T A P."""
        mean, second = self.sum_over_parts("intercept_moments", coef)
        return mean, second
