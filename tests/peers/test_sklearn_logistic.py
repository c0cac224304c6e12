"""scikit-learn's own tests of LogisticRegression and LogisticRegressionCV, with our classifiers in their place."""

import functools
import inspect

import numpy as np
import pytest

import softhead

peer = pytest.importorskip(
    "sklearn.linear_model.tests.test_logistic", reason="this scikit-learn comes without its tests"
)
Theirs, TheirsCV = peer.LogisticRegression, peer.LogisticRegressionCV
pytestmark = peer.pytestmark

# The tests that we pass, with the values of those parameters that stand for something we have.
FIRST = {"solver": ["lbfgs"]}  # we have one solver: what a test says of several of theirs is asked of it once
NUMPY = {"array_namespace, device_name, dtype_name": [("numpy", None, "float64"), ("numpy", None, "float32")]}
OFFERED = {
    "test_predict_2_classes": {},
    "test_predict_3_classes": {},
    "test_logistic_glmnet": FIRST,
    "test_inconsistent_input": {},
    "test_write_parameters": {},
    "test_nan": {},
    "test_consistency_path": {},
    "test_logistic_regression_solvers": {},
    "test_logistic_regression_solvers_multiclass": {},
    "test_logistic_regression_solvers_multiclass_unpenalized": {},
    "test_logistic_regression_sample_weights": FIRST,
    "test_logistic_regression_solver_class_weights": FIRST,
    "test_logistic_regression_class_weights": {},
    "test_liblinear_decision_function_zero": {},
    "test_logreg_intercept_scaling_zero": {},
    "test_logreg_predict_proba_multinomial": {},
    "test_max_iter": {"solver, message": [("lbfgs", "stopped at max_iter=[1-4] .* More iterations")]},
    "test_n_iter": FIRST | {"use_legacy_attributes": [False]},
    "test_warm_start": FIRST,
    "test_saga_vs_liblinear": {"l1_ratio": [0]},
    "test_dtype_match": FIRST,
    "test_warm_start_converge_LR": {},
    "test_c_inf_no_warning": FIRST,
    "test_logisticregression_liblinear_sample_weight": {
        "params": [{"l1_ratio": 0, "dual": False, "tol": 1e-12, "max_iter": 1000}]
    },
    "test_multinomial_identifiability_on_iris": FIRST,
    "test_sample_weight_not_modified": {},
    "test_large_sparse_matrix": FIRST,
    "test_single_feature_newton_cg": {},
    "test_zero_max_iter": FIRST,
    "test_multinomial_logistic_regression_string_inputs": {},
    "test_logistic_cv_refit_false_non_elasticnet": {},
    "test_logistic_cv_mock_scorer": {},
    "test_logistic_cv_sparse": FIRST,
    "test_logistic_regressioncv_class_weights": {},
    "test_lr_cv_scores_without_enabling_metadata_routing": {},
    "test_logistic_regression_array_api_compliance": NUMPY,
    "test_logistic_regression_array_api_warm_start": NUMPY,
    "test_logistic_regression_callback_support": {"max_iter": [1000]},  # with fewer, ours warns: an error here
}

# Where solvers are compared, the one whose place we take beside theirs; elsewhere it is that of all.
BESIDE = {
    "test_consistency_path": "lbfgs",
    "test_logistic_regression_solvers": "lbfgs",
    "test_logistic_regression_solvers_multiclass": "lbfgs",
    "test_logistic_regression_solvers_multiclass_unpenalized": "lbfgs",
    "test_logistic_regression_class_weights": "lbfgs",
    "test_logistic_regressioncv_class_weights": "lbfgs",
    "test_saga_vs_liblinear": "saga",
}

# The others, with the reason.
PENALTY = "of a penalty other than the square of the weights"
OPTION = "of the options of their constructor, the warnings and errors about them, and their deprecation"
INTERNAL = "of what is inside one of their solvers"
PATHS = "of coefs_paths_, the coefficients of all folds and penalties: ours keeps their scores"
ROUTING = "of the routing of metadata"
PRIVATE = "of a private function"
NOT_OFFERED = {
    "test_check_solver_option": OPTION,
    "test_elasticnet_l1_ratio_err_helpful": OPTION,
    "test_liblinear_multiclass_raises": OPTION,
    "test_penalty_deprecated": OPTION,
    "test_penalty_none": OPTION,
    "test_logisticregressioncv_warns_with_use_legacy_attributes": OPTION,
    "test_l1_ratio_None_deprecated": OPTION,
    "test_l1_ratio_non_elasticnet": OPTION,
    "test_logisticregression_warns_with_n_jobs": OPTION,
    "test_lr_penalty_l1ratio_incompatible": OPTION,
    "test_lr_scoring_warns": OPTION,
    "test_get_default_scorer": OPTION,
    "test_logistic_regression_callback_support_warning": OPTION,
    "test_sample_and_class_weight_equivalence_liblinear": PENALTY,
    "test_logreg_l1": PENALTY,
    "test_elastic_net_coeffs": PENALTY,
    "test_elastic_net_l1_l2_equivalence": PENALTY,
    "test_elastic_net_vs_l1_l2": PENALTY,
    "test_LogisticRegression_elastic_net_objective": PENALTY,
    "test_LogisticRegressionCV_GridSearchCV_elastic_net": PENALTY,
    "test_LogisticRegressionCV_elasticnet_attribute_shapes": PENALTY,
    "test_elastic_net_versus_sgd": PENALTY,
    "test_scores_attribute_layout_elasticnet": PENALTY,
    "test_liblinear_not_stuck": PENALTY,
    "test_logistic_cv": PATHS,
    "test_multinomial_cv_iris": PATHS,
    "test_logistic_cv_folds_with_classes_missing": PATHS,
    "test_LogisticRegressionCV_no_refit": OPTION,
    "test_LogisticRegressionCV_on_folds": PATHS,
    "test_lr_cv_scores_differ_when_sample_weight_is_requested": ROUTING,
    "test_passing_params_without_enabling_metadata_routing": ROUTING,
    "test_liblinear_dual_random_state": INTERNAL,
    "test_liblinear_with_large_values": INTERNAL,
    "test_newton_cholesky_fallback_to_lbfgs": INTERNAL,
    "test_warm_start_newton_solver": INTERNAL + ": Newton's method remembers nothing, L-BFGS does",
    "test_logistic_regression_callback_fitted_estimator": INTERNAL + ": callbacks see iterates, and a fit that stops "
    "at max_iter, to which these are compared, has polished the intercepts of the last one",
    "test_logistic_regression_path_convergence_fail": PRIVATE,
    "test_logistic_cv_multinomial_score": PRIVATE,
    "test_logistic_regression_path_coefs_multinomial": PRIVATE,
    "test_logistic_regression_path_init_coefs": PRIVATE,
    "test_logistic_regression_cv_refit": "of single coefficients to 1e-7: the gap there, its square, is below rounding",
    "test_sparsify": "of coefficients turned into a sparse matrix",
}


class _Options:
    """The options of their constructors that ours lack: for an L2 penalty they leave the optimum as it is."""

    def _remember(self, **options):
        for name, value in options.items():
            setattr(self, name, value)

    def fit(self, X, y, sample_weight=None, **options):
        assert not np.any(getattr(self, "l1_ratio", 0.0))
        assert not np.any(getattr(self, "l1_ratios", 0.0))
        assert not getattr(self, "dual", False)
        # Their tolerance bounds the gradient and ours the gap, which goes as its square.
        theirs, self.tol = self.tol, max(self.tol**2, 1e-13)
        try:
            return super().fit(X, y, sample_weight, **options)
        finally:
            self.tol = theirs


class LogisticRegression(_Options, softhead.SoftmaxClassifier):
    """Our classifier with the constructor of theirs."""

    _predict_proba_lr = Theirs._predict_proba_lr  # what the classes would be one against the rest

    def __init__(
        self,
        C=1.0,
        *,
        fit_intercept=True,
        class_weight=None,
        tol=1e-4,
        max_iter=100,
        warm_start=False,
        l1_ratio=0.0,
        dual=False,
        solver="lbfgs",
        random_state=None,
        intercept_scaling=1,
    ):
        options = {"fit_intercept": fit_intercept, "class_weight": class_weight, "warm_start": warm_start}
        super().__init__(C, tol=tol, max_iter=max_iter, **options)
        self._remember(
            l1_ratio=l1_ratio, dual=dual, solver=solver, random_state=random_state, intercept_scaling=intercept_scaling
        )


class LogisticRegressionCV(_Options, softhead.SoftmaxClassifierCV):
    """Our cross-validated classifier with the constructor of theirs."""

    l1_ratio_ = 0.0

    def __init__(
        self,
        Cs=10,
        *,
        cv=None,
        scoring=None,
        refit=True,
        fit_intercept=True,
        class_weight=None,
        tol=1e-4,
        max_iter=100,
        l1_ratios=(0.0,),
        solver="lbfgs",
        random_state=None,
        use_legacy_attributes=False,
    ):
        options = {"fit_intercept": fit_intercept, "class_weight": class_weight, "refit": refit}
        super().__init__(Cs, cv=cv, scoring=scoring, tol=tol, max_iter=max_iter, **options)
        self._remember(
            l1_ratios=l1_ratios, solver=solver, random_state=random_state, use_legacy_attributes=use_legacy_attributes
        )


def ours(name):
    """Return a test as pytest is to collect it here: with our values for its parameters."""
    test, values = getattr(peer, name), OFFERED[name]

    @functools.wraps(test)
    def judge(*args, **parameters):
        test(*args, **parameters)

    judge.pytestmark = [
        # pytest wants lists, where scikit-learn passes an iterator.
        pytest.mark.parametrize(mark.args[0], values.get(mark.args[0], list(mark.args[1])), **mark.kwargs).mark
        if mark.name == "parametrize"
        else mark
        for mark in getattr(test, "pytestmark", [])
    ]
    names = {mark.args[0] for mark in judge.pytestmark if mark.name == "parametrize"}
    assert values.keys() <= names, f"{name} has no parameters {values.keys() - names}"
    return judge


globals().update({name: ours(name) for name in OFFERED if hasattr(peer, name)})


@pytest.fixture(autouse=True)
def _in_their_place(monkeypatch, request):
    place = BESIDE.get(request.function.__name__)

    def among(our_class, their_class):
        def chosen(*args, solver="lbfgs", **options):
            return (our_class if solver == place else their_class)(*args, solver=solver, **options)

        return chosen if place else our_class

    monkeypatch.setattr(peer, "LogisticRegression", among(LogisticRegression, Theirs))
    monkeypatch.setattr(peer, "LogisticRegressionCV", among(LogisticRegressionCV, TheirsCV))


@pytest.fixture
def global_random_seed():
    return 42


def test_no_test_of_scikit_learns_is_left_out():
    names = {name for name, _ in inspect.getmembers(peer, callable) if name.lower().startswith("test")}
    assert not names - OFFERED.keys() - NOT_OFFERED.keys()
    assert not OFFERED.keys() & NOT_OFFERED.keys()
