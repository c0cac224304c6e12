import numpy as np
import pytest

import softhead
from softhead import generic

array_api_strict = pytest.importorskip("array_api_strict")

ARGUMENTS = {
    "hardmax": ([[1.0, 3.0, 2.0]],),
    "normalize": ([[1.0, -3.0, 2.0]],),
    "binary_cross_entropy_with_logits": ([[1.0, -3.0, 2.0]], [[1.0, 0.0, 0.5]]),
    "kl_divergence": ([[1.0, -3.0, 2.0]], [[0.5, 0.25, 0.25]]),
    "distillation_loss": ([[1.0, -3.0, 2.0]], [[0.0, 1.0, 2.0]]),
    "linear_cross_entropy": ([[1.0, 2.0]], [[0.5, -1.0], [2.0, 0.0]], [1]),
    "linear_cross_entropy_value_and_grad": ([[1.0, 2.0]], [[0.5, -1.0], [2.0, 0.0]], [1]),
    "cross_entropy_hvp": ([[1.0, -3.0, 2.0]], [2], [[1.0, 0.0, 2.0]]),
    **dict.fromkeys(["softmax", "log_softmax", "logsumexp", "entropy"], ([[1.0, -3.0, 2.0]],)),
    **dict.fromkeys(["cross_entropy", "cross_entropy_value_and_grad", "nll_loss"], ([[-1.0, -3.0, -2.0]], [1])),
    **dict.fromkeys(["softmax_vjp", "softmax_jvp", "log_softmax_vjp"], ([[0.5, 0.2, 0.3]], [[1.0, 2.0, 0.0]])),
    "softmax_jacobian": ([[0.5, 0.2, 0.3]],),
}
OPTIONS = {"normalize": {"norm": "l2"}, "distillation_loss": {"temperature": 2.0}}


def leaves(value):
    return [leaf for part in value for leaf in leaves(part)] if isinstance(value, tuple) else [value]


@pytest.mark.parametrize("name", sorted(generic.__all__))
def test_public_functions_answer_other_libraries_in_kind(name):
    function, options = getattr(softhead, name), OPTIONS.get(name, {})
    for_numpy = leaves(function(*map(np.asarray, ARGUMENTS[name]), **options))
    answer = function(*map(array_api_strict.asarray, ARGUMENTS[name]), **options)
    assert len(leaves(answer)) == len(for_numpy)
    for ours, expected in zip(leaves(answer), for_numpy, strict=True):
        if expected is None:
            assert ours is None
        else:
            assert type(ours) is type(array_api_strict.asarray(1.0))
            np.testing.assert_allclose(np.asarray(ours), expected, rtol=4e-15)


def test_gradients_keep_their_names():
    arguments = map(array_api_strict.asarray, ARGUMENTS["linear_cross_entropy_value_and_grad"])
    _, gradients = softhead.linear_cross_entropy_value_and_grad(*arguments)
    assert isinstance(gradients, softhead.LinearGradients)


def test_lists_scalars_and_subclasses_stay_with_numpy():
    class Own(np.ndarray): ...

    for value in ([1.0, 2.0], np.float32(1.0), 3, np.arange(3.0).view(Own)):
        assert isinstance(softhead.softmax(value), np.ndarray | np.generic)
