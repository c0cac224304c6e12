"""The public functions given tensors return tensors: values, gradients, errors; and the formulas of other devices."""

import subprocess
import sys

import numpy as np
import pytest

import softhead
from softhead import generic

torch = pytest.importorskip("torch")

from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch.nn import functional  # noqa: E402

import softhead.torch  # noqa: E402
from softhead.torch import rows  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

X, Q = [[1.0, -3.0, 2.0], [0.5, 0.25, 0.0]], [[0.5, 0.2, 0.3], [0.1, 0.2, 0.7]]
ARGUMENTS = {
    "binary_cross_entropy_with_logits": (X, Q),
    "distillation_loss": (X, [[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]]),
    "kl_divergence": (X, Q),
    "linear_cross_entropy": ([[1.0, 2.0]], [[0.5, -1.0], [2.0, 0.0]], [1]),
    "linear_cross_entropy_value_and_grad": ([[1.0, 2.0]], [[0.5, -1.0], [2.0, 0.0]], [1]),
    "cross_entropy_hvp": (X, [2, 0], Q),
    "nll_loss": ([[-1.0, -3.0, -2.0]], [1]),
    "softmax_jacobian": (Q,),
    **dict.fromkeys(["softmax", "log_softmax", "logsumexp", "entropy", "hardmax", "normalize"], (X,)),
    **dict.fromkeys(["cross_entropy", "cross_entropy_value_and_grad"], (X, [2, 0])),
    **dict.fromkeys(["softmax_vjp", "softmax_jvp", "log_softmax_vjp"], (Q, X)),
}
OPTIONS = {"normalize": {"norm": "l2"}, "distillation_loss": {"temperature": 2.0}}


def leaves(value):
    return [leaf for part in value for leaf in leaves(part)] if isinstance(value, tuple) else [value]


def test_every_function_is_here():
    assert sorted(ARGUMENTS) == sorted(generic.__all__)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_values_are_those_of_arrays(name, dtype):
    function, options = getattr(softhead, name), OPTIONS.get(name, {})
    tensors = [torch.tensor(one) for one in ARGUMENTS[name]]
    tensors = [one.to(dtype) if one.is_floating_point() else one for one in tensors]
    for_numpy = leaves(
        function(*(one.double().numpy() if one.is_floating_point() else one.numpy() for one in tensors), **options)
    )
    for ours, expected in zip(leaves(function(*tensors, **options)), for_numpy, strict=True):
        if expected is None:
            assert ours is None
            continue
        assert isinstance(ours, torch.Tensor)
        assert ours.dtype == dtype
        u = torch.finfo(dtype).eps
        np.testing.assert_allclose(ours.double().numpy(), expected, rtol=2 * u, atol=u * np.abs(expected).max())


@pytest.mark.parametrize("name", sorted(set(ARGUMENTS) - {"hardmax"}))
def test_they_can_be_differentiated(name):
    function, options = getattr(softhead, name), OPTIONS.get(name, {})
    tensors = [torch.tensor(one) for one in ARGUMENTS[name]]
    tensors = [one.double().requires_grad_() if one.is_floating_point() else one for one in tensors]
    if "value_and_grad" in name:
        value, _ = function(*tensors, **options)
        assert value.requires_grad or name.startswith("linear")
        return
    assert gradcheck(lambda *a: function(*a, **options), tensors)
    plain = function(*(one.detach() for one in tensors), **options)
    torch.testing.assert_close(function(*tensors, **options).detach(), plain)


@pytest.mark.parametrize(
    "options", [{"axis": (0, 1)}, {"axis": None}, {"where": torch.tensor([[True, False, True]] * 2)}]
)
def test_masks_and_several_axes(options):
    x = torch.tensor(X, dtype=torch.float64)
    own = {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in options.items()}
    for function in (softhead.softmax, softhead.logsumexp):
        expected = torch.as_tensor(function(x.numpy(), **own))
        torch.testing.assert_close(function(x, **options), expected)
        torch.testing.assert_close(function(x.clone().requires_grad_(), **options).detach(), expected)


def test_options_of_the_public_functions_have_gradients():
    x, w = torch.tensor(X).double(), torch.tensor(Q).double()
    weight = torch.tensor([0.5, 2.0, 1.0]).double()
    y = torch.tensor([[0, 1, 1]])
    for axis in (0, 1):
        targets = y[0] % 2 if axis == 0 else y[0, 1:]
        class_weight = weight[: x.shape[axis]]

        def loss(x, axis=axis, targets=targets, class_weight=class_weight):
            return softhead.cross_entropy(x, targets, axis=axis, weight=class_weight, z_loss=0.1)

        expected = softhead.cross_entropy_value_and_grad(
            x.numpy(), targets.numpy(), axis=axis, weight=class_weight.numpy(), z_loss=0.1
        )
        leaf = x.clone().requires_grad_()
        value = loss(leaf)
        value.backward()
        np.testing.assert_allclose(value.item(), expected[0], rtol=1e-15)
        np.testing.assert_allclose(leaf.grad, expected[1], rtol=1e-14, atol=1e-16)
    w = w.clone().requires_grad_()
    value = softhead.linear_cross_entropy(x, w, torch.tensor([1, 0]), l2=0.3)
    value.backward()
    expected = softhead.linear_cross_entropy_value_and_grad(x.numpy(), w.detach().numpy(), [1, 0], l2=0.3)
    np.testing.assert_allclose(value.item(), expected[0], rtol=1e-14)
    np.testing.assert_allclose(w.grad, expected[1].linear_weight, rtol=1e-13)
    with pytest.raises(ValueError, match="reduction='none'"):
        softhead.linear_cross_entropy(x, w, torch.tensor([1, 0]), l2=0.3, reduction="none")


class TestFormulasOfOtherDevices:
    """They are run on the CPU, by calling them."""

    OPTIONS = (
        rows.Options(),
        rows.Options(reduction="sum", label_smoothing=0.2, temperature=0.7, z_loss=0.1),
        rows.Options(reduction="none", ignore_index=2),
    )

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    @pytest.mark.parametrize("options", OPTIONS)
    @pytest.mark.parametrize("soft", [False, True])
    def test_they_agree_with_the_loops(self, dtype, options, soft):
        generator = torch.Generator().manual_seed(0)
        x = (6 * torch.randn(40, 7, generator=generator)).to(dtype)
        x[0] = torch.tensor([60.0, *[0.0] * 6])
        weight = torch.rand(7, generator=generator)
        target = torch.rand(40, 7, generator=generator) if soft else torch.arange(40) % 7
        results = []
        for targets in (
            rows.row_targets(target, (40, 7), weight, options, x.device),
            rows.device_targets(target, (40, 7), weight, options),
        ):
            out, moved = torch.empty_like(x), torch.empty_like(x)
            denominator = targets.denominator()
            losses = targets.gradients(x, denominator, out)
            targets.products(x, x.flip(0), moved)
            results.append(
                [float(denominator), losses, targets.losses(x), out, moved, targets.block(slice(3, 9)).losses(x[3:9])]
            )
        u = torch.finfo(dtype).eps
        tolerance = {"rtol": 2 * u, "atol": 2.0**-24 * u}
        if dtype == torch.float64:  # the formulas compute in float64 themselves
            tolerance = {"rtol": 2e-14, "atol": 4e-14}
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(torch.as_tensor(one).double(), torch.as_tensor(other).double(), **tolerance)
        if not soft and not options.label_smoothing:
            assert results[1][1][0] > 0  # e^-60, and not 0

    def test_they_are_what_forward_mode_within_forward_mode_takes(self):
        x, y = torch.tensor(X).double(), torch.tensor([2, 0])
        twice = torch.func.jacfwd(torch.func.jacfwd(lambda x: softhead.torch.cross_entropy(x, y)))(x)
        torch.testing.assert_close(twice, torch.func.hessian(lambda x: functional.cross_entropy(x, y))(x))
        maps = [
            torch.func.jacfwd(torch.func.jacfwd(lambda x, f=f: f(x, 1)))(x)
            for f in (softhead.torch.softmax, torch.softmax)
        ]
        torch.testing.assert_close(*maps)

    def test_labels_out_of_range_are_an_index_error(self):
        with pytest.raises(IndexError, match=r"targets\[1\] is 9"):
            rows.device_targets(torch.tensor([0, 9]), (2, 4), None, rows.Options())


@pytest.mark.parametrize("hard", [False, True])
def test_gumbel_softmax_draws_pytorchs_samples(hard):
    x = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    samples = []
    for function in (softhead.torch.gumbel_softmax, functional.gumbel_softmax):
        torch.manual_seed(0)
        sample = function(x, 0.7, hard=hard)
        samples += [sample, *torch.autograd.grad(sample[:, 0].sum(), x)]
    torch.testing.assert_close(samples[:2], samples[2:])
    seeded = softhead.gumbel_softmax(x, temperature=0.7, hard=hard, rng=3)
    again = softhead.gumbel_softmax(x, temperature=0.7, hard=hard, rng=torch.Generator().manual_seed(3))
    assert (seeded == again).all()
    with pytest.raises(TypeError, match="rng is a Generator"):
        softhead.gumbel_softmax(x, rng=np.random.default_rng())


def test_divergences_have_pytorchs_names():
    x = torch.tensor(X).double()
    q = torch.tensor(Q).double()
    expected = functional.kl_div(torch.log_softmax(x / 2, 1), q, reduction="batchmean")
    for reduction in ("mean", "batchmean"):
        torch.testing.assert_close(softhead.torch.kl_divergence(x, q, temperature=2.0, reduction=reduction), expected)
    teacher = (0.5 * x.flip(1)).requires_grad_()
    ours = softhead.torch.distillation_loss(x, teacher, temperature=2.0, dim=1)
    theirs = 4 * functional.kl_div(
        torch.log_softmax(x / 2, 1), torch.log_softmax(teacher / 2, 1), reduction="batchmean", log_target=True
    )
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, teacher), torch.autograd.grad(theirs, teacher))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_derivatives_of_divergences(reduction):
    x, q = torch.tensor(X).double().requires_grad_(), torch.tensor(Q).double().requires_grad_()
    options = {"temperature": 0.7, "reduction": reduction}
    for loss in (softhead.torch.kl_divergence, softhead.torch.distillation_loss):

        def function(x, q, loss=loss):
            return loss(x, q, **options)

        assert gradcheck(function, (x, q), check_forward_ad=True, check_batched_grad=True)
        assert gradgradcheck(function, (x, q), check_fwd_over_rev=True)
        batch = torch.stack([x.detach(), x.detach().flip(0), -x.detach()])
        each = torch.func.vmap(function, (0, None))(batch, q.detach())
        torch.testing.assert_close(each, torch.stack([function(one, q.detach()) for one in batch]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_divergences_of_like_distributions_are_small_and_exact(dtype):
    x = torch.randn(20, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    near = (x * (1 + 2 * torch.finfo(dtype).eps)).requires_grad_()
    ours = softhead.torch.distillation_loss(near, x, temperature=1.0)
    exact = softhead.distillation_loss(near.detach().double(), x.double(), temperature=1.0)
    assert ours.item() > 0
    info = torch.finfo(dtype)  # 2e-14 in float32: differences of float64 logarithms
    unit = 1e-2 * exact.item() if dtype == torch.float32 else info.eps * max(exact.item(), info.smallest_normal)
    assert abs(ours.item() - exact.item()) <= unit
    ours.backward()
    assert near.grad.dtype == dtype
    assert softhead.torch.kl_divergence(x, torch.softmax(x, 1)) >= 0


def test_divergences_can_be_compiled():
    torch._dynamo.reset()
    x, q = torch.tensor(X), torch.tensor(Q)
    for loss in (softhead.torch.kl_divergence, softhead.torch.distillation_loss):
        compiled = torch.compile(
            lambda x, q, loss=loss: loss(x, q, temperature=2.0), fullgraph=True, backend="aot_eager"
        )
        results = []
        for function in (compiled, loss):
            leaf = x.clone().requires_grad_()
            value = function(leaf, q) if function is compiled else loss(leaf, q, temperature=2.0)
            value.backward()
            results.append((value.detach(), leaf.grad))
        torch.testing.assert_close(*results)


def test_modules_have_pytorchs_parameters_and_state():
    x, y = torch.tensor(X), torch.tensor([2, 0])
    weight = torch.tensor([0.5, 1.0, 2.0])
    ours = softhead.torch.CrossEntropyLoss(weight, label_smoothing=0.1)
    theirs = torch.nn.CrossEntropyLoss(weight, label_smoothing=0.1)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    torch.testing.assert_close(ours(x, y), theirs(x, y))
    for out_features, target in ((), torch.tensor([1, 3])), ((2,), torch.tensor([[0, 1], [2, 3]])):
        head = torch.nn.LinearCrossEntropyLoss(3, 4, out_features=out_features, bias=True, label_smoothing=0.1)
        own = softhead.torch.LinearCrossEntropyLoss(3, 4, out_features=out_features, bias=True, label_smoothing=0.1)
        own.load_state_dict(head.state_dict())
        torch.testing.assert_close(own(x, target), head(x, target))
    assert "label_smoothing=0.1" in repr(own)


@pytest.mark.parametrize("graph", [False, True])
def test_targets_and_weights_may_be_what_numpy_takes(graph):
    x = torch.tensor(X, requires_grad=graph)
    expected = softhead.cross_entropy(x, torch.tensor([2, 0]), weight=torch.tensor([0.5, 1.0, 2.0]))
    for targets, weight in (([2, 0], [0.5, 1.0, 2.0]), (np.array([2, 0]), np.array([0.5, 1.0, 2.0], np.float32))):
        result = softhead.cross_entropy(x, targets, weight=weight)
        assert result.requires_grad == graph
        assert result == expected


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X, torch.tensor([2, 0])), TypeError, r"input is a list; it must be a torch\.Tensor"),
        ((torch.tensor(X), [2, 0]), TypeError, r"target is a list; it must be a torch\.Tensor"),
        ((torch.tensor(X), torch.tensor([2, 0]), np.ones(3)), TypeError, "weight is a ndarray"),
        ((torch.tensor(X), torch.tensor([2, 0], device="meta")), ValueError, "target is on meta, and .* are on cpu"),
        ((torch.tensor(X), torch.tensor([2, 0]), torch.ones(3, device="meta")), ValueError, "weight is on meta"),
    ],
)
def test_what_is_no_tensor_or_lies_elsewhere(arguments, error, message):
    with pytest.raises(error, match=message):
        softhead.torch.cross_entropy(*arguments)


def test_the_number_of_threads_is_pytorchs():
    from softhead.kernels import threads
    from softhead.torch.host import torch_threads

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with softhead.num_threads(4), torch_threads():
            assert threads._available() == 1
        torch.set_num_threads(3)
        with softhead.num_threads(2), torch_threads():
            assert threads._available() == 2
    finally:
        torch.set_num_threads(before)


def test_without_pytorch_the_error_names_the_extra():
    code = "import sys; sys.modules['torch'] = None; import softhead; print(softhead.softmax([0.0]));"
    code += "import softhead.torch"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "[1.]\n"
    assert "ImportError: softhead.torch needs PyTorch: pip install 'softhead[torch]'" in run.stderr
