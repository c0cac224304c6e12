"""The objective over rows in a tensor: every sum over rows is taken on its device, a block of rows at a time."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

import softhead.torch.algebra  # noqa: F401  (what the solver does with tensors)
from softhead.kernels.algebra import on_host
from softhead.linear.contract import Objective
from softhead.linear.objective import LinearSoftmaxObjective
from softhead.torch.host import numpy_dtype
from softhead.torch.products import TF32_EPS, products
from softhead.torch.residuals import class_residuals, distribution_residuals, probabilities

_BLOCK_BYTES = 2**28  # of logits, of rows in float64, or of their products with probabilities
# By arithmetic, not measured: 2e14 multiply-adds a second of TF32 where a processor's cores make 4e11 of a Gram matrix.
_CUDA_SPEED = 500.0


class _Block(NamedTuple):
    """Some of the rows."""

    rows: slice
    X: Tensor  # in the dtype of the products
    weight: Tensor | None  # a_i as a column, float64; None where all are alike


class TensorObjective(Objective):
    """The objective of rows in a tensor; see `Objective` for what it minimises and for the layout of the coefficients.

    Coefficients, gradients and moments are float64 tensors on the device of `X`. Only numbers and what has one number
    a class go to the host, and the small matrix that a metric is made of. float32 products on CUDA are taken in TF32:
    what such a pass cannot see, the solver looks for with float64 products, and so certifies.

    Parameters
    ----------
    X : Tensor of shape (n_rows, n_features), float32 or float64
    targets : Tensor
        Integer classes (n_rows,), int64, or distributions (n_rows, n_classes) whose rows sum to 1, of the dtype of X.
    n_classes : int
    sample_weight : Tensor of shape (n_rows,), float64, optional
        Non-negative, with a positive sum.
    l2 : float
        The penalty lambda of the mean objective.
    fit_intercept : bool
    """

    def __init__(
        self,
        X: Tensor,
        targets: Tensor,
        *,
        n_classes: int,
        sample_weight: Tensor | None = None,
        l2: float = 0.0,
        fit_intercept: bool = True,
    ) -> None:
        n_rows, n_features = X.shape
        super().__init__(n_rows, n_features, n_classes, l2=l2, fit_intercept=fit_intercept, dtype=numpy_dtype(X.dtype))
        self.X, self.targets, self.device = X.detach(), targets.detach(), X.device
        self.total_weight = float(n_rows if sample_weight is None else sample_weight.sum())
        if sample_weight is not None and bool((sample_weight == sample_weight[0]).all()):
            sample_weight = None  # weights that are alike count in their sum alone
        self.sample_weight = sample_weight
        self._share = 1.0 if sample_weight is not None else 1.0 / n_rows  # what sums over the rows are multiplied by
        self._weight = None if sample_weight is None else (sample_weight / self.total_weight)[:, None]
        self.speed = _CUDA_SPEED if X.device.type == "cuda" else 1.0

    def _widened(self) -> Self:
        wide = self.with_l2(0.0)
        wide.dtype = np.dtype(np.float64)
        return wide  # the constant sums, which it shares, are float64 in any case

    @property
    def compiled(self) -> bool:
        """Whether passes are taken by compiled loops on the host: they are not."""
        return False

    @property
    def tf32(self) -> bool:
        """Whether products are rounded to TF32."""
        return self.device.type == "cuda" and self.dtype == np.float32

    @property
    def eps(self) -> float:
        """The spacing of the numbers next to 1 as far as products keep them apart."""
        return TF32_EPS if self.tf32 else super().eps

    @property
    def precision(self) -> str:
        """The dtype, and the device and the version of PyTorch that its products hang on."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return f"{self.dtype} on {name}, PyTorch {torch.__version__}"

    def zeros(self) -> Tensor:
        """Return coefficients of zero."""
        return torch.zeros(self.shape, dtype=torch.float64, device=self.device)

    def placed(self, coef: np.ndarray) -> Tensor:
        """Return coefficients of NumPy on the device."""
        return torch.as_tensor(np.ascontiguousarray(coef), dtype=torch.float64, device=self.device)

    def stored(self, coef: Any) -> Any:
        """Return coefficients in the dtype of the products."""
        return coef.to(self._dtype)

    def representable(self, coef: Any) -> Any:
        """Return the coefficients as the dtype can hold them; see `Objective.representable`."""
        dtype = self._dtype
        if self.n_classes == 2:
            half = (coef[1] - coef[0]).to(dtype) / 2.0
            coef = torch.stack([-half, half])
        elif self.l2 == 0.0:
            coef = coef - coef.mean(0)
        return coef.to(dtype).double()

    def loss_sums(self, coef: Any) -> tuple[float, Any]:
        """Return sum_i a_i CE_i and its gradient."""
        gradient = self.zeros()
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        with self._products():
            for block, logits in self._logits(coef):
                aims = self.targets[block.rows]
                residuals = class_residuals if aims.ndim == 1 else distribution_residuals
                losses = residuals(logits, aims if aims.ndim == 1 else aims.to(logits.dtype))
                if block.weight is not None:
                    losses.mul_(block.weight[:, 0])
                    logits.mul_(block.weight.to(logits.dtype))
                loss += losses.sum()
                self._accumulate(gradient, logits, block.X)
        return self._share * float(loss), gradient.mul_(self._share)

    def moment_sums(self) -> tuple[Any, np.ndarray, Any]:
        """Return X^T A Q, sum_i a_i q_i and sum_i a_i abs(x_i); all but the second on the device."""
        moments, sizes = self.zeros(), torch.zeros(self.n_features, dtype=torch.float64, device=self.device)
        frequencies = sizes.new_zeros(self.n_classes)
        with self._products():
            for block in self._blocks(torch.float64, self.n_classes):
                # Products with ones and zeros: to add rows by their labels would take atomic operations.
                aims = self.targets[block.rows]
                if aims.ndim == 1:
                    weighted = block.X.new_zeros(len(aims), self.n_classes).scatter_(1, aims[:, None], 1.0)
                else:
                    weighted = aims.double()
                if block.weight is not None:
                    weighted = weighted * block.weight
                frequencies += weighted.sum(0)
                sizes += block.X.abs().sum(0) if block.weight is None else block.weight[:, 0] @ block.X.abs()
                self._accumulate(moments, weighted, block.X)
        return self._share * self.split(moments)[0], self._share * on_host(frequencies), self._share * sizes

    def intercept_moments(self, coef: Any) -> tuple[np.ndarray, Any]:
        """Return pbar = sum_i a_i p_i, and on the device P^T A P over all rows or over a sample of them."""
        # P^T A P costs n C^2: where that is more than the rest of a pass, a sample of rows estimates it.
        stride = 1 + self.n_classes // (4 * self.n_features + 64)
        mean = torch.zeros(self.n_classes, dtype=torch.float64, device=self.device)
        second = mean.new_zeros(self.n_classes, self.n_classes)
        with self._products():
            for block, p in self._logits(coef):
                probabilities(p)
                weighted = p if block.weight is None else p * block.weight.to(p.dtype)
                mean += weighted.sum(0, dtype=torch.float64)
                second += weighted[::stride].mT @ p[::stride]
        return self._share * on_host(mean), second

    def compiled_gram(self, coef: Any, stride: int) -> np.ndarray:
        """Return the mean of w_i x~_i x~_i^T over every `stride`-th row, made on the device."""
        size, d = self.shape[1], self.n_features
        gram = torch.zeros((size, size), dtype=torch.float64, device=self.device)
        total = gram.new_zeros(())
        with self._products():
            for X, a, w in self._weighted(coef, stride):
                total += a.sum()
                scaled = w * X
                gram[:d, :d] += scaled.mT @ X
                if self.fit_intercept:
                    gram[d, :d] += scaled.sum(0)
                    gram[d, d] += w.sum()
        if self.fit_intercept:
            gram[:d, d] = gram[d, :d]
        return on_host(gram / total)

    def compiled_diagonal(self, coef: Any, stride: int) -> np.ndarray:
        """Return the mean of w_i x~_i^2 over every `stride`-th row, made on the device."""
        diagonal = torch.zeros(self.shape[1], dtype=torch.float64, device=self.device)
        total = diagonal.new_zeros(())
        with self._products():
            for X, a, w in self._weighted(coef, stride):
                total += a.sum()
                diagonal[: self.n_features] += (w * X * X).sum(0)
                if self.fit_intercept:
                    diagonal[-1] += w.sum()
        return on_host(diagonal / total)

    def compiled_coupling(self, coef: Any, stride: int) -> np.ndarray:
        """Return the mean of (p_i (x) x~_i)(p_i (x) x~_i)^T over every `stride`-th row, made on the device."""
        size = self.n_classes * self.shape[1]
        coupled = torch.zeros((size, size), dtype=torch.float64, device=self.device)
        total = coupled.new_zeros(())
        with self._products():
            for block in self._blocks(torch.float64, size, stride):
                a = block.X.new_ones(len(block.X), 1) if block.weight is None else block.weight
                total += a.sum()
                p = self._affine(block.X.to(self._dtype), coef).double()
                probabilities(p)
                x = torch.cat([block.X, torch.ones_like(a)], 1) if self.fit_intercept else block.X
                joint = (p[:, :, None] * (a.sqrt() * x)[:, None, :]).reshape(len(x), size)
                coupled += joint.mT @ joint
        self.passes += 0.5 / stride
        return on_host(coupled / total)

    def compiled_class_grams(self, coef: Any, stride: int) -> np.ndarray:
        """Return the mean of p_ic (1 - p_ic) x~_i x~_i^T for every class, as `compiled_gram` returns that of all."""
        grams = torch.zeros((self.n_classes, *2 * self.shape[1:]), dtype=torch.float64, device=self.device)
        total = grams.new_zeros(())
        with self._products():
            for block in self._blocks(torch.float64, self.n_classes, stride):
                a = block.X.new_ones(len(block.X), 1) if block.weight is None else block.weight
                total += a.sum()
                p = self._affine(block.X.to(self._dtype), coef).double()
                probabilities(p)
                x = torch.cat([block.X, torch.ones_like(a)], 1) if self.fit_intercept else block.X
                for w, gram in zip((a * p * (1.0 - p)).T, grams, strict=True):
                    gram += (w[:, None] * x).mT @ x
        self.passes += 0.5 / stride
        return on_host(grams / total)

    def sample(self, stride: int) -> LinearSoftmaxObjective:
        """Return the objective of every `stride`-th row on the host, without the penalty; the last one is kept."""
        known: tuple[int, LinearSoftmaxObjective] | None = self._of_data.get("sample")
        if known is None or known[0] != stride:
            weight = None if self.sample_weight is None else on_host(self.sample_weight[::stride])
            rows = LinearSoftmaxObjective(
                on_host(self.X[::stride]),
                on_host(self.targets[::stride]),
                n_classes=self.n_classes,
                sample_weight=weight if weight is None or weight.any() else None,
                fit_intercept=self.fit_intercept,
            )
            known = self._of_data["sample"] = stride, rows
        return known[1]

    @property
    def _dtype(self) -> torch.dtype:
        """The dtype of products."""
        return torch.float32 if self.dtype == np.float32 else torch.float64

    def _products(self) -> AbstractContextManager[None]:
        """Return a context in which products are taken as the objective takes them."""
        return products(self.device, tf32=self.tf32)

    def _blocks(self, dtype: torch.dtype, width: int, stride: int = 1) -> Iterator[_Block]:
        """Yield every `stride`-th row in blocks, in a dtype; `width` numbers in it are wanted for a row."""
        width = width if dtype == self.X.dtype else max(width, self.n_features)
        if stride > 1 and self._weight is not None and not bool(self._weight[::stride].any()):
            stride = 1  # every row of the sample happens to have the weight 0
        step = stride * max(1, _BLOCK_BYTES // (width * dtype.itemsize))
        for start in range(0, self.n_rows, step):
            rows = slice(start, min(start + step, self.n_rows), stride)
            yield _Block(rows, self.X[rows].to(dtype), None if self._weight is None else self._weight[rows])

    def _weighted(self, coef: Any, stride: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield every `stride`-th row in blocks, with a_i and a_i w_i as columns, all float64; w as for a metric."""
        at_zero = coef is None or not bool(coef.any())
        for block in self._blocks(torch.float64, self.n_classes, stride):
            a = block.X.new_ones(len(block.X), 1) if block.weight is None else block.weight
            if at_zero:
                yield block.X, a, a * (0.5 if coef is None else 1.0 / self.n_classes)
            else:
                p = self._affine(block.X.to(self._dtype), coef)
                probabilities(p)
                spread = 1.0 - (p * p).sum(1, keepdim=True, dtype=torch.float64)
                yield block.X, a, a * spread.clamp_(min=0.0) / (self.n_classes - 1)
        if not at_zero:
            self.passes += 0.5 / stride

    def _logits(self, coef: Any) -> Iterator[tuple[_Block, Tensor]]:
        """Yield blocks with their logits, in a buffer that is the caller's until the next block."""
        buffer: Tensor | None = None
        for block in self._blocks(self._dtype, self.n_classes):
            if buffer is None:
                buffer = block.X.new_empty(len(block.X), self.n_classes)
            yield block, self._affine(block.X, coef, buffer[: len(block.X)])

    def _affine(self, X: Tensor, coef: Any, out: Tensor | None = None) -> Tensor:
        """Return X W^T + b, written into `out`."""
        # Side by side: where rows are d + 1 numbers apart, few of them begin where the loads of a GPU's products do.
        columns = coef[:, : self.n_features].to(X.dtype).contiguous().mT
        if not self.fit_intercept:
            return torch.mm(X, columns, out=out)
        return torch.addmm(coef[:, self.n_features].to(X.dtype), X, columns, out=out)

    def _accumulate(self, total: Tensor, residuals: Tensor, X: Tensor) -> None:
        """Add residuals^T [X, 1] to `total`, which is float64."""
        total[:, : self.n_features] += residuals.mT @ X
        if self.fit_intercept:
            total[:, self.n_features] += residuals.sum(0, dtype=torch.float64)
