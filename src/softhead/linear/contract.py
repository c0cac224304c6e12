"""What the solver asks of an objective, wherever its rows are; the objectives differ in three sums over rows."""

import copy
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from softhead.kernels.algebra import beside, dot, laplacian

if TYPE_CHECKING:  # it is built on this file
    from softhead.linear.objective import LinearSoftmaxObjective


class Objective(ABC):
    r"""The mean cross-entropy of a linear softmax model with an L2 penalty on its weights, its rows being anywhere.

    .. math:: F(W, b) = \sum_i a_i \Big[\log \sum_c e^{z_{ic}} - \sum_c q_{ic} z_{ic}\Big]
        + \frac{\lambda}{2} \lVert W \rVert^2, \qquad z_i = W x_i + b, \quad a_i = s_i / \sum_k s_k

    The **coefficient layout** is fixed here: a float64 array of shape (n_classes, n_features + 1), the intercept in the
    last column, or (n_classes, n_features) without one. Products are taken in `dtype`; sums over rows and everything
    of the size of the coefficients are float64.

    Arrays of the size of the coefficients may be of another kind than NumPy's, and lie on another device: `zeros` and
    `placed` make them, `on_host` of `kernels/algebra.py` brings them back. What has one number a class is NumPy's.

    A place of rows provides three sums over them, `loss_sums`, `moment_sums` and `intercept_moments`; for a metric,
    `compiled_gram` and `sample`, rows in memory; and `_widened`. The **law**: the same call gives the same bits, from
    run to run. A resumed fit depends on it.

    Attributes
    ----------
    n_rows, n_features, n_classes : int
    shape : tuple
        That of the coefficients.
    dtype : dtype
    l2 : float
        The penalty lambda of the mean objective.
    fit_intercept : bool
    total_weight : float
        The sum of the rows' weights.
    passes : float
        Reads of the rows so far; one that only takes logits counts half.
    compiled : bool
        Whether passes are taken by compiled loops, on threads of their own, and not by BLAS.
    """

    total_weight: float
    speed = 1.0  # how many times faster its passes are than the host, on which metrics are made

    def __init__(
        self, n_rows: int, n_features: int, n_classes: int, *, l2: float, fit_intercept: bool, dtype: np.dtype
    ) -> None:
        self.n_rows, self.n_features, self.n_classes = n_rows, n_features, n_classes
        self.l2, self.fit_intercept, self.dtype = l2, fit_intercept, np.dtype(dtype)
        self.shape = (n_classes, n_features + fit_intercept)
        self.passes = 0.0
        self._of_data: dict[str, Any] = {}  # computed once, whatever the penalty

    @property
    def eps(self) -> float:
        """The spacing of the numbers next to 1 as far as products keep them apart."""
        return float(np.finfo(self.dtype).eps)

    @property
    def precision(self) -> str:
        """The dtype, and where the rows are not in memory but on a device, which one: what the last bits hang on."""
        return str(self.dtype)

    @property
    def pass_work(self) -> float:
        """What a pass costs in multiply-adds: 2 n_features and the like of 50 for the exponential of each logit.

        It is never cheaper than 2e7, for the calls, and classes are taken in vectors.
        """
        return self.n_rows * max(16, self.n_classes) * (2 * self.n_features + 50) / self.speed + 2e7

    def zeros(self) -> Any:
        """Return coefficients of zero."""
        return np.zeros(self.shape)

    def placed(self, coef: np.ndarray) -> Any:
        """Return coefficients of NumPy as the objective takes them."""
        return coef

    def stored(self, coef: np.ndarray) -> np.ndarray:
        """Return coefficients in the dtype of the products: as small as they can be kept."""
        return coef.astype(self.dtype)

    @property
    @abstractmethod
    def compiled(self) -> bool:
        """Whether passes are taken by compiled loops."""

    @abstractmethod
    def loss_sums(self, coef: np.ndarray) -> tuple[float, np.ndarray]:
        """Return sum_i a_i CE_i and its gradient, in one pass."""

    @abstractmethod
    def moment_sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return X^T A Q (n_classes, n_features), sum_i a_i q_i and sum_i a_i abs(x_i), in half a pass."""

    @abstractmethod
    def intercept_moments(self, coef: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pbar = sum_i a_i p_i, and P^T A P over all rows or over a sample of them, in half a pass."""

    @abstractmethod
    def compiled_gram(self, coef: np.ndarray | None, stride: int) -> np.ndarray | None:
        """Return the mean of w_i x~_i x~_i^T over about every `stride`-th row; None where a sample must give it."""

    def compiled_coupling(self, coef: np.ndarray, stride: int) -> np.ndarray | None:
        """Return the mean of (p_i (x) x~_i)(p_i (x) x~_i)^T, as `compiled_gram` returns that of x~_i x~_i^T."""
        return None

    def compiled_class_grams(self, coef: np.ndarray, stride: int) -> np.ndarray | None:
        """Return the mean of p_ic (1 - p_ic) x~_i x~_i^T for every class c, as `compiled_gram` returns that of all."""
        return None

    def compiled_diagonal(self, coef: np.ndarray | None, stride: int) -> np.ndarray | None:
        """Return the diagonal of what `compiled_gram` returns, for more features than such a matrix is made of."""
        return None

    @abstractmethod
    def sample(self, stride: int) -> "LinearSoftmaxObjective":
        """Return the objective of about every `stride`-th row, in memory, without the penalty."""

    @abstractmethod
    def _widened(self) -> Self:
        """Return the same objective with float64 products."""

    def wide(self) -> Self:
        """Return the same objective with float64 products."""
        if "wide" not in self._of_data:
            self._of_data["wide"] = self._widened()
        wide: Self = self._of_data["wide"]
        return wide.with_l2(self.l2)

    def with_l2(self, l2: float) -> Self:
        """Return the objective of the same data under another penalty; its passes are counted anew."""
        other = copy.copy(self)
        other.l2, other.passes = l2, 0.0
        return other

    def split(self, coef: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return views of the weights (n_classes, n_features) and of the intercepts (n_classes,), or zeros for them."""
        if self.fit_intercept:
            return coef[:, :-1], coef[:, -1]
        return coef, np.zeros(self.n_classes)

    def representable(self, coef: np.ndarray) -> np.ndarray:
        """Return the coefficients as the dtype can hold them; those of two classes as one vector w: (-w/2, w/2).

        Without a penalty they could move by any vector common to all classes: then their mean is zero.
        """
        if self.n_classes == 2:
            half = (coef[1] - coef[0]).astype(self.dtype) / 2.0
            coef = np.stack([-half, half])
        elif self.l2 == 0.0:
            coef = coef - coef.mean(axis=0)
        return coef.astype(self.dtype).astype(np.float64)

    def loss_gradient(self, coef: np.ndarray) -> tuple[float, np.ndarray]:
        """Return F and its gradient, in one pass over the rows; at zero, in none."""
        if not coef.any():
            return self._at_zero()
        with np.errstate(over="ignore", invalid="ignore"):  # a trial step may overflow; the line search sees a NaN
            loss, gradient = self.loss_sums(coef)
        self.passes += 1.0
        weights, gradient_weights = self.split(coef)[0], self.split(gradient)[0]
        gradient_weights += self.l2 * weights
        return loss + 0.5 * self.l2 * dot(weights, weights), gradient

    def _at_zero(self) -> tuple[float, np.ndarray]:
        """Return F and its gradient where all probabilities are equal, from what a certificate needs in any case."""
        moments, frequencies = self.target_moments()
        mass = float(frequencies.sum())
        gradient = self.zeros()
        weights, intercepts = self.split(gradient)
        weights[...] = moments.sum(axis=0) / self.n_classes - moments
        intercepts[...] = beside(intercepts, mass / self.n_classes - frequencies)
        return mass * float(np.log(self.n_classes)), gradient

    def intercept_system(self, coef: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradient and the Hessian of F in the intercepts alone: pbar - pi and diag(pbar) - P^T A P."""
        mean, second = self.intercept_moments(coef)
        self.passes += 0.5
        return mean - self.target_moments()[1], laplacian(second)

    def target_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return X^T A Q as (n_classes, n_features) and pi = sum_i a_i q_i as (n_classes,): they are constant."""
        return self._moments()[:2]

    def mean_sizes(self) -> np.ndarray:
        """Return sum_i a_i abs(x_i) as (n_features,); it is constant."""
        return self._moments()[2]

    @property
    def moments_known(self) -> bool:
        """Whether the constant sums have been taken, so that they cost no pass."""
        return "moments" in self._of_data

    def _moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if "moments" not in self._of_data:
            self._of_data["moments"] = self.moment_sums()
            self.passes += 0.5
        moments: tuple[np.ndarray, np.ndarray, np.ndarray] = self._of_data["moments"]
        return moments
