"""Cross-entropy of tensors: values, every order and mode of differentiation, and the known faults of peers."""

import itertools

import numpy as np
import pytest

import softhead

torch = pytest.importorskip("torch")

from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap  # noqa: E402
from torch.nn import functional  # noqa: E402

import softhead.torch  # noqa: E402
from softhead.torch import cross_entropy  # noqa: E402

# PyTorch itself uses what it deprecates, when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

LABELS = torch.tensor([0, 3, -100, 1, 2])
WEIGHT = torch.tensor([0.5, 1.0, 2.0, 0.1], dtype=torch.float64)
OPTIONS = [
    {},
    {"weight": WEIGHT},
    {"weight": WEIGHT, "label_smoothing": 0.3},
    {"temperature": 0.7, "z_loss": 0.1, "label_smoothing": 0.2},
]
REDUCTIONS = ["mean", "sum", "none"]


def logits(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def probabilities(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def value_and_gradients(loss, *tensors, upstream=None):
    leaves = [one.detach().clone().requires_grad_(one.is_floating_point()) for one in tensors]
    value = loss(*leaves)
    value.backward(upstream)
    return value.detach(), *(leaf.grad for leaf in leaves if leaf.requires_grad)


def assert_same(ours, theirs, **tolerance):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", OPTIONS[:3])
def test_it_takes_the_place_of_pytorchs(options, reduction):
    shapes = [((5, 4), LABELS), ((4,), torch.tensor(2)), ((2, 4, 3, 2), torch.randint(4, (2, 3, 2)))]
    for shape, labels in shapes:
        for target in (labels, probabilities(*shape)):
            x = logits(*shape)

            def ours(x, q, options=options):
                return cross_entropy(x, q, reduction=reduction, **options)

            def theirs(x, q, options=options):
                return functional.cross_entropy(x, q, reduction=reduction, **options)

            upstream = None if reduction != "none" else torch.randn_like(theirs(x, target))
            expected = value_and_gradients(theirs, x, target, upstream=upstream)
            assert_same(value_and_gradients(ours, x, target, upstream=upstream), expected)


def test_old_names_of_reductions_are_pytorchs():
    x = logits(5, 4)
    for size_average, reduce in itertools.product([None, True, False], repeat=2):
        if size_average is None and reduce is None:
            continue
        with pytest.warns(UserWarning, match="deprecated"):
            ours = cross_entropy(x, LABELS, size_average=size_average, reduce=reduce)
        with pytest.warns(UserWarning, match="deprecated"):
            theirs = functional.cross_entropy(x, LABELS, size_average=size_average, reduce=reduce)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", OPTIONS)
def test_values_and_gradients_are_those_of_the_numpy_functions(options, reduction):
    x = logits(5, 4, dtype=torch.float32)
    own = {name: option.numpy() if name == "weight" else option for name, option in options.items()}
    expected = softhead.cross_entropy_value_and_grad(x.numpy(), LABELS.numpy(), reduction=reduction, **own)
    upstream = torch.ones(5) if reduction == "none" else None
    results = value_and_gradients(
        lambda x: cross_entropy(x, LABELS, reduction=reduction, **options), x, upstream=upstream
    )
    for ours, of_numpy in zip(results, expected, strict=True):
        assert (ours.numpy() == of_numpy).all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", OPTIONS)
def test_derivatives_of_first_and_second_order_forward_and_backward(options, reduction):
    x, q = logits(3, 4).requires_grad_(), probabilities(3, 4).requires_grad_()
    labels = torch.tensor([3, -100, 1])

    def of_labels(x):
        return cross_entropy(x, labels, reduction=reduction, **options)

    def of_probabilities(x, q):
        return cross_entropy(x, q, reduction=reduction, **options)

    for function, inputs in ((of_labels, (x,)), (of_probabilities, (x, q))):
        batched = {"check_batched_grad": True}
        assert gradcheck(function, inputs, check_forward_ad=True, **batched)
        assert gradgradcheck(function, inputs, check_fwd_over_rev=True, **batched)


@pytest.mark.parametrize("options", [{"weight": WEIGHT}, {"temperature": 0.7, "z_loss": 0.1}])
def test_transformations_of_torch_func(options):
    x, batch = logits(5, 4), logits(3, 5, 4)

    def ours(x, y=LABELS):
        return cross_entropy(x, y, **options)

    def theirs(x, y=LABELS):
        rest = dict(options)
        temperature, z_loss = rest.pop("temperature", 1.0), rest.pop("z_loss", 0.0)
        read = y != -100
        extra = (z_loss * (x / temperature).logsumexp(1) ** 2 * read).sum() / read.sum()
        return functional.cross_entropy(x / temperature, y, **rest) + extra

    for transform in (grad, hessian, lambda f: jacrev(jacrev(f)), lambda f: jacfwd(jacfwd(f))):
        torch.testing.assert_close(transform(ours)(x), transform(theirs)(x))
    third = [grad(lambda x, f=f: grad(f)(x).pow(3).sum()) for f in (ours, theirs)]
    torch.testing.assert_close(jacrev(third[0])(x), jacrev(third[1])(x))
    for transform in (
        vmap,
        lambda f: vmap(grad(f)),
        lambda f: vmap(hessian(f)),
        lambda f: grad(lambda x: vmap(f)(x).sum()),
    ):
        torch.testing.assert_close(transform(ours)(batch), transform(theirs)(batch))
    labels = torch.tensor([[0, 1, 2, 3, -100], [1, 1, -100, 0, 2], [3, 2, 1, 0, 0]])
    torch.testing.assert_close(vmap(grad(ours))(batch, labels), vmap(grad(theirs))(batch, labels))
    torch.testing.assert_close(
        vmap(grad(ours), in_dims=(None, 0))(x, labels), vmap(grad(theirs), in_dims=(None, 0))(x, labels)
    )
    direction = logits(5, 4, seed=2)
    for function in (lambda f: f, grad):
        assert_same(jvp(function(ours), (x,), (direction,)), jvp(function(theirs), (x,), (direction,)))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_compiled_programs_are_whole(reduction):
    torch._dynamo.reset()
    x, q = logits(5, 4), probabilities(5, 4)
    for target in (LABELS, q):

        def function(x, q):
            return cross_entropy(x * 2, q, WEIGHT, reduction=reduction).sum()

        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        assert_same(value_and_gradients(compiled, x, target), value_and_gradients(function, x, target))
        with torch.no_grad():
            torch.testing.assert_close(compiled(x, target), function(x, target))
    with pytest.raises(IndexError, match=r"targets\[0\] is 7"):
        compiled(x, torch.tensor([7, 0, 0, 0, 0]))


def test_compiled_transformations_are_whole():
    torch._dynamo.reset()
    batch = logits(3, 5, 4)

    def function(x):
        return cross_entropy(x, LABELS, WEIGHT)

    compiled = torch.compile(vmap(grad(function)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(batch), vmap(grad(function))(batch))


def test_gradients_may_be_taken_twice_and_stay_as_they_are():
    x = logits(5, 4).requires_grad_()
    loss = cross_entropy(x, LABELS)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(3 * loss, x, retain_graph=True)
    loss.backward(retain_graph=True)
    loss.backward()
    torch.testing.assert_close(second, 3 * kept)
    torch.testing.assert_close(x.grad, 2 * kept)
    assert (first == kept).all()


def test_inputs_are_not_overwritten_and_need_not_be_contiguous():
    wide = logits(8, 10)
    x = wide[::2, 1::2].requires_grad_()
    before = wide.clone()
    y = torch.tensor([9, 0, 9, 4, 9, 1, 9, 2])[1::2]
    value, gradient = value_and_gradients(lambda x: cross_entropy(x.as_strided((4, 5), (5, 1)), y), x)
    ours = cross_entropy(x, y)
    ours.backward() if x.is_leaf else None
    torch.testing.assert_close(ours.detach(), functional.cross_entropy(x.detach().contiguous(), y))
    assert (wide == before).all()
    assert value.isfinite()
    assert gradient.isfinite().all()


class TestFaultsOfPeers:
    def test_confident_rows_keep_their_loss_and_gradient(self):
        x = torch.tensor([[40.0, 0.0]])
        value, gradient = value_and_gradients(lambda x: cross_entropy(x, torch.tensor([0])), x)
        assert value.item() == pytest.approx(4.248354255291589e-18, rel=1e-6)
        np.testing.assert_allclose(gradient, [[-4.2483543e-18, 4.2483543e-18]], rtol=1e-6)
        assert functional.cross_entropy(x, torch.tensor([0])) == 0  # what it is held against

    @pytest.mark.parametrize("filler", [float("nan"), float("-inf"), float("inf")])
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    @pytest.mark.parametrize("create_graph", [False, True])
    def test_ignored_rows_are_not_read(self, filler, reduction, create_graph):
        x = logits(5, 4)
        x[2] = filler
        x.requires_grad_()
        loss = cross_entropy(x, LABELS, reduction=reduction)
        (gradient,) = torch.autograd.grad(loss.sum(), x, create_graph=create_graph)
        assert (gradient[2] == 0).all()
        assert gradient.isfinite().all()
        assert loss.isfinite().all()
        if create_graph:
            (second,) = torch.autograd.grad(gradient.pow(2).sum(), x)
            assert (second[2] == 0).all()
            assert second.isfinite().all()

    def test_without_any_row_the_mean_is_nan_and_the_gradient_0(self):
        labels = torch.full((5,), -100)
        for transform in (
            lambda f: value_and_gradients(f, logits(5, 4)),
            lambda f: (f(logits(5, 4)), grad(f)(logits(5, 4))),
        ):
            value, gradient = transform(lambda x: cross_entropy(x, labels))
            assert value.isnan()
            assert (gradient == 0).all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_many_classes_do_not_overflow_half_types(self, dtype):
        x = torch.zeros(2, 100_000, dtype=dtype)
        value, gradient = value_and_gradients(lambda x: cross_entropy(x, torch.tensor([0, 1]), reduction="sum"), x)
        assert value == torch.tensor(2 * np.log(100_000)).to(dtype)
        assert gradient[0, 0] == -1
        assert gradient[0, 1] == torch.tensor(1e-5, dtype=torch.float64).to(dtype)

    @pytest.mark.parametrize("offset", [1e4, 1e8])
    def test_a_common_offset_changes_nothing(self, offset):
        x = 8 * torch.randint(-3, 4, (6, 5), generator=torch.Generator().manual_seed(0)).float()
        y = torch.tensor([0, 1, 2, 3, 4, 0])
        plain = value_and_gradients(lambda x: cross_entropy(x, y), x)
        shifted = value_and_gradients(lambda x: cross_entropy(x, y), x + offset)
        assert_same(shifted, plain, rtol=0, atol=0)

    def test_the_true_class_in_bfloat16(self):
        x = torch.tensor([[np.log(999.0), 0.0]], dtype=torch.bfloat16)
        _, gradient = value_and_gradients(lambda x: cross_entropy(x, torch.tensor([0])), x)
        wide = x.double()
        p = torch.sigmoid(wide[0, 1] - wide[0, 0])
        expected = torch.stack([-p, p]).to(torch.bfloat16)
        assert (gradient[0] == expected).all()
        theirs = value_and_gradients(lambda x: functional.cross_entropy(x, torch.tensor([0])), x)[1]
        assert (theirs[0] != expected).any()

    @pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
    def test_labels_of_every_integer_type(self, dtype):
        x = logits(3, 4)
        y = torch.tensor([3, 0, 1])
        assert cross_entropy(x, y.to(dtype)) == cross_entropy(x, y)

    @pytest.mark.parametrize("label", [-1, 4])
    def test_labels_out_of_range_are_an_index_error(self, label):
        x, y = logits(3, 4), torch.tensor([0, label, 1])
        for function in (cross_entropy, grad(cross_entropy)):
            with pytest.raises(IndexError, match=rf"targets\[1\] is {label}"):
                function(x, y)

    @pytest.mark.parametrize("smoothing", [float("nan"), -0.1, 1.5])
    def test_smoothing_lies_between_0_and_1(self, smoothing):
        with pytest.raises(ValueError, match="label_smoothing"):
            cross_entropy(logits(3, 4), torch.tensor([0, 1, 2]), label_smoothing=smoothing)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_rounded_once_and_scaled_before(dtype):
    x, y = logits(64, 7, dtype=dtype), torch.arange(64) % 7
    wide = value_and_gradients(lambda x: cross_entropy(x, y), x.double(), upstream=torch.tensor(65536.0).double())
    ours = value_and_gradients(lambda x: cross_entropy(x, y), x, upstream=torch.tensor(65536.0).to(dtype))[1]
    if dtype == torch.bfloat16:  # 65536 is beyond float16
        assert ((ours.double() - wide[1]).abs() <= 0.51 * torch.finfo(dtype).eps * wide[1].abs()).all()
    tiny = value_and_gradients(
        lambda x: cross_entropy(x, y, reduction="sum"), x, upstream=torch.tensor(2.0**-20).to(dtype)
    )
    assert (tiny[1] != 0).any()


def test_autocast_computes_losses_in_float32():
    x, y = logits(5, 4, dtype=torch.bfloat16).requires_grad_(), LABELS
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cross_entropy(x, y)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy(x.float(), y))
    loss.backward()
    assert x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(3, 4), torch.zeros(2, dtype=torch.long)), ValueError, r"target has shape \(2,\)"),
        ((torch.zeros(3, 4, dtype=torch.long), LABELS[:3]), TypeError, "input has dtype torch.int64"),
        ((torch.zeros(3, 4), torch.zeros(3)), TypeError, "labels must be integers"),
        ((torch.zeros(3, 4), -torch.ones(3, 4)), ValueError, "must be finite and not negative"),
        ((torch.tensor(1.0), torch.tensor(0)), ValueError, "input is a single number"),
        ((torch.zeros(3, 4), torch.tensor([0, 1, 2]), torch.ones(3)), ValueError, "weight has shape"),
    ],
)
def test_errors_name_the_argument(arguments, error, message):
    with pytest.raises(error, match=message):
        cross_entropy(*arguments)
