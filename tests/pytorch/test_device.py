"""Tensors that Triton's kernels take: on the CPU here, in its interpreter, by the way that CUDA tensors go."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import softhead.torch  # noqa: E402
from softhead.torch import device, linear_problem, linear_tiles  # noqa: E402
from softhead.torch.rows import Options  # noqa: E402

# The interpreter computes with NumPy, which warns of lanes whose results are not used.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")


@pytest.fixture
def both_ways(monkeypatch):
    """Call a function by the loops for the CPU, then by the kernels for CUDA."""

    def call(function):
        expected = function()
        monkeypatch.setattr(device, "_DEVICES", ("cpu",))
        assert device.kernels_for(logits()) is not None
        assert not device.on_host(torch.device("cpu"))
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


TILED = [
    {},
    {"reduction": "none", "weight": torch.linspace(0.5, 2.0, 300)},
    {"reduction": "sum", "label_smoothing": 0.2, "temperature": 0.5, "z_loss": 1e-3},
]


@pytest.fixture
def small_tiles(monkeypatch):
    """Blocks of 16 rows, tiles of 256 classes and programs of 128; what the interpreter rounds to bfloat16 is cut."""
    from softhead.kernels.triton import linear

    monkeypatch.setattr(linear, "_CLASSES", 128)
    monkeypatch.setattr(linear_tiles, "_TILE_BYTES", 4 * 16 * 256)
    monkeypatch.setattr(linear_tiles, "_block_rows", lambda problem, _: min(16, len(problem.x)))


@pytest.mark.parametrize("options", TILED, ids=lambda options: "+".join(options) or "plain")
def test_the_loss_of_a_linear_map_in_tiles(both_ways, small_tiles, options):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(40, 8, generator=generator), torch.randn(300, 8, generator=generator)
    bias, y = torch.randn(300, generator=generator), torch.randint(300, (40,), generator=generator)
    weight[280:] *= 6.0  # logits of the last tile are far above the others: exponentials are put right
    weight[7], x[3], y[3] = 4.0, 4.0, 7  # a confident row
    y[5], x[5] = -100, torch.nan
    leaves = [one.bfloat16().requires_grad_() for one in (x, weight, bias)]

    def run():
        loss = softhead.torch.linear_cross_entropy(*leaves[:2], y, linear_bias=leaves[2], **options)
        factors = torch.linspace(0.5, 2.0, 40) if loss.dim() else 1.5
        return loss.detach(), *torch.autograd.grad((loss * factors).sum(), leaves)

    for expected, got in zip(*both_ways(run), strict=True):
        assert got.dtype == expected.dtype == torch.bfloat16
        off = (got.double() - expected.double()).norm() / expected.double().norm()
        assert off < 1.5e-2  # of cutting three times


def test_blocks_of_rows_keep_the_memory_that_they_are_given():
    """At 128,256 classes of 4,096 features: exponentials, copies of rows and low bits of the sums below 1.5 GB."""
    weight = torch.empty(128_256, 4096, dtype=torch.bfloat16, device="meta")
    for n_rows, expected in ((1024, 1024), (4096, 4096), (8192, 3072), (16_384, 3072), (10**6, 3072)):
        x = torch.empty(n_rows, 4096, dtype=torch.bfloat16, device="meta")
        problem = linear_problem.Linear(x, weight, None, x, None, Options(), 0)
        size = linear_tiles._block_rows(problem, True)
        low = 0 if size == n_rows else weight.numel()
        assert size == expected
        assert size * (2 * len(weight) + 8 * 4096) + low + linear_tiles._TILE_BYTES < 1.5e9


def test_sums_of_many_blocks_lose_little():
    """A hundred tiles in sums of 24 bits: off by less than half a unit of bfloat16, in which 100 additions lose all."""
    from softhead.kernels.triton import linear

    tiles = torch.rand(100, 8, 64, generator=torch.Generator().manual_seed(0))
    total, low = torch.empty(8, 64, dtype=torch.bfloat16), torch.empty(8, 64, dtype=torch.uint8)
    for i, tile in enumerate(tiles[:-1]):
        linear.accumulate(total, low, tile, first=i == 0, last=False)
    sums = ((total.view(torch.int16).int() << 16) | (low.int() << 8)).view(torch.float32)
    exact = tiles[:-1].double().sum(0)
    assert ((sums - exact).abs() <= 100 * 2.0**-17 * exact).all()
    linear.accumulate(total, low, tiles[-1], first=False, last=True)
    exact = tiles.double().sum(0)
    assert ((total.double() - exact).abs() <= 2.0**-7 * exact).all()  # cut, not rounded, by the interpreter


def test_no_value_is_looked_at(both_ways):
    """A label that is no class gives NaN, for the host would have to wait for the device to raise an error."""

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    x, y, seen = logits().requires_grad_(), torch.tensor([1, 3, 40, 0, 3, -7]), []
    with pytest.raises(IndexError, match=r"target"):
        softhead.torch.cross_entropy(x, y)
    both_ways(lambda: None)
    with Watch():
        loss = softhead.torch.cross_entropy(x, y, reduction="none", weight=torch.ones(40))
    assert loss.isnan().tolist() == [False, False, True, False, False, True]
    assert torch.autograd.grad(loss.sum(), x)[0].isnan().any(1).tolist() == loss.isnan().tolist()
    assert "aten._local_scalar_dense.default" not in seen
    for wrong, error in (({"target": y.float()}, TypeError), ({"target": y, "ignore_index": 0.5}, TypeError)):
        with pytest.raises(error):
            softhead.torch.cross_entropy(x, **wrong)


def test_what_comes_from_above_multiplies_in_place(both_ways):
    x = logits().bfloat16().requires_grad_()

    def run():
        loss = softhead.torch.cross_entropy(x, torch.tensor([1, 3, 39, 0, 3, 20]))
        return loss.detach(), *torch.autograd.grad(3.0 * loss, x)

    for expected, got in zip(*both_ways(run), strict=True):
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got, expected, rtol=2.0**-6, atol=1e-6)


def test_no_row_that_counts(both_ways):
    x = logits().requires_grad_()

    def run():
        loss = softhead.torch.cross_entropy(x, torch.full((6,), -100))
        return loss.detach(), *torch.autograd.grad(loss, x)

    for expected, got in zip(*both_ways(run), strict=True):
        torch.testing.assert_close(got, expected, equal_nan=True)
