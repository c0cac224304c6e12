"""A linear probe of ImageNet's size on the device: one certified fit, and a path of 96 penalties with a refit."""

import time
import warnings

import numpy as np
import torch


def gaussian_classes(n_rows, n_features, n_classes, device, seed=0, block=65_536):
    """Return rows and labels by the law of `data_sets.gaussian_classes`, made on the device."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device=device)

    basis = torch.linalg.qr(normal(n_features, n_features).double())[0].float()
    spectrum = torch.arange(1, n_features + 1, device=device) ** -0.7
    noise = torch.sqrt(97.0 * spectrum / spectrum.sum())[:, None] * basis
    means = (3.0 / n_features) ** 0.5 * normal(n_classes, n_features)
    y = torch.randint(n_classes, (n_rows,), generator=generator, device=device)
    X = torch.empty(n_rows, n_features, device=device)
    for start in range(0, n_rows, block):
        rows = X[start : start + block]
        torch.mm(normal(*rows.shape), noise, out=rows)
        rows += means[y[start : start + block]]
    wrong = torch.rand(n_rows, generator=generator, device=device) < 0.05
    return X, torch.where(wrong, torch.randint(n_classes, (n_rows,), generator=generator, device=device), y)


def accuracy(X, y, coef, intercept, block=16_384):
    """Return the share of rows whose largest logit is that of their class."""
    right = 0
    for rows, labels in zip(X.split(block), y.split(block), strict=True):
        right += int((torch.addmm(intercept, rows, coef.T).argmax(1) == labels).sum())
    return right / len(X)


def measured(session, call):
    """Return a call's result, its seconds, and how much memory it took beyond what was held."""
    if session.on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    result = call()
    session.wait()
    seconds = time.perf_counter() - start
    return result, seconds, torch.cuda.max_memory_allocated() - before if session.on_gpu else 0


def by_solver(session, n_rows, n_features, n_classes, C=0.316):
    """Record a fit by the solver, which needs threadpoolctl and SciPy, but not scikit-learn."""
    from softhead.linear.solver import solve
    from softhead.torch.objective import TensorObjective

    X, y = gaussian_classes(n_rows, n_features, n_classes, session.device)

    def fit(rows, max_iter):
        objective = TensorObjective(X[rows], y[rows], n_classes=n_classes, l2=1.0 / (C * len(X[rows])))
        return solve(objective, objective.zeros(), tol=1e-4, max_iter=max_iter)

    fit(slice(0, 10_000), 5)  # compiles
    solution, seconds, memory = measured(session, lambda: fit(slice(None), 1000))
    session.record(
        probe=f"one fit by the solver alone, C = {C:g}",
        seconds=seconds,
        status=solution.status,
        gap=float(solution.gap / solution.value),
        passes=float(solution.passes),
        extra_gb=memory / 1e9,
    )


def run(session):
    """Record the fit, then the path and the refit; by the solver alone a fit, where the classifier lacks something."""
    shape = (500, 8, 3) if session.tiny else (1_280_000, 768, 1000)
    try:
        import sklearn

        import softhead.estimator  # which needs a new one
    except ImportError as error:
        session.record(probe="without the classifier", why=f"{type(error).__name__}: {error}")
        by_solver(session, *shape)
        return
    with warnings.catch_warnings(), sklearn.config_context(array_api_dispatch=True):
        warnings.simplefilter("ignore")  # fits that end early: the status says so
        X, y = gaussian_classes(*shape, session.device)
        session.wait()
        small = slice(0, 10_000)
        softhead.SoftmaxClassifier(C=0.316).fit(X[small], y[small])  # compiles
        model, seconds, memory = measured(session, lambda: softhead.SoftmaxClassifier(C=0.316, tol=1e-4).fit(X, y))
        session.record(
            probe="one fit, C = 0.316",
            seconds=seconds,
            status=model.status_,
            gap=float(model.gap_ / model.objective_),
            passes=float(model.n_passes_),
            extra_gb=memory / 1e9,
        )
        if session.expired():
            return
        train = len(X) * 9 // 10
        Cs = np.geomspace(1e-4, 1e2, 3 if session.tiny else 96)

        def sweep():
            path = softhead.softmax_path(X[:train], y[:train], Cs=Cs, tol=1e-4)
            like = {"dtype": X.dtype, "device": X.device}
            scores = [
                accuracy(X[train:], y[train:], torch.as_tensor(coef, **like), torch.as_tensor(intercept, **like))
                for coef, intercept in zip(path.coefs, path.intercepts, strict=True)
            ]
            best = float(Cs[int(np.argmax(scores))])
            return path, best, max(scores), softhead.SoftmaxClassifier(C=best, tol=1e-4).fit(X, y)

        (path, best, score, model), seconds, memory = measured(session, sweep)
        session.record(
            probe=f"path of {len(Cs)} penalties and a refit at C = {best:.3g}",
            seconds=seconds,
            status=f"{list(path.statuses).count('converged')} of {len(Cs)} converged, refit {model.status_}",
            gap=float(np.max(np.asarray(path.gaps) / np.asarray(path.objectives))),
            passes=float(np.sum(np.asarray(path.passes)) + model.n_passes_),
            extra_gb=memory / 1e9,
        )
        session.record(probe_accuracy=score)
