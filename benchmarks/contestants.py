"""The contestants of the classifier's benchmark: complete cold fits, each in a process of its own with a deadline.

A contestant is a function of the features, the classes, C and a tolerance, which returns coefficients, intercepts and
the number of its passes or iterations.
"""

import importlib.util
import multiprocessing
import time
import warnings
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

import softhead


class Fit(NamedTuple):
    """One fit: its wall-clock seconds, its passes or iterations, its certified gap (ours only) and its coefficients."""

    seconds: float
    passes: float
    gap: float
    coef: np.ndarray
    intercept: np.ndarray


def ours(X, y, C, tol, max_iter=20_000):
    model = softhead.SoftmaxClassifier(C=C, tol=tol, max_iter=max_iter).fit(X, y)
    return model.n_passes_, model.gap_, model.coef_, model.intercept_


def scikit_learn(solver):
    def fit(X, y, C, tol):
        model = LogisticRegression(C=C, tol=tol, solver=solver, max_iter=1_000_000, random_state=0).fit(X, y)
        return float(model.n_iter_[0]), np.nan, model.coef_, model.intercept_

    return fit


def torch_lbfgs(X, y, C, tol):
    """Full batches, strong Wolfe line search, memory of 20; tol bounds the largest entry of the gradient."""
    import torch

    n_classes, features, targets = int(y.max()) + 1, torch.from_numpy(X), torch.from_numpy(y)
    coef = torch.zeros((n_classes, X.shape[1]), requires_grad=True)
    intercept = torch.zeros(n_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [coef, intercept],
        max_iter=1_000_000,
        max_eval=2_000_000,
        tolerance_grad=tol,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    l2, evaluations = mean_penalty(C, len(y), n_classes), 0

    def closure():
        nonlocal evaluations
        evaluations += 1
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(torch.addmm(intercept, features, coef.T), targets)
        loss = loss + 0.5 * l2 * coef.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return evaluations, np.nan, coef.detach().numpy(), intercept.detach().numpy()


def peers(X, n_classes, *, largest_hessian=2e9):
    """Return the peers that pose the same problem in a form that fits: the likely best ones first.

    LIBLINEAR does not: it penalises the intercept, and takes several classes one against the rest.
    """
    names = ["lbfgs", "newton-cg"]
    if sparse.issparse(X):
        return {name: scikit_learn(name) for name in [*names, "sag", "saga"]}
    if 4.0 * (n_classes * X.shape[1]) ** 2 <= largest_hessian:
        names.append("newton-cholesky")
    chosen = {name: scikit_learn(name) for name in [*names, "saga"]}
    if importlib.util.find_spec("torch"):
        chosen["torch L-BFGS"] = torch_lbfgs
    return chosen


def mean_penalty(C, n_rows, n_classes):
    """Return lambda for one row of coefficients a class; two classes share one penalised vector."""
    return (2.0 if n_classes == 2 else 1.0) / (C * n_rows)


def objective(X, y, C, fit, block=8192):
    """F of a fit, in float64: written down once more, without softhead."""
    coef, intercept, n_classes = fit.coef.astype(float), fit.intercept.astype(float), int(y.max()) + 1
    if len(coef) == 1:
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    loss = 0.0
    for start in range(0, len(y), block):
        logits = X[start : start + block].astype(float) @ coef.T + intercept
        targets = y[start : start + block]
        loss += float((logsumexp(logits, axis=1) - logits[np.arange(len(targets)), targets]).sum())
    return loss / len(y) + 0.5 * mean_penalty(C, len(y), n_classes) * float((coef**2).sum())


def timed(fit, X, y, C, tol, deadline):
    """Return the Fit, or None where the deadline (seconds) was not kept."""
    context = multiprocessing.get_context("fork")  # the child shares the features
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(writer, fit, X, y, C, tol), daemon=True)
    child.start()
    writer.close()
    try:
        warm = reader.recv() if reader.poll(300) else None
        if warm is not None and reader.poll(min(deadline, 1e6)):
            return Fit(*reader.recv())
        return None
    except EOFError:
        raise SystemExit(f"a fit died: {fit}, tol={tol:g}") from None
    finally:
        child.kill()
        child.join()


def warm_up(fit, X, y):
    """Fit a few rows of every class: imports, compiled loops and thread pools do not count."""
    few = np.union1d(np.unique(y, return_index=True)[1], np.linspace(0, len(y) - 1, 500).astype(int))
    with warnings.catch_warnings(action="ignore"):
        fit(X[few], y[few], 1.0, 0.1)
        fit(X[few, :4], y[few], 1.0, 1e-6)  # so small, and so exact, that all loops are loaded


def _run(writer, fit, X, y, C, tol):
    warnings.simplefilter("ignore")  # fits that end early: the table says how far they got
    warm_up(fit, X, y)
    writer.send("warm")
    start = time.perf_counter()
    passes, gap, coef, intercept = fit(X, y, C, tol)
    writer.send((time.perf_counter() - start, passes, gap, coef, intercept))
