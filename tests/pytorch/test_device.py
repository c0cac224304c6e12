"""Tensors that Triton's kernels take: on the CPU here, in its interpreter, by the way that CUDA tensors go."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import softhead.torch  # noqa: E402
from softhead.torch import device  # noqa: E402

# The interpreter computes with NumPy, which warns of lanes whose results are not used.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")


@pytest.fixture
def both_ways(monkeypatch):
    """Call a function by the loops for the CPU, then by the kernels for CUDA."""

    def call(function):
        expected = function()
        monkeypatch.setattr(device, "_DEVICES", ("cpu",))
        assert device.kernels_for(logits()) is not None
        return expected, function()

    return call


def logits(shape=(6, 40)):
    x = 5.0 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x[0] += 1e4
    return x


@pytest.mark.parametrize("function", [softhead.torch.softmax, softhead.torch.log_softmax])
@pytest.mark.parametrize("dim", [0, 1])
def test_maps_and_their_gradients(both_ways, function, dim):
    x, cotangent = logits().requires_grad_(), torch.linspace(-1.0, 1.0, 240).reshape(6, 40)

    def run():
        y = function(x, dim, temperature=0.5)
        return y.detach(), *torch.autograd.grad(y, x, cotangent)

    for expected, got in zip(*both_ways(run), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


OPTIONS = [
    {"ignore_index": 3},
    {"reduction": "sum", "temperature": 2.0, "z_loss": 1e-3},
    {"reduction": "none", "label_smoothing": 0.1, "weight": torch.linspace(0.5, 2.0, 40)},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_losses_and_their_gradients(both_ways, options):
    x, y = logits().requires_grad_(), torch.tensor([1, 3, 39, 0, 3, 20])

    def run():
        loss = softhead.torch.cross_entropy(x, y, **options)
        return loss.detach(), *torch.autograd.grad(loss.sum(), x)

    for expected, got in zip(*both_ways(run), strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-6, atol=1e-7)


def test_the_loss_of_a_linear_map(both_ways):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(30, 5, generator=generator), torch.randn(40, 5, generator=generator)
    x, weight = x.requires_grad_(), weight.requires_grad_()

    def run():
        loss = softhead.torch.linear_cross_entropy(x, weight, torch.arange(30))
        return loss.detach(), *torch.autograd.grad(loss, (x, weight))

    for expected, got in zip(*both_ways(run), strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-6, atol=1e-7)


def test_no_row_that_counts(both_ways):
    x = logits().requires_grad_()

    def run():
        loss = softhead.torch.cross_entropy(x, torch.full((6,), -100))
        return loss.detach(), *torch.autograd.grad(loss, x)

    for expected, got in zip(*both_ways(run), strict=True):
        torch.testing.assert_close(got, expected, equal_nan=True)
