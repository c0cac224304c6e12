"""The CUDA kernels: on a GPU where there is one, else in Triton's interpreter; and compiled for one in any case."""

import inspect
import os
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import softhead  # noqa: E402
from softhead.kernels import triton as kernels  # noqa: E402

# The interpreter computes with NumPy, which warns of lanes whose results are not used.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(params=["tile", "blocks", "row by row"])
def rows_in(request, monkeypatch):
    """Whole rows at once, or cut into blocks of 32 entries and groups of two rows, or each block by block."""
    monkeypatch.setattr(kernels, "_MANY_ROWS", 1 if request.param == "row by row" else 100)
    if request.param != "tile":
        monkeypatch.setattr(kernels, "LARGEST_TILE", 8)
        monkeypatch.setattr(kernels, "BLOCK", 32)
        monkeypatch.setattr(kernels, "_GROUP_BYTES", 2 * 100 * 4)
    return request.param


def logits(dtype, *, n_rows=5, n_columns=100):
    """Rows meant to hurt: a common offset, ties on top, one confident entry, masked entries, gaps beyond reach."""
    x = np.random.default_rng(0).normal(size=(n_rows, n_columns)) * 5.0
    x[0] += 1e4 if dtype == torch.float32 else 64.0
    x[1, 3] = x[1, 70] = x[1].max() + 1.0
    x[2] -= 60.0
    x[2, 40] = 0.0
    x[3, ::3] = -np.inf
    x[3, 32:64] = -np.inf  # a whole block
    x[4] *= 1000.0 if dtype != torch.float16 else 10.0
    return torch.from_numpy(x).to(dtype).to(DEVICE)


def fresh(x, columns=slice(None)):
    """Return a tensor for results of `x`'s dtype; float32 for the interpreter's bfloat16, which it does not round."""
    dtype = torch.float32 if DEVICE == "cpu" and x.dtype == torch.bfloat16 else x.dtype
    return torch.full_like(x[:, columns], torch.nan, dtype=dtype)


def wide(x):
    return x.double().cpu().numpy()


def ulps(result, expected):
    """Return the largest distance in units in the last place of the result's dtype."""
    finite = np.isfinite(expected)
    got = wide(result)
    np.testing.assert_array_equal(got[~finite], expected[~finite])
    bits = {torch.float32: 23, torch.float16: 10, torch.bfloat16: 7}[result.dtype]
    least = {torch.float32: -149, torch.float16: -24, torch.bfloat16: -133}[result.dtype]
    exponent = np.frexp(np.where(expected[finite] == 0.0, 1.0, expected[finite]))[1] - 1
    spacing = np.maximum(np.exp2(exponent - float(bits)), np.exp2(float(least)))
    return (np.abs(got[finite] - expected[finite]) / spacing).max()


BOUNDS = [(torch.float32, 4.0), (torch.float16, 1.0), (torch.bfloat16, 1.0)]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
def test_maps_keep_the_contract(rows_in, dtype, bound, temperature):
    x = logits(dtype)
    out, sums = fresh(x), fresh(x, 0)
    kernels.softmax(x, out, temperature=temperature)
    assert ulps(out.to(dtype), softhead.softmax(wide(x), temperature=temperature)) <= bound
    kernels.softmax(x, out, temperature=temperature, log=True)
    assert ulps(out.to(dtype), softhead.log_softmax(wide(x), temperature=temperature)) <= bound
    kernels.logsumexp(x, sums, temperature=temperature)
    assert ulps(sums.to(dtype), softhead.logsumexp(wide(x) / temperature)) <= bound


OPTIONS = [
    {},
    {"temperature": 2.5},
    {"label_smoothing": 0.1},
    {"z_loss": 1e-2},
    {"weight": True},
    {"weight": True, "label_smoothing": 0.2, "z_loss": 1e-3, "temperature": 0.5},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "plain")
@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
def test_losses_and_gradients(rows_in, dtype, bound, options):
    x = logits(dtype)
    if "label_smoothing" in options:
        x = x.nan_to_num(neginf=-50.0)  # no smoothed loss of a masked class is finite
    y = torch.tensor([1, 3, 40, 31, 99], device=DEVICE)
    weight = torch.linspace(0.0, 2.0, x.shape[1], device=DEVICE) if "weight" in options else None
    given = options | ({} if weight is None else {"weight": weight})
    losses, gradient = fresh(x, 0), fresh(x)
    scale = torch.tensor(0.25, dtype=torch.float64, device=DEVICE)
    kernels.cross_entropy(x, y, losses, gradient, scale=scale, **given)

    exact = {**options, **({} if weight is None else {"weight": wide(weight)})}
    values, gradients = softhead.cross_entropy_value_and_grad(wide(x), y.cpu().numpy(), reduction="none", **exact)
    assert ulps(losses.to(dtype), values) <= (bound if options.keys() <= {"temperature", "weight"} else 4.0 * bound)
    if options.keys() <= {"temperature", "weight"}:
        assert ulps(gradient.to(dtype), 0.25 * gradients) <= bound
    else:  # up to the terms of which it is the difference, which are at most a few times the weights
        unit = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}[dtype]
        lse = np.abs(softhead.logsumexp(wide(x) / options.get("temperature", 1.0)))[:, None]
        size = (4.0 + 2.0 * options.get("z_loss", 0.0) * lse) / options.get("temperature", 1.0)
        assert (np.abs(wide(gradient.to(dtype)) - 0.25 * gradients) <= 4.0 * unit * size).all()

    if gradient.dtype != dtype:
        return
    kernels.cross_entropy(x, y, again := losses.clone(), x, scale=scale, **given)  # into the logits themselves
    assert torch.equal(again, losses)
    assert torch.equal(x, gradient)


def test_a_confident_row_keeps_its_loss_and_gradient(rows_in):
    x = torch.zeros(1, 100, device=DEVICE)
    x[0, 7] = 50.0
    losses, gradient = torch.empty(1, device=DEVICE), torch.empty_like(x)
    kernels.cross_entropy(
        x, torch.tensor([7], device=DEVICE), losses, gradient, scale=torch.ones((), dtype=torch.double)
    )
    small = 99 * np.exp(-50.0)
    assert float(losses[0]) == pytest.approx(small, rel=1e-6)
    assert float(gradient[0, 7]) == pytest.approx(-small, rel=1e-6)


def test_an_ignored_row_is_not_read(rows_in):
    x = logits(torch.float32)
    y = torch.tensor([1, -100, 40, 31, 99], device=DEVICE)
    want, want_gradient = torch.empty(5, device=DEVICE), torch.empty_like(x)
    scale = torch.ones((), dtype=torch.float64, device=DEVICE)
    kernels.cross_entropy(x, y, want, want_gradient, scale=scale)
    x[1] = torch.nan
    losses, gradient = torch.empty(5, device=DEVICE), torch.empty_like(x)
    kernels.cross_entropy(x, y, losses, gradient, scale=scale)
    assert torch.equal(losses, want)
    assert torch.equal(gradient, want_gradient)
    assert not losses[1]
    assert not gradient[1].any()


def test_a_label_that_is_no_class_gives_no_number(rows_in):
    x, y = logits(torch.float32), torch.tensor([1, 100, 40, -7, 99], device=DEVICE)
    losses, gradient = torch.zeros(5, device=DEVICE), torch.zeros_like(x)
    scale = torch.ones((), dtype=torch.float64, device=DEVICE)
    kernels.cross_entropy(x, y, losses, gradient, scale=scale, weight=torch.ones(100, device=DEVICE))
    assert losses.isnan().tolist() == [False, True, False, True, False]
    assert gradient.isnan().all(1).tolist() == gradient.isnan().any(1).tolist() == losses.isnan().tolist()


def test_not_a_number_stays_in_its_row(rows_in):
    x = logits(torch.float32)
    want, out = torch.empty_like(x), torch.empty_like(x)
    kernels.softmax(x, want)
    x[1, 50], x[2, 0], x[4] = torch.nan, torch.inf, -torch.inf
    kernels.softmax(x, out)
    assert out[[1, 2, 4]].isnan().all()
    assert torch.equal(out[[0, 3]], want[[0, 3]])


def test_a_common_offset_and_the_batch_around_a_row_change_nothing(rows_in):
    x = torch.from_numpy(np.random.default_rng(0).integers(-10, 10, (4, 100)) * 8.0).float().to(DEVICE)
    whole, shifted, alone = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x[2:3])
    kernels.softmax(x, whole)
    kernels.softmax(x + 1e8, shifted)
    kernels.softmax(x[2:3], alone)
    assert torch.equal(shifted, whole)
    assert torch.equal(alone[0], whole[2])


def test_a_long_row_has_the_same_bits_among_few_and_many(monkeypatch):
    monkeypatch.setattr(kernels, "LARGEST_TILE", 8)
    monkeypatch.setattr(kernels, "BLOCK", 32)
    x, y = logits(torch.float32), torch.tensor([1, 3, 40, 31, 99], device=DEVICE)
    weight = torch.linspace(0.0, 2.0, x.shape[1], device=DEVICE)
    results = []
    for many in (1, 100):
        monkeypatch.setattr(kernels, "_MANY_ROWS", many)
        p, logs, gradient, losses = *torch.empty(3, *x.shape, device=DEVICE), torch.empty(5, device=DEVICE)
        kernels.softmax(x, p)
        kernels.softmax(x, logs, log=True, temperature=0.7)
        scale = torch.ones((), dtype=torch.double, device=DEVICE)
        x[3].nan_to_num_(neginf=-50.0)
        kernels.cross_entropy(x, y, losses, gradient, scale=scale, weight=weight, label_smoothing=0.1)
        results.append((p, logs, gradient, losses))
        x = logits(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_with_the_jacobian(rows_in, dtype):
    p, c = softhead.softmax(wide(logits(torch.float32))), np.random.default_rng(1).normal(size=(5, 100))
    p, c = torch.from_numpy(p).to(dtype).to(DEVICE), torch.from_numpy(c).to(dtype).to(DEVICE)
    out = fresh(p)
    kernels.softmax_vjp(p, c, out, temperature=0.5)
    exact = softhead.softmax_vjp(wide(p), wide(c), temperature=0.5)
    unit = 2.0**-24 if dtype == torch.float32 else 2.0**-8
    size = wide(p) * (np.abs(wide(c)) + (wide(p) * np.abs(wide(c))).sum(1, keepdims=True)) / 0.5
    assert (np.abs(wide(out.to(dtype)) - exact) <= 8.0 * unit * size + 1e-38).all()

    x = logits(dtype)
    kernels.log_softmax_vjp(x, c, out, temperature=0.5)
    p = softhead.softmax(wide(x), temperature=0.5)
    exact = softhead.log_softmax_vjp(p, wide(c), temperature=0.5)
    size = (np.abs(wide(c)) + p * np.abs(wide(c)).sum(1, keepdims=True)) / 0.5
    assert (np.abs(wide(out.to(dtype)) - exact) <= 8.0 * unit * size).all()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_every_kernel_compiles_for_the_device(dtype):
    """The interpreter takes what the compiler refuses: names, types, branches."""
    code = inspect.getsource(compile_all) + f"\ncompile_all({dtype!r})"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["compiled"] * 18


def compile_all(dtype):
    import warnings

    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from softhead.kernels.triton import blocks, linear, long_rows, rows

    warnings.simplefilter("ignore")
    flags = {"EXACT": dtype == "fp32", "TEMPERED": True, "WEIGHTED": True, "SMOOTH": True, "GRADIENT": True}
    flags |= {
        "LOSS": True,
        "LOG": True,
        "R": 4,
        "B": 256,
        "NB": 16,
        "KEEP": True,
        "PULL": True,
        "BIASED": True,
        "FACTORS": True,
    }
    flags |= {"BLOCKS": 4, "FIRST": False, "LAST": False}
    tensors = dict.fromkeys(("x", "out", "p", "cotangent", "gradient", "weight", "losses"), f"*{dtype}")
    tensors |= {"labels": "*i64", "total": "*i16", "low": "*u8", "bias": f"*{dtype}", "exponentials": "*bf16"}
    tensors |= dict.fromkeys(("maxima", "picked", "logits", "references", "multipliers", "factors", "factor"), "*fp32")
    tensors |= dict.fromkeys(("mass", "scale", "rests", "totals"), "*fp64")
    numbers = dict.fromkeys(("smoothing", "z_loss", "rate", "rate_low"), "fp32")
    numbers |= dict.fromkeys(("x_stride", "out_stride", "p_stride", "cotangent_stride", "gradient_stride"), "i64")
    numbers |= dict.fromkeys(("n_rows", "n_columns", "n_blocks", "ignored", "first", "here", "width", "size"), "i32")
    numbers |= dict.fromkeys(("stride",), "i64")
    kernels = [rows.map_rows, rows.normalise_rows, rows.cross_entropy_rows, rows.vjp_rows]
    kernels += [blocks.summarise_blocks, blocks.map_blocks, blocks.normalise_blocks, blocks.cross_entropy_blocks]
    kernels += [long_rows.map_long_rows, long_rows.normalise_long_rows]
    kernels += [long_rows.cross_entropy_long_rows, long_rows.vjp_long_rows]
    kernels += [rows.log_vjp_rows, long_rows.log_vjp_long_rows]
    kernels += [linear.exponentiate_classes, linear.finish_rows, linear.accumulate_tile, linear.multiply_entries]
    for kernel in kernels:
        tile = {"tile": "*fp32" if kernel is linear.accumulate_tile else "i32"}
        signature = {arg: (tensors | numbers | tile).get(arg, "constexpr") for arg in kernel.arg_names}
        used = {arg: flags[arg] for arg in kernel.arg_names if arg in flags}
        compiled = compile(ASTSource(fn=kernel, signature=signature, constexprs=used), target=GPUTarget("cuda", 90, 32))
        assert compiled.asm["cubin"]
        print("compiled")
