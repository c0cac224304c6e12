"""PyTorch's own sample inputs: our result is at least as close to one in float64 as its own, forward and gradient."""

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest", reason="PyTorch's testing package needs it")

from torch.nn import functional  # noqa: E402

import softhead.torch  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

# Of options that PyTorch does not use, and of torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

LINEAR = softhead.torch.linear_cross_entropy, functional.linear_cross_entropy
FUNCTIONS = {
    ("softmax", ""): (softhead.torch.softmax, torch.softmax),
    ("softmax", "with_dtype"): (softhead.torch.softmax, torch.softmax),
    ("log_softmax", ""): (softhead.torch.log_softmax, torch.log_softmax),
    ("log_softmax", "with_dtype"): (softhead.torch.log_softmax, torch.log_softmax),
    ("nn.functional.cross_entropy", ""): (softhead.torch.cross_entropy, functional.cross_entropy),
    ("nn.functional.linear_cross_entropy", ""): LINEAR,
    ("nn.functional.linear_cross_entropy", "chunked"): LINEAR,
    ("nn.functional.linear_cross_entropy", "chunked_none"): LINEAR,
}
MODULES = {
    "CrossEntropyLoss": softhead.torch.CrossEntropyLoss,
    "LinearCrossEntropyLoss": softhead.torch.LinearCrossEntropyLoss,
}


def is_number(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def with_leaves(values, dtype):
    """Copies of values, of which the floating tensors are leaves of a dtype; and these leaves."""
    copies = [one.detach().to(dtype).clone().requires_grad_() if is_number(one) else one for one in values]
    return copies, [one for one in copies if is_number(one)]


def answers(function, values, dtype):
    """The result and the gradients by every floating tensor, as float64."""
    copies, leaves = with_leaves(values, dtype)
    result = function(*copies)
    upstream = torch.linspace(-1.0, 2.0, result.numel(), dtype=torch.float64).reshape(result.shape)
    gradients = torch.autograd.grad(result, leaves, upstream.to(result.dtype), allow_unused=True)
    return [None if one is None else one.detach().double() for one in (result, *gradients)]


class Errors:
    """The largest errors of results and gradients, in units of the dtype's epsilon beside the largest number."""

    def __init__(self, dtype):
        self.ours, self.theirs, self.eps = [], [], torch.finfo(dtype).eps

    def add(self, ours, theirs, exact):
        for mine, its, reference in zip(ours, theirs, exact, strict=True):
            if reference is None or not reference.numel():
                continue
            np.testing.assert_array_equal(mine.isnan(), reference.isnan())
            unit = self.eps * (reference.nan_to_num().abs().max().item() or 1.0)
            for one, errors in ((mine, self.ours), (its, self.theirs)):
                errors.append((one - reference).nan_to_num().abs().max().item() / unit)

    def check(self):
        """Ours are not larger; where single ones are, by the rounding of the products or of the probabilities."""
        assert np.mean(self.ours) <= np.mean(self.theirs) + 0.05, (np.mean(self.ours), np.mean(self.theirs))
        assert (np.array(self.ours) <= np.maximum(self.theirs, 5.0)).all(), max(self.ours)


def positive(name, value):
    """Class weights as the library takes them: PyTorch's samples have some below 0."""
    return value.abs() if name == "weight" and value is not None else value


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", sorted(FUNCTIONS), ids="-".join)
def test_sample_inputs_of_functions(name, dtype):
    ours, theirs = FUNCTIONS[name]
    (info,) = (one for one in op_db if (one.name, one.variant_test_name) == name)
    errors = Errors(dtype)
    for sample in info.sample_inputs("cpu", torch.float32, requires_grad=True):
        options = {key: positive(key, value) for key, value in sample.kwargs.items()}
        tensors = [key for key, value in options.items() if is_number(value) and key != "weight"]
        rest = {key: value for key, value in options.items() if key not in tensors}
        exact_rest = dict(rest, options=None) if "options" in rest else dict(rest)
        for one in (rest, exact_rest):
            if "dtype" in one:
                one["dtype"] = torch.float64 if one is exact_rest else dtype
        values = [sample.input, *sample.args, *(options[key] for key in tensors)]
        n = len(values) - len(tensors)

        def call(function, given, dtype, values=values, tensors=tensors, n=n):
            given = {key: value.to(dtype) if key == "weight" else value for key, value in given.items()}
            return answers(
                lambda *leaves: function(*leaves[:n], **dict(zip(tensors, leaves[n:], strict=True)), **given),
                values,
                dtype,
            )

        values[:] = [one.detach().to(dtype) if is_number(one) else one for one in values]
        rest = {key: value.to(dtype).float() if key == "weight" else value for key, value in rest.items()}
        exact_rest = {key: rest.get(key) if key == "weight" else value for key, value in exact_rest.items()}
        exact = call(theirs, exact_rest, torch.float64)
        errors.add(call(ours, rest, dtype), call(theirs, rest, dtype), exact)
    assert len(errors.ours) >= 12
    errors.check()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_sample_inputs_of_modules(name):
    (info,) = (one for one in module_db if one.module_cls.__name__ == name)
    dtype = torch.float32
    inputs = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=True)
    errors = Errors(dtype)
    for one in inputs[:: max(1, len(inputs) // 120)]:
        made = one.constructor_input
        options = {key: positive(key, value) for key, value in made.kwargs.items()}
        options.pop("options", None)
        ours = MODULES[name](*made.args, **options)
        theirs = info.module_cls(*made.args, **options)
        theirs.load_state_dict(ours.state_dict())
        exact = info.module_cls(*made.args, **options).double()
        exact.load_state_dict(ours.state_dict())
        values = list(one.forward_input.args)
        errors.add(answers(ours, values, dtype), answers(theirs, values, dtype), answers(exact, values, torch.float64))
        own, reference = (dict(module.named_parameters()) for module in (ours, exact))
        assert own.keys() == reference.keys()
    assert len(errors.ours) >= 200
    errors.check()


def test_weights_below_0_are_refused():
    with pytest.raises(ValueError, match=r"weight\[1\] is -1"):
        softhead.torch.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([1.0, -1.0, 1.0]))
