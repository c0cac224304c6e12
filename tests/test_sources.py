"""The worked figures and statements of five expositions of softmax and its loss, which docs/sources.md maps."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

import softhead

ROOT = Path(__file__).parents[1]


def derivative(f, x, step=1e-5):
    """Return the derivatives of f by every entry of x, by central differences, along the last axis."""
    return np.stack([(f(x + change) - f(x - change)) / (2 * step) for change in step * np.eye(len(x))], axis=-1)


def test_worked_probabilities():
    np.testing.assert_array_equal(softhead.softmax([1, 2, 3]).round(2), [0.09, 0.24, 0.67])
    np.testing.assert_array_equal(softhead.softmax([1, 2, 8]).round(3), [0.001, 0.002, 0.997])


def test_raising_the_largest_logit_takes_nearly_all_the_mass():
    np.testing.assert_array_equal(softhead.softmax([1, 2, 5]).round(3), [0.017, 0.047, 0.936])


def test_worse_mistakes_cost_more():
    """Five classes, the fourth is true."""
    predictions = {
        0.6: [0.1, 0.15, 0.05, 0.6, 0.1],
        0.3: [0.05, 0.15, 0.4, 0.3, 0.1],
        0.1: [0.15, 0.2, 0.4, 0.1, 0.15],
    }
    losses = []
    for p_true, p in predictions.items():
        loss = softhead.cross_entropy(np.log(p), 3)
        assert loss == pytest.approx(-np.log(p_true), rel=1e-14)
        losses.append(loss)
    assert losses == sorted(losses)


def test_an_untrained_model_of_ten_classes_loses_minus_log_of_a_tenth():
    x = np.random.default_rng(0).standard_normal((7, 3))
    loss = softhead.linear_cross_entropy(x, np.zeros((10, 3)), np.arange(7), reduction="none")
    np.testing.assert_allclose(loss, -np.log(0.1), rtol=1e-15)


def test_two_loops_and_none_give_the_same_value_and_gradient():
    """L = mean_i -log(e^{f_y - m} / sum_j e^{f_j - m}) + reg/2 sum W^2 and dW = -(1/N) X^T (keep - prob) + reg W."""
    rng = np.random.default_rng(1)
    n, n_features, n_classes, reg = 20, 7, 4, 0.3
    x, w, y = rng.standard_normal((n, n_features)), rng.standard_normal((n_features, n_classes)), rng.integers(0, 4, n)
    loss, dw = 0.0, np.zeros_like(w)
    for i in range(n):
        f = x[i] @ w
        f = f - f.max()
        prob = np.exp(f) / np.exp(f).sum()
        loss -= np.log(prob[y[i]])
        for j in range(n_classes):
            keep = 1.0 if j == y[i] else 0.0
            dw[:, j] -= (keep - prob[j]) * x[i]
    loss = loss / n + reg / 2 * (w**2).sum()
    dw = dw / n + reg * w
    f = x @ w
    e = np.exp(f - f.max(axis=1, keepdims=True))
    keep, prob = np.eye(n_classes)[y], e / e.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(-(x.T @ (keep - prob)) / n + reg * w, dw, rtol=1e-11, atol=1e-14)
    value, grad = softhead.linear_cross_entropy_value_and_grad(x, w.T, y, l2=reg)
    assert value == pytest.approx(loss, rel=1e-13)
    np.testing.assert_allclose(grad.linear_weight.T, dw, rtol=1e-11, atol=1e-14)


def test_logits_are_unscaled_log_probabilities():
    """softmax(log [1, 2, 3]) = softmax(log [10, 20, 30]), and the cross-entropy of the two is their entropy."""
    small, large = np.log([1.0, 2.0, 3.0]), np.log([10.0, 20.0, 30.0])
    p = softhead.softmax(small)
    np.testing.assert_allclose(p, [1 / 6, 1 / 3, 1 / 2], rtol=1e-15)
    np.testing.assert_allclose(softhead.softmax(large), p, rtol=1e-15)
    assert softhead.cross_entropy(large, p) == pytest.approx(softhead.entropy(small), rel=1e-15)


def test_softmax_widens_gaps_where_linear_normalisation_cannot():
    """Scaling keeps ratios, whatever the unit; softmax turns differences into ratios, which for small ones are less."""
    for unit in (0.1, 1.0, 10.0):
        z = unit * np.array([1.0, 2.0, 8.0])
        for norm in ("l1", "l2", "max"):
            linear = softhead.normalize(z, norm=norm)
            assert linear[2] / linear[1] == pytest.approx(4, rel=1e-14)
        soft = softhead.softmax(z)
        assert soft[2] / soft[1] == pytest.approx(np.exp(6 * unit), rel=1e-13)
        assert (soft[2] / soft[1] > 4) == (unit >= 1.0)


def test_temperature_flattens_and_sharpens():
    z = np.array([1.0, 2.0, 5.0])
    largest = [softhead.softmax(z, temperature=t).max() for t in (1e9, 10, 2, 1, 0.5, 0.1)]
    assert largest == sorted(largest)
    assert largest[0] == pytest.approx(1 / 3, rel=1e-8)
    assert largest[-1] == pytest.approx(1.0, rel=1e-12)


def test_backward_by_the_chain_of_both_jacobians():
    """dL/dP = -y / p, dP/dZ = diag(P) - P^T P, and their product is a - y."""
    z, y = np.array([0.3, -1.2, 2.0, 0.7]), np.array([0.0, 0.0, 1.0, 0.0])
    p = softhead.softmax(z)
    chained = (-y / p) @ softhead.softmax_jacobian(p)
    np.testing.assert_allclose(chained, p - y, rtol=1e-14)
    _, gradient = softhead.cross_entropy_value_and_grad(z, 2)
    np.testing.assert_allclose(gradient, chained, rtol=1e-14)


def test_dividing_by_the_largest_entry_is_no_cure_for_its_sign():
    z = np.array([-3.0, -1.0, -2.0])
    assert (np.argsort(z / z.max()) != np.argsort(z)).any()
    np.testing.assert_array_equal(np.argsort(softhead.normalize(z, norm="max")), np.argsort(z))


def test_naive_exponentials_overflow_where_softmax_does_not():
    """exp(z) / sum exp(z) as it stands, and with numerator and denominator multiplied by exp(D), D = -max z too."""
    z = np.array([1.0, 2.0, 3.0])
    expected = softhead.softmax(z)
    np.testing.assert_allclose(np.exp(z) / np.exp(z).sum(), expected, rtol=1e-14)
    with np.errstate(over="ignore", invalid="ignore"):
        naive = np.exp(z + 1000) / np.exp(z + 1000).sum()
    assert np.isnan(naive).all()
    np.testing.assert_array_equal(softhead.softmax(z + 1000), expected)
    for constant in (-z.max(), 0.5, 7.0):
        shifted = np.exp(z + constant)
        np.testing.assert_allclose(shifted / shifted.sum(), expected, rtol=1e-14)


def test_scalings_are_no_cure_for_overflow():
    """They forget the unit, which softmax must see, and standard scores of many entries still overflow."""
    z = np.array([1.0, 2.0, 8.0])
    for norm in ("l1", "l2", "max", "zscore"):
        scaled = softhead.normalize(z, norm=norm)
        np.testing.assert_allclose(softhead.normalize(1000 * z, norm=norm), scaled, rtol=1e-14)
        assert softhead.softmax(scaled).max() < 0.9 < 0.99 < softhead.softmax(z).max()
    one_of_many = np.zeros(600_000)
    one_of_many[0] = 1.0
    score = softhead.normalize(one_of_many, norm="zscore")
    assert score[0] == pytest.approx(np.sqrt(599_999), rel=1e-12)
    with np.errstate(over="ignore"):
        assert np.exp(score[0]) == np.inf
    assert softhead.softmax(score)[0] == 1.0


def test_probabilities_lie_between_0_and_1_and_reach_them_by_rounding_alone():
    z = np.random.default_rng(2).uniform(-15, 15, (1000, 10))
    p = softhead.softmax(z)
    assert ((p > 0) & (p < 1)).all()
    np.testing.assert_array_equal(softhead.softmax([0.0, 800.0]), [0.0, 1.0])
    np.testing.assert_array_equal(softhead.log_softmax([0.0, 800.0])[0], -800.0)
    loss, gradient = softhead.cross_entropy_value_and_grad([0.0, 40.0], 1)
    assert softhead.softmax([0.0, 40.0])[1] == 1.0
    assert loss == pytest.approx(np.exp(-40.0), rel=1e-14)
    np.testing.assert_allclose(gradient, [np.exp(-40.0), -np.exp(-40.0)], rtol=1e-14)


def test_maximum_likelihood_in_four_steps():
    """Ten balls, six of them white: the likelihood, its logarithm, its derivative, the equation; then the mean."""

    def likelihood(p):
        return p**6 * (1 - p) ** 4

    def log_likelihood(p):
        return 6 * np.log(p) + 4 * np.log(1 - p)

    p = np.linspace(0.05, 0.95, 19)
    assert p[likelihood(p).argmax()] == p[log_likelihood(p).argmax()] == pytest.approx(0.6)
    slope = 6 / p - 4 / (1 - p)
    for at, expected in zip(p, slope, strict=True):
        assert derivative(log_likelihood, np.array([at])).item() == pytest.approx(expected, abs=1e-5)
    assert slope[likelihood(p).argmax()] == pytest.approx(0.0, abs=1e-13)
    white, logits = np.repeat([1, 0], [6, 4]), np.log(p / (1 - p))
    for logit, log_of_likelihood in zip(logits, log_likelihood(p), strict=True):
        each_ball = softhead.binary_cross_entropy_with_logits(np.full(10, logit), white)
        assert each_ball == pytest.approx(-log_of_likelihood / 10, rel=1e-13)
        assert softhead.cross_entropy([0.0, logit], [0.4, 0.6]) == pytest.approx(each_ball, rel=1e-13)


def test_the_derivative_by_the_probabilities_is_a_vector_with_a_minus():
    """-y / p; the diagonal matrix of the same entries is the derivative of the terms, whose sum is the loss."""
    p, y = np.array([0.1, 0.15, 0.05, 0.6, 0.1]), np.array([0.0, 0.1, 0.0, 0.7, 0.2])
    by_p = derivative(lambda a: softhead.nll_loss(np.log(a), y), p)
    np.testing.assert_allclose(by_p, -y / p, rtol=1e-8, atol=1e-10)
    of_terms = derivative(lambda a: -y * np.log(a), p)
    np.testing.assert_allclose(of_terms, np.diag(-y / p), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(of_terms.sum(axis=0), by_p, rtol=1e-8, atol=1e-10)


def test_the_penalty_is_half_the_squared_norm_and_its_gradient_lambda_w():
    rng = np.random.default_rng(3)
    x, w, y, l2 = rng.standard_normal((9, 4)), rng.standard_normal((3, 4)), rng.integers(0, 3, 9), 0.7
    value, grad = softhead.linear_cross_entropy_value_and_grad(x, w, y, l2=l2)
    plain_value, plain_grad = softhead.linear_cross_entropy_value_and_grad(x, w, y)
    assert value - plain_value == pytest.approx(l2 / 2 * (w**2).sum(), rel=1e-13)
    np.testing.assert_allclose(grad.linear_weight - plain_grad.linear_weight, l2 * w, rtol=1e-13, atol=1e-14)


def test_flattened_convolution_features_train_and_predict():
    """Features of 7 x 7 x 64 become rows of 3136, W is classes x features, logits W x + b, prob their softmax."""
    rng = np.random.default_rng(4)
    patterns, y = rng.standard_normal((3, 7, 7, 64)), np.repeat(np.arange(3), 20)
    maps = patterns[y] + 3 * rng.standard_normal((60, 7, 7, 64))
    x = maps.reshape(60, -1)
    assert x.shape == (60, 3136)
    model = softhead.SoftmaxClassifier(tol=1e-6).fit(x[::2], y[::2])
    assert model.coef_.shape == (3, 3136)
    assert model.gap_ <= 1e-6 * model.objective_
    prob = softhead.softmax(x @ model.coef_.T + model.intercept_)
    np.testing.assert_allclose(model.predict_proba(x), prob, rtol=1e-12)
    np.testing.assert_array_equal(model.predict(x), prob.argmax(axis=1))
    np.testing.assert_array_equal(model.predict(x[1::2]), y[1::2])
    loss = softhead.linear_cross_entropy(x[::2], model.coef_, y[::2], linear_bias=model.intercept_, l2=1 / 30)
    assert loss == pytest.approx(model.objective_, rel=1e-12)


def test_the_maximum_has_a_sparse_gradient_and_the_soft_maximum_a_full_one():
    """d max(z) is 1 at the entry chosen and 0 elsewhere, d logsumexp(z) is softmax(z), and hardmax itself is flat."""
    z = np.array([1.0, 2.0, 5.0, 4.0])
    np.testing.assert_allclose(derivative(np.max, z), softhead.hardmax(z), atol=1e-9)
    np.testing.assert_allclose(derivative(softhead.logsumexp, z), softhead.softmax(z), rtol=1e-6)
    np.testing.assert_array_equal(derivative(softhead.hardmax, z), 0.0)


def test_the_shift_alone_does_not_save_the_logarithm():
    """The logarithm of a shifted softmax loses what log-softmax, z - m - log sum exp(z - m), keeps."""
    z = np.array([0.3, -1.2, 2.0])
    m = z.max()
    np.testing.assert_allclose(softhead.log_softmax(z), z - m - np.log(np.exp(z - m).sum()), rtol=1e-14)
    extreme, y = np.array([0.0, 1000.0]), np.array([0.0, 1.0])
    e = np.exp(extreme - extreme.max())
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = np.log(e / e.sum())
        assert np.isnan(-(y * log_p).sum())  # 0 times the logarithm of 0
    assert log_p[0] == -np.inf
    np.testing.assert_array_equal(softhead.log_softmax(extreme), [-1000.0, 0.0])
    assert softhead.cross_entropy(extreme, y) == 0.0
    assert softhead.cross_entropy(extreme, 1 - y) == 1000.0
    assert np.log(softhead.softmax([0.0, 40.0]))[1] == 0.0
    assert softhead.log_softmax([0.0, 40.0])[1] == pytest.approx(-np.exp(-40.0), rel=1e-14)


def test_where_a_probability_is_tiny_so_is_its_gradient():
    """abs(dp_i / dz_j) <= p_i and p_j; the 1 / p in the derivative of cross-entropy undoes it for the true class."""
    z = np.array([0.0, 10.0, 30.0])
    p = softhead.softmax(z)
    jacobian = softhead.softmax_jacobian(p)
    assert (np.abs(jacobian) <= np.minimum.outer(p, p)).all()
    cotangent = np.array([1.0, -2.0, 3.0])
    assert (np.abs(softhead.softmax_vjp(p, cotangent)) <= p * np.ptp(cotangent)).all()
    _, gradient = softhead.cross_entropy_value_and_grad(z, 0)
    assert gradient[0] == pytest.approx(-1.0, rel=1e-12)
    assert gradient[1] == pytest.approx(p[1], rel=1e-14)


def test_cross_entropy_is_no_squared_distance():
    """It compares distributions: not symmetric, not 0 at equality, unbounded, never flat for a confident mistake."""
    q, p = np.array([0.5, 0.25, 0.25]), np.array([0.7, 0.2, 0.1])
    forth, back = softhead.cross_entropy(np.log(p), q), softhead.cross_entropy(np.log(q), p)
    assert forth == pytest.approx(-(q * np.log(p)).sum(), rel=1e-14)
    assert back == pytest.approx(-(p * np.log(q)).sum(), rel=1e-14)
    assert abs(forth - back) > 0.05
    assert softhead.cross_entropy(np.log(q), q) == pytest.approx(softhead.entropy(np.log(q)), rel=1e-14)
    assert forth > softhead.cross_entropy(np.log(q), q) > 0.0
    # Only the probability of the true class counts, and a squared distance also sees how the others share the rest.
    one, other, y = np.array([0.5, 0.5, 0.0]), np.array([0.5, 0.25, 0.25]), np.array([1.0, 0.0, 0.0])
    losses = softhead.nll_loss(np.log([[0.5, 0.5, 1e-300], other]), [0, 0], reduction="none")
    np.testing.assert_allclose(losses, np.log(2), rtol=1e-14)
    assert [((v - y) ** 2).sum() for v in (one, other)] == [0.5, 0.375]
    for gap in (10.0, 30.0, 1000.0):
        z, y = np.array([0.0, gap]), np.array([1.0, 0.0])
        p = softhead.softmax(z)
        loss, gradient = softhead.cross_entropy_value_and_grad(z, 0)
        assert loss >= gap
        assert gradient[0] == pytest.approx(-1.0, abs=1e-4)
        assert ((p - y) ** 2).sum() <= 2.0
        assert np.abs(softhead.softmax_vjp(p, 2 * (p - y))).max() <= 5 * np.exp(-gap)


def test_attention_is_a_weighted_mean_with_softmax_weights():
    """softmax(Q K^T / sqrt(d)) V: the temperature is sqrt(d), and what may not be seen is left out by `where`."""
    rng = np.random.default_rng(5)
    queries, keys, values = rng.standard_normal((3, 6, 16))
    weights = softhead.softmax(queries @ keys.T, temperature=4.0)
    np.testing.assert_allclose(weights, softhead.softmax(queries @ keys.T / np.sqrt(16)), rtol=1e-14)
    past = np.tri(6, dtype=bool)
    causal = softhead.softmax(queries @ keys.T, temperature=4.0, where=past)
    np.testing.assert_array_equal(causal[~past], 0.0)
    np.testing.assert_allclose(causal.sum(axis=1), 1.0, rtol=1e-14)
    np.testing.assert_array_equal((causal @ values)[0], values[0])
    np.testing.assert_allclose(causal[-1], weights[-1], rtol=1e-14)
    for row in range(6):
        kept = weights[row, : row + 1]
        np.testing.assert_allclose(causal[row, : row + 1], kept / kept.sum(), rtol=1e-14)


def test_the_page_of_sources_names_what_exists_and_every_test_of_this_file():
    page = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
    tests = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page))
    assert len(tests) == len(set(re.findall(r"tests/[^`\s]*", page)))
    functions = {}
    for path in {path for path, _ in tests}:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        functions[path] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert not {f"{path}::{name}" for path, name in tests if name not in functions[path]}
    own = {name for name in functions["tests/test_sources.py"] if name.startswith("test_")}
    assert own == {name for path, name in tests if path == "tests/test_sources.py"}

    names = set(re.findall(r"softhead\.([A-Za-z_.]*\w)", page))
    for name in names:
        public, *attributes = name.split(".")
        assert public in softhead.__all__
        value = getattr(softhead, public)
        for attribute in attributes:
            value = getattr(value, attribute)
    assert {"softmax", "cross_entropy", "SoftmaxClassifier"} <= names
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page)
    assert links
    assert all((ROOT / "docs" / link).exists() for link in links)
