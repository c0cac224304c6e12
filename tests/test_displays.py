"""Pictures: what they show, and that they keep scikit-learn's conventions."""

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

from softhead import RegularizationPathDisplay, SoftmaxClassifierCV, softmax_path

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

X, y = load_iris(return_X_y=True)
CS = [10.0, 0.01, 1.0, np.inf]


@pytest.fixture(autouse=True)
def _no_figure_is_left():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def search():
    return SoftmaxClassifierCV(CS[:3], cv=3).fit(X, y)


@pytest.fixture(scope="module")
def path():
    return softmax_path(X[::2], y[::2], Cs=CS)


class TestRegularizationPath:
    def test_of_a_search_it_shows_the_scores_of_the_folds_and_the_chosen(self, search):
        display = RegularizationPathDisplay.from_estimator(search)
        np.testing.assert_array_equal(display.line_.get_xdata(), [0.01, 1.0, 10.0])
        scores = search.scores_[:, 0, [1, 2, 0]]
        np.testing.assert_allclose(display.line_.get_ydata(), scores.mean(axis=0), rtol=1e-12)
        norms = search.coef_norms_[:, 0, [1, 2, 0]].mean(axis=0)
        np.testing.assert_allclose(display.norm_line_.get_ydata(), norms, rtol=1e-12)
        assert (np.diff(norms) > 0).all(), "a weaker penalty lets the coefficients grow"
        assert display.chosen_line_.get_xdata()[0] == search.C_
        assert display.ax_.get_ylabel() == "negative log loss"
        low, high = np.array(display.fill_between_.get_paths()[0].get_extents()).T[1]
        assert low == pytest.approx((scores.mean(axis=0) - scores.std(axis=0)).min())
        assert high == pytest.approx((scores.mean(axis=0) + scores.std(axis=0)).max())

    def test_of_a_path_the_classifiers_are_scored_on_the_rows_given(self, path):
        display = RegularizationPathDisplay.from_estimator(path, X[1::2], y[1::2], scoring="accuracy")
        accuracies = [path.classifier(i).score(X[1::2], y[1::2]) for i in (1, 2, 0)]
        np.testing.assert_allclose(display.line_.get_ydata(), accuracies, rtol=1e-12)
        assert display.fill_between_ is None
        best = max([*accuracies, path.classifier(3).score(X[1::2], y[1::2])])
        assert path.classifier(CS.index(display.C)).score(X[1::2], y[1::2]) == best

    def test_without_rows_the_coefficients_alone_are_drawn_and_infinity_is_left_out(self, path):
        display = RegularizationPathDisplay.from_estimator(path)
        assert display.line_ is None
        assert display.chosen_line_ is None
        assert display.norm_ax_ is display.ax_
        np.testing.assert_array_equal(display.norm_line_.get_xdata(), [0.01, 1.0, 10.0])
        np.testing.assert_allclose(
            display.norm_line_.get_ydata(), [np.linalg.norm(path.coefs[i]) for i in (1, 2, 0)], rtol=1e-12
        )

    def test_it_draws_where_it_is_told_and_as_it_is_told(self, search):
        figure, ax = plt.subplots()
        display = RegularizationPathDisplay.from_estimator(search, ax=ax, line_kw={"color": "red"}, score_name="nats")
        assert display.ax_ is ax
        assert display.figure_ is figure
        assert display.line_.get_color() == "red"
        assert display.plot() is display
        assert display.ax_ is not ax
        assert ax.get_ylabel() == "nats"
        assert plt.get_fignums() == [figure.number, display.figure_.number]

    def test_what_cannot_be_drawn_is_named(self, search, path):
        with pytest.raises(TypeError, match="estimator: a list; accepted are a SoftmaxClassifierCV"):
            RegularizationPathDisplay.from_estimator([])
        with pytest.raises(ValueError, match="X, y: given with a search"):
            RegularizationPathDisplay.from_estimator(search, X, y)
        with pytest.raises(ValueError, match="only one of them"):
            RegularizationPathDisplay.from_estimator(path, X)
        with pytest.raises(NotFittedError):
            RegularizationPathDisplay.from_estimator(SoftmaxClassifierCV())
        assert plt.get_fignums() == []
