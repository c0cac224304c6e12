"""Pictures: what they show, and that they keep scikit-learn's conventions."""

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from softhead import (
    RegularizationPathDisplay,
    ReliabilityDisplay,
    RiskCoverageDisplay,
    SoftmaxClassifier,
    SoftmaxClassifierCV,
    calibration_error,
    risk_coverage,
    softmax_path,
)

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


@pytest.fixture(scope="module")
def model():
    return SoftmaxClassifier(C=0.01).fit(X[::2], y[::2])


class TestReliability:
    def test_its_numbers_are_those_of_the_calibration_error(self, model):
        display = ReliabilityDisplay.from_estimator(model, X, y, n_bins=8)
        p = model.predict_proba(X)
        filled = display.mass > 0
        error = (display.mass * np.abs(display.prob_true - display.prob_pred))[filled].sum()
        assert error == pytest.approx(calibration_error(p, y, n_bins=8).value, rel=1e-12)
        np.testing.assert_array_equal(display.y_prob, p.max(axis=1))
        np.testing.assert_array_equal(display.line_.get_xdata(), display.prob_pred[filled])
        np.testing.assert_array_equal(display.line_.get_ydata(), display.prob_true[filled])
        np.testing.assert_array_equal([bar.get_height() for bar in display.bars_], display.mass)
        np.testing.assert_array_equal([bar.get_x() for bar in display.bars_], display.edges[:-1])
        ends = np.array([segment[:, 1] for segment in display.intervals_.get_segments()])
        np.testing.assert_array_equal(ends, np.column_stack([display.low, display.high])[filled])
        assert ((ends[:, 0] <= display.prob_true[filled]) & (display.prob_true[filled] <= ends[:, 1])).all()

    def test_of_one_class_it_is_the_frequency_of_that_class(self, model):
        names = np.array(["red", "green", "blue"], dtype=object)[y]
        display = ReliabilityDisplay.from_predictions(
            names, model.predict_proba(X), labels=["red", "green", "blue"], pos_label="green", n_bins=4
        )
        p, hits = model.predict_proba(X)[:, 1], y == 1
        cells = np.minimum(np.ceil(4 * p) - 1, 3)
        for b in range(4):
            if (cells == b).any():
                assert display.prob_true[b] == pytest.approx(hits[cells == b].mean())
                assert display.prob_pred[b] == pytest.approx(p[cells == b].mean())
                assert display.mass[b] == pytest.approx((cells == b).mean())
        assert display.ax_.get_xlabel() == "probability of class green"

    def test_two_classes_may_be_one_column_and_weights_count_as_rows(self):
        p, labels = np.array([0.9, 0.2, 0.7]), np.array([True, False, False])
        one = ReliabilityDisplay.from_predictions(labels, p, sample_weight=[1, 2, 1], pos_label=True, n_bins=2)
        many = ReliabilityDisplay.from_predictions(
            labels[[0, 1, 1, 2]], np.column_stack([1 - p, p])[[0, 1, 1, 2]], pos_label=True, n_bins=2
        )
        for name in ("prob_true", "prob_pred", "mass"):
            np.testing.assert_allclose(getattr(one, name), getattr(many, name), rtol=1e-12)

    def test_names_reference_line_and_axes_are_as_in_scikit_learn(self, model):
        figure, ax = plt.subplots()
        scaled = make_pipeline(StandardScaler(), SoftmaxClassifier()).fit(X, y)
        first = ReliabilityDisplay.from_estimator(scaled, X, y, ax=ax, color="green")
        second = ReliabilityDisplay.from_estimator(model, X, y, ax=ax, name="other", ref_line=True)
        texts = [text.get_text() for text in ax.get_legend().get_texts()]
        assert sorted(texts) == ["SoftmaxClassifier", "other", "perfectly calibrated", "share of rows"]
        assert first.ax_ is second.ax_ is ax
        assert first.figure_ is figure
        assert first.line_.get_color() == "green"
        bare = ReliabilityDisplay.from_predictions(y, model.predict_proba(X), ref_line=False)
        assert len(bare.ax_.lines) == 1
        assert [text.get_text() for text in bare.ax_.get_legend().get_texts()] == ["share of rows"]


class TestRiskCoverage:
    def test_its_numbers_are_those_of_the_metric(self, model):
        display = RiskCoverageDisplay.from_estimator(model, X, y)
        curve = risk_coverage(model.predict_proba(X), y)
        np.testing.assert_array_equal(display.line_.get_xdata(), curve.coverage)
        np.testing.assert_array_equal(display.line_.get_ydata(), curve.risk)
        assert display.risk[-1] == pytest.approx(1 - model.score(X, y))
        (text,) = display.ax_.get_legend().get_texts()
        assert text.get_text() == f"SoftmaxClassifier (area = {curve.area.value:.3g})"

    def test_any_score_may_order_the_rows(self, model):
        figure, ax = plt.subplots()
        p = model.predict_proba(X)
        best = RiskCoverageDisplay.from_predictions(
            y, p, score=p.argmax(axis=1) == y, ax=ax, curve_kwargs={"linestyle": ":"}
        )
        assert best.risk.tolist() == [0.0, pytest.approx(1 - model.score(X, y))]
        assert best.line_.get_linestyle() == ":"
        assert best.figure_ is figure
        assert best.plot(name="again").ax_ is not ax


@pytest.mark.parametrize("display", [ReliabilityDisplay, RiskCoverageDisplay])
def test_classes_and_columns_must_fit(display, model):
    p = model.predict_proba(X)
    with pytest.raises(ValueError, match="y_prob has 3 columns, but y_true has 2 classes; give the class of every"):
        display.from_predictions(y[y < 2], p[y < 2])
    with pytest.raises(ValueError, match="y_true: the label 7 is not among the classes"):
        display.from_predictions(np.where(y == 1, 7, y), p, labels=[0, 1, 2])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        display.from_predictions(y[:10], p)
    with pytest.raises(ValueError, match="y_prob"):
        display.from_predictions(y, 3 * p)
    with pytest.raises(ValueError, match=r"probabilities: row 0 has the sum 0.5; the rows must sum to 1"):
        display.from_predictions(y, p / 2)
    with pytest.raises(ValueError, match="labels: 1 is given more than once"):
        display.from_predictions(y, p, labels=[0, 1, 1])
    with pytest.raises(ValueError, match="sample_weight is all zeros"):
        display.from_predictions(y, p, sample_weight=np.zeros(len(y)))
    huge = display.from_predictions(y, p, sample_weight=np.full(len(y), 1e308)).line_.get_ydata()
    np.testing.assert_allclose(huge, display.from_predictions(y, p).line_.get_ydata())
    shuffled = display.from_predictions(y, p[:, [2, 0, 1]], labels=[2, 0, 1])
    np.testing.assert_array_equal(shuffled.line_.get_ydata(), display.from_predictions(y, p).line_.get_ydata())


def test_a_class_that_is_none_is_named(model):
    with pytest.raises(ValueError, match="pos_label: 5 is not among the classes"):
        ReliabilityDisplay.from_estimator(model, X, y, pos_label=5)


def test_a_path_without_coefficients_is_drawn_on_a_plain_axis():
    display = RegularizationPathDisplay.from_estimator(softmax_path(np.zeros((6, 2)), [0, 1] * 3, Cs=[1.0, 2.0]))
    assert display.norm_ax_.get_yscale() == "linear"
    assert display.norm_line_.get_ydata().tolist() == [0.0, 0.0]
