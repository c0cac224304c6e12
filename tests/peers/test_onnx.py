"""ONNX's node cases for the operators that we have too."""

from functools import cache

import numpy as np
import pytest

import softhead

onnx = pytest.importorskip("onnx", minversion="1.23")  # earlier ones keep the cases in files


def reduce_log_sum_exp(data, axes, *, keepdims):
    """No axes stand for all."""
    return softhead.logsumexp(data, axis=tuple(axes.tolist()) or None, keepdims=bool(keepdims))


def negative_log_likelihood_loss(log_probs, targets, weight=None, *, reduction, **options):
    """The classes lie along the second axis."""
    return softhead.nll_loss(log_probs, targets, axis=1, weight=weight, reduction=reduction.decode(), **options)


def softmax_cross_entropy_loss(logits, targets, weight=None, *, reduction, **options):
    """The log-probabilities are a second output."""
    loss = softhead.cross_entropy(logits, targets, axis=1, weight=weight, reduction=reduction.decode(), **options)
    return loss, softhead.log_softmax(logits, axis=1)


# For every operator, our function of its inputs and, by name, its attributes; and the number of ONNX's cases.
OPERATORS = {
    "Softmax": (softhead.softmax, 7),
    "LogSoftmax": (softhead.log_softmax, 7),
    "Hardmax": (softhead.hardmax, 7),
    "ReduceLogSumExp": (reduce_log_sum_exp, 9),
    "NegativeLogLikelihoodLoss": (negative_log_likelihood_loss, 18),
    "SoftmaxCrossEntropyLoss": (softmax_cross_entropy_loss, 34),
}


@cache
def node_cases():
    """Return the cases of every operator, but for their repetitions in terms of simpler operators."""
    from onnx.backend.test.loader import load_model_tests

    with np.errstate(all="ignore"):  # the import computes what is expected of all the operators that ONNX has
        loaded = load_model_tests(kind="node")
    cases = {operator: [] for operator in OPERATORS}
    for case in loaded:
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type in OPERATORS:
            cases[nodes[0].op_type].append(case)
    return cases


def test_number_of_cases():
    found = {operator: len(cases) for operator, cases in node_cases().items()}
    assert found == {operator: count for operator, (_, count) in OPERATORS.items()}


@pytest.mark.parametrize(("operator", "i"), [(name, i) for name, (_, count) in OPERATORS.items() for i in range(count)])
def test_node(operator, i):
    case = node_cases()[operator][i]
    (node,) = case.model.graph.node
    options = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    for inputs, outputs in case.data_sets:
        results = OPERATORS[operator][0](*inputs, **options)
        results = results if isinstance(results, tuple) else (results,)
        for result, expected in zip(results, outputs, strict=False):  # log-probabilities need not be asked for
            assert result.dtype == expected.dtype, case.name
            assert result.shape == expected.shape, case.name
            np.testing.assert_allclose(result, expected, rtol=case.rtol, atol=case.atol, err_msg=case.name)
