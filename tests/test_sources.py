"""The worked figures of the textbook expositions of softmax and its loss."""

import numpy as np
import pytest

import softhead


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
    linear = softhead.normalize([1, 2, 8], norm="l1")
    soft = softhead.softmax([1, 2, 8])
    assert soft[2] / soft[1] == pytest.approx(np.exp(6), rel=1e-14)
    assert linear[2] / linear[1] == pytest.approx(4)


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
