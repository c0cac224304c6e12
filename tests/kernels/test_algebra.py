import numpy as np
import pytest

from softhead.kernels.algebra import gap_parts, solve_cholesky


@pytest.mark.parametrize("n", [1, 2, 9, 130])
def test_a_cholesky_factor_solves_its_system(n):
    rng = np.random.default_rng(n)
    given = rng.normal(size=(2 * n, n))
    matrix, vector = given.T @ given, rng.normal(size=n)
    kept = vector.copy()
    x = solve_cholesky(np.linalg.cholesky(matrix), vector)
    np.testing.assert_allclose(matrix @ x, vector, rtol=0, atol=1e-11 * np.abs(matrix).max() * np.abs(x).max())
    np.testing.assert_array_equal(vector, kept)


@pytest.mark.parametrize("intercepts", [0, 1])
def test_parts_of_the_gap_are_what_their_formulas_say(intercepts):
    rng = np.random.default_rng(0)
    coef, gradient = rng.normal(size=(2, 5, 7 + intercepts))
    moments, removed, nu = rng.normal(size=(5, 7)), np.array([0.0, 0.3, 0.0, 0.1, 0.0]), np.array([0.5, 0, 0.5, 0, 0])
    weights, slope = coef[:, :7], gradient[:, :7]
    model = moments + slope - 0.2 * weights
    shift = removed[:, None] * model - np.outer(nu, removed @ model)
    expected = ((slope - shift) ** 2).sum(), (shift * weights).sum()
    assert gap_parts(coef, gradient, moments, removed, nu, 0.2) == pytest.approx(expected, rel=1e-13)
