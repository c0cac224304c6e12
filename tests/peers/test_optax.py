"""optax's own tests of the classification losses that we have too, with ours in their place."""

import unittest
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

import softhead

jax = pytest.importorskip("jax")
pytest.importorskip("optax", minversion="0.2.8")
peer = pytest.importorskip("optax.losses._classification_test", reason="this optax comes without its tests")

OFFERED = {
    "SoftmaxCrossEntropyTest",
    "SafeSoftmaxCrossEntropyTest",
    "SoftmaxCrossEntropyWithIntegerLabelsTest",
    "SigmoidCrossEntropyTest",
    "KLDivergenceTest",
    "KLDivergenceWithLogTargetsTest",
}
# Of other losses than ours.
NOT_OFFERED = {
    "PolyLossTest",
    "HingeTest",
    "SparsemaxTest",
    "GeneralizedKLDivergenceTest",
    "PerceptronTest",
    "CTCTest",
    "SigmoidFocalLossTest",
}
# Tests of what our losses do not offer, with the words in which they refuse: a mask of single logits (set them to -inf)
# and classes along several axes (reshape them into one).
MASK = "unexpected keyword argument 'where'"
AXES = "'tuple' object cannot be interpreted as an integer"
OPTIONS_NOT_OFFERED = {
    "SoftmaxCrossEntropyTest.test_mask": MASK,
    "SoftmaxCrossEntropyTest.test_per_logit_mask": MASK,
    "SoftmaxCrossEntropyWithIntegerLabelsTest.test_per_logit_mask": MASK,
    "SoftmaxCrossEntropyWithIntegerLabelsTest.test_axes": AXES,
    "KLDivergenceTest.test_mask": MASK,
    "KLDivergenceWithLogTargetsTest.test_mask": MASK,
}


def call(function, shape, *arrays):
    """Call a function of NumPy arrays from inside JAX's transformations."""
    return jax.pure_callback(function, jax.ShapeDtypeStruct(shape, np.float32), *arrays)


def rowwise(function, logits, targets, axis=-1, **options):
    """Return what a loss of ours is for every row."""
    function = partial(function, axis=axis, reduction="none", **options)
    if options or isinstance(axis, tuple):  # outside of JAX, which would bury the error that is to come
        return function(np.asarray(logits), np.asarray(targets))
    return call(function, tuple(np.delete(logits.shape, axis)), logits, targets)


def cross_entropy(logits, labels, axis=-1, where=None):
    """Rows left out are ignored or, where targets are probabilities, have none."""
    if where is None:
        return differentiable(axis)(logits, labels)
    if where.ndim == logits.ndim:
        return rowwise(softhead.cross_entropy, logits, labels, axis, where=where)
    if labels.ndim < logits.ndim:
        return differentiable(axis)(logits, jax.numpy.where(where, labels, -100))
    return differentiable(axis)(logits, jax.numpy.where(jax.numpy.expand_dims(where, axis), labels, 0))


def differentiable(axis):
    """Return our cross-entropy as a function that JAX differentiates by our gradient."""

    @jax.custom_jvp
    def loss(logits, targets):
        return rowwise(linear_in_targets(softhead.cross_entropy), logits, targets, axis)

    @loss.defjvp
    def _derivative(primals, tangents):
        logits, targets = primals
        change = call(partial(linear_in_targets(gradient), axis=axis), logits.shape, logits, targets) * tangents[0]
        if targets.ndim == logits.ndim:
            change -= call(partial(softhead.log_softmax, axis=axis), logits.shape, logits) * tangents[1]
        return loss(logits, targets), change.sum(axis)

    return loss


def linear_in_targets(function):
    """Return the function for targets of either sign: optax's difference quotients start from probabilities of 0."""

    def extended(logits, targets, **options):
        if targets.ndim < logits.ndim:
            return function(logits, targets, **options)
        positive, negative = np.maximum(targets, 0), np.maximum(-targets, 0)
        return function(logits, positive, **options) - function(logits, negative, **options)

    return extended


def gradient(logits, targets, axis):
    """Return the gradient by the logits of the sum of our losses."""
    return softhead.cross_entropy_value_and_grad(logits, targets, axis=axis, reduction="none")[1]


def binary_cross_entropy(logits, labels):
    """Return our loss of every logit."""
    return call(partial(softhead.binary_cross_entropy_with_logits, reduction="none"), logits.shape, logits, labels)


OURS = SimpleNamespace(
    softmax_cross_entropy=cross_entropy,
    safe_softmax_cross_entropy=cross_entropy,
    softmax_cross_entropy_with_integer_labels=cross_entropy,
    sigmoid_binary_cross_entropy=binary_cross_entropy,
    # optax takes its callers' word that what they pass are logarithms of probabilities; ours normalise.
    kl_divergence=partial(rowwise, softhead.kl_divergence),
    kl_divergence_with_log_targets=partial(rowwise, partial(softhead.distillation_loss, temperature=1.0)),
)


def cases(classes):
    """Return optax's test cases, one for every set of parameters."""
    names = unittest.TestLoader().getTestCaseNames
    return [getattr(peer, one)(name) for one in sorted(classes) for name in names(getattr(peer, one))]


def name_of(case):
    """Return the class and the method of a test case, which has a number where it has parameters."""
    return f"{type(case).__name__}.{case._testMethodName}"


def unnumbered(case):
    """Return the same without the number."""
    return name_of(case).rstrip("0123456789")


def test_no_unnumbered_optaxs_is_left_out():
    classes = {name for name, value in vars(peer).items() if isinstance(value, type)}
    assert classes == OFFERED | NOT_OFFERED
    assert OPTIONS_NOT_OFFERED.keys() <= {unnumbered(case) for case in cases(OFFERED)}


@pytest.mark.parametrize("case", cases(OFFERED), ids=name_of)
def test_case(case, monkeypatch):
    monkeypatch.setattr(peer, "_classification", OURS)
    np.random.seed(0)  # noqa: NPY002 - some cases draw from this generator
    words = OPTIONS_NOT_OFFERED.get(unnumbered(case))
    if words is None:
        case.debug()
    else:
        with pytest.raises(TypeError, match=words):
            case.debug()
