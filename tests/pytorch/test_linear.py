"""The fused loss of a linear map: its derivatives, its memory, and that blocks cannot be seen in it."""

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch.func import functional_call, grad, hessian, jvp, vmap  # noqa: E402
from torch.nn import functional  # noqa: E402

from softhead.torch import linear_cross_entropy, linear_passes  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

N, D, C = 5, 3, 4
LABELS = torch.tensor([0, 3, -100, 1, 2])
CLASS_WEIGHT = torch.tensor([0.5, 1.0, 2.0, 0.1], dtype=torch.float64)
OPTIONS = [{}, {"weight": CLASS_WEIGHT, "label_smoothing": 0.3}, {"temperature": 0.7, "z_loss": 0.1}]
REDUCTIONS = ["mean", "sum", "none"]


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def parameters(dtype=torch.float64, n=N, d=D, c=C):
    return [numbers(n, d, dtype=dtype), numbers(c, d, seed=1, dtype=dtype), numbers(c, seed=2, dtype=dtype)]


def soft():
    return torch.rand(N, C, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def unfused(x, w, target, *, linear_bias=None, temperature=1.0, z_loss=0.0, reduction="mean", **options):
    logits = functional.linear(x, w, linear_bias) / temperature
    losses = functional.cross_entropy(logits, target, reduction=reduction, **options)
    if not z_loss:
        return losses
    read = (target != -100) if target.dim() == 1 else torch.ones(len(target), dtype=torch.bool)
    extra = torch.where(read, z_loss * logits.logsumexp(1) ** 2, 0.0)
    return losses + (extra if reduction == "none" else extra.sum() / (read.sum() if reduction == "mean" else 1))


def run(loss, target, upstream=None, leaves=None, **options):
    x, w, b = leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves or parameters()]
    value = loss(x, w, target, linear_bias=b, **options)
    value.backward(upstream)
    return [value.detach(), *(leaf.grad for leaf in leaves)]


def assert_same(ours, theirs, **tolerance):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", OPTIONS)
def test_value_and_gradients_are_those_of_the_unfused_loss(options, reduction):
    upstream = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0]).double() if reduction == "none" else torch.tensor(0.25).double()
    for target in (LABELS, soft()):
        ours = run(linear_cross_entropy, target, upstream, reduction=reduction, **options)
        assert_same(ours, run(unfused, target, upstream, reduction=reduction, **options))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", OPTIONS)
def test_derivatives_of_first_and_second_order(options, reduction):
    x, w, b = (leaf.requires_grad_() for leaf in parameters())
    for target in (LABELS, soft()):

        def loss(x, w, b, target=target):
            return linear_cross_entropy(x, w, target, linear_bias=b, reduction=reduction, **options)

        assert gradcheck(loss, (x, w, b))
        assert gradgradcheck(loss, (x, w, b))
        assert gradgradcheck(lambda w, loss=loss: loss(x.detach(), w, None), (w,))


def test_forward_mode_and_gradients_of_targets():
    x, w, b = (leaf.requires_grad_() for leaf in parameters())
    q = soft().requires_grad_()
    assert gradcheck(lambda *a: linear_cross_entropy(a[0], a[1], a[3], linear_bias=a[2]), (x, w, b, q))
    assert gradcheck(lambda *a: linear_cross_entropy(*a, LABELS), (x, w), check_forward_ad=True)


def test_transformations_of_torch_func():
    x, w, _ = parameters()

    def ours(w, x=x, y=LABELS):
        return linear_cross_entropy(x, w, y)

    def theirs(w, x=x, y=LABELS):
        return unfused(x, w, y)

    torch.testing.assert_close(grad(ours)(w), grad(theirs)(w))
    torch.testing.assert_close(hessian(ours)(w), hessian(theirs)(w))
    by_gradient = [grad(lambda w, f=f: grad(f)(w).pow(2).sum())(w) for f in (ours, theirs)]
    torch.testing.assert_close(*by_gradient)
    assert_same(jvp(ours, (w,), (w + 1,)), jvp(theirs, (w,), (w + 1,)))
    each = torch.randint(C, (6, 2), generator=torch.Generator().manual_seed(0))
    xs = numbers(6, 2, D, seed=5)
    for transform in (lambda f: vmap(f, (None, 0, 0)), lambda f: vmap(grad(f), (None, 0, 0))):
        torch.testing.assert_close(transform(ours)(w, xs, each), transform(theirs)(w, xs, each))


def test_a_functional_call_of_a_module():
    head = torch.nn.Linear(D, C).double()
    x = numbers(N, D)

    class Head(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = head

        def forward(self, x):
            return linear_cross_entropy(x, self.linear.weight, LABELS, linear_bias=self.linear.bias)

    module = Head()
    state = {name: value.detach() for name, value in module.named_parameters()}
    by_func = grad(lambda state: functional_call(module, state, (x,)))(state)
    module(x).backward()
    for name, value in module.named_parameters():
        torch.testing.assert_close(by_func[name], value.grad)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_compiled_programs_are_whole(reduction):
    torch._dynamo.reset()

    def loss(x, w, target, *, linear_bias):
        return linear_cross_entropy(2 * x, w, target, linear_bias=linear_bias, reduction=reduction, z_loss=0.1).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for target in (LABELS, soft()):
        assert_same(run(compiled, target), run(loss, target))


@pytest.mark.parametrize("transform", [grad, hessian, lambda f: vmap(f, 0)], ids=["grad", "hessian", "vmap"])
def test_compiled_transformations_are_whole(transform):
    torch._dynamo.reset()
    x, w, _ = parameters()
    w = w if transform in (grad, hessian) else torch.stack([w, 2 * w])

    def loss(w):
        return linear_cross_entropy(x, w, LABELS)

    compiled = torch.compile(transform(loss), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(w), transform(loss)(w))


def test_there_may_be_no_features():
    x, w = torch.zeros(3, 0, requires_grad=True), torch.zeros(4, 0, requires_grad=True)
    loss = linear_cross_entropy(x, w, torch.arange(3))
    loss.backward()
    assert loss.item() == pytest.approx(np.log(4.0))
    assert (x.grad.shape, w.grad.shape) == ((3, 0), (4, 0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_blocks_cannot_be_seen(dtype, monkeypatch):
    leaves = parameters(dtype, n=300, d=16, c=40)
    target = torch.arange(300) % 41
    target[target == 40] = -100
    exact = run(unfused, target, leaves=[leaf.double() for leaf in leaves])
    whole = run(linear_cross_entropy, target, leaves=leaves)
    u = torch.finfo(dtype).eps
    monkeypatch.setattr(linear_passes, "_TILE_BYTES", 16 * 4 * 7)
    for rows in (1, 17, 64, 300):
        chunks = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=rows)
        ours = run(lambda *a, chunks=chunks, **k: linear_cross_entropy(*a, options=chunks, **k), target, leaves=leaves)
        assert_same(ours, whole, rtol=4 * u, atol=8 * u * exact[2].abs().max().item())
        for one, other in zip(ours, exact, strict=True):
            # a logit of size 8, rounded in float32, moves a probability by 1e-6 of it
            assert (one.double() - other).abs().max() <= max(2 * u, 2e-6) * other.abs().max()


def test_the_gradient_of_a_half_weight_is_summed_in_float32():
    n = 4096
    x, w = torch.ones(n, 1, dtype=torch.bfloat16), torch.zeros(2, 1, dtype=torch.bfloat16).requires_grad_()
    chunks = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=16)
    linear_cross_entropy(x, w, torch.zeros(n, dtype=torch.long), reduction="sum", options=chunks).backward()
    assert w.grad.flatten().tolist() == [-n / 2, n / 2]  # in bfloat16 a sum of 8s would stop growing at 2048


@pytest.mark.parametrize("compiled", [False, True])
def test_a_scaled_loss_scales_before_float16_rounds(compiled):
    """What torch.amp.GradScaler is for: unscaled, these gradients are subnormal numbers of float16."""
    torch._dynamo.reset()
    x, w = numbers(64, 4, dtype=torch.float32).requires_grad_(), (1e-4 * numbers(3, 4, seed=1)).float().requires_grad_()
    target = torch.arange(64) % 3

    def loss(x, w):
        with torch.autocast("cpu", dtype=torch.float16):
            return 2.0**16 * linear_cross_entropy(x, w, target)

    loss = torch.compile(loss, fullgraph=True, backend="aot_eager") if compiled else loss
    loss(x, w).backward()
    leaves = [one.detach().half().double().requires_grad_() for one in (x, w)]
    (2.0**16 * unfused(*leaves, target)).backward()
    for ours, leaf in zip((x, w), leaves, strict=True):
        torch.testing.assert_close(ours.grad.double(), leaf.grad, rtol=2.0**-10, atol=1e-5)


def test_several_losses_a_row():
    x, w, b = numbers(N, D).requires_grad_(), numbers(C, 2, D, seed=1).requires_grad_(), numbers(C, 2, seed=2)
    target = torch.tensor([[0, 1], [2, 3], [-100, 0], [1, 1], [3, 2]])
    ours = linear_cross_entropy(x, w, target, linear_bias=b)
    theirs = functional.linear_cross_entropy(x, w, target, linear_bias=b)
    torch.testing.assert_close(ours, theirs)
    assert_same(torch.autograd.grad(ours, (x, w)), torch.autograd.grad(theirs, (x, w)))


def test_rows_may_have_any_shape():
    _, w, b = parameters()
    x, target = numbers(2, 3, D), torch.tensor([[0, 1, 2], [3, -100, 0]])
    losses = linear_cross_entropy(x, w, target, linear_bias=b, reduction="none")
    assert losses.shape == (2, 3)
    flat = unfused(x.reshape(6, D), w, target.reshape(6), linear_bias=b, reduction="none")
    torch.testing.assert_close(losses.reshape(6), flat)
    one = linear_cross_entropy(x[0, 0], w, target[0, 0], linear_bias=b)
    torch.testing.assert_close(one, flat[0])


def test_memory_is_a_block(monkeypatch):
    """The largest tensor that is made has the size of a block, of the gradients, or of the losses."""
    monkeypatch.setattr(linear_passes, "_BLOCK_BYTES", 100 * 50 * 4)
    made = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            made.extend(
                one.numel()
                for one in (result if isinstance(result, tuple | list) else [result])
                if isinstance(one, torch.Tensor)
            )
            return result

    x, w, _ = parameters(torch.float32, n=2000, d=8, c=50)
    w.requires_grad_()
    with Watch():
        loss = linear_cross_entropy(x, w, torch.arange(2000) % 50)
        (first,) = torch.autograd.grad(loss, w, create_graph=True)
        torch.autograd.grad(first.sum(), w)
    assert max(made) == x.numel() == 16_000  # and not 2000 x 50


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("create_graph", [False, True])
def test_ignored_rows_are_not_read(reduction, create_graph):
    x, w, _ = parameters()
    x[2] = float("nan")
    x.requires_grad_()
    w.requires_grad_()
    loss = linear_cross_entropy(x, w, LABELS, reduction=reduction).sum()
    by_x, by_w = torch.autograd.grad(loss, (x, w), create_graph=create_graph)
    assert (by_x[2] == 0).all()
    assert by_w.isfinite().all()
    if create_graph:
        again = torch.autograd.grad(by_w.pow(2).sum(), (x, w))
        assert all(one.isfinite().all() for one in again)


def test_gradients_may_be_taken_twice_and_stay_as_they_are():
    x, w, _ = parameters()
    w.requires_grad_()
    loss = linear_cross_entropy(x, w, LABELS)
    (first,) = torch.autograd.grad(loss, w, retain_graph=True)
    kept = first.clone()
    loss.backward(retain_graph=True)
    (2 * loss).backward()
    assert (first == kept).all()
    torch.testing.assert_close(w.grad, 3 * kept)


def test_autocast_multiplies_in_its_dtype_and_returns_float32():
    x, w, b = parameters(torch.float32)
    w.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(x, w, LABELS, linear_bias=b)
    assert loss.dtype == torch.float32
    halves = [one.detach().bfloat16().double() for one in (x, w, b)]
    torch.testing.assert_close(loss.double(), unfused(*halves[:2], LABELS, linear_bias=halves[2]), rtol=1e-6, atol=0)
    loss.backward()
    assert w.grad.dtype == torch.float32


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_out_of_range_are_an_index_error(label):
    x, w, _ = parameters()
    target = torch.tensor([0, 1, label, 2, 3])
    for function in (linear_cross_entropy, grad(linear_cross_entropy)):
        with pytest.raises(IndexError, match=rf"targets\[2\] is {label}"):
            function(x, w, target)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((torch.zeros(3), torch.zeros(3), torch.tensor(0)), {}, ValueError, "linear_weight has shape"),
        ((torch.zeros(2, 3), torch.zeros(4, 2), torch.zeros(2)), {}, ValueError, "input has shape"),
        ((torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(3)), {}, ValueError, "target has shape"),
        (
            (torch.zeros(2, 3), torch.zeros(4, 3), LABELS[:2]),
            {"linear_bias": torch.zeros(3)},
            ValueError,
            "linear_bias",
        ),
        (
            (torch.zeros(2, 3), torch.zeros(4, 3), LABELS[:2]),
            {"label_smoothing": float("nan")},
            ValueError,
            "smoothing",
        ),
        ((torch.zeros(2, 3).long(), torch.zeros(4, 3), LABELS[:2]), {}, TypeError, "input has dtype"),
        ((torch.zeros(2, 3), torch.zeros(4, 3), LABELS[:2]), {"options": 3}, TypeError, "options: 3; accepted"),
        (
            (torch.zeros(2, 3), torch.zeros(4, 3), LABELS[:2]),
            {"options": SimpleNamespace(batch_chunk_size=0)},
            ValueError,
            "batch_chunk_size is 0",
        ),
    ],
)
def test_errors_name_the_argument(arguments, options, error, message):
    with pytest.raises(error, match=message):
        linear_cross_entropy(*arguments, **options)
