"""The checks of `gpu.py`: errors in units in the last place, and what a GPU may break."""

import numpy as np
import torch
from torch.nn import functional

import softhead.torch

# Beside the fraction bits of each dtype: what the contract allows, the softmax of float32 being held to 4 on a GPU.
BOUNDS = {torch.float32: (23, -149, 4.0), torch.bfloat16: (7, -133, 1.0), torch.float16: (10, -24, 1.0)}
WIDTHS = [100, 1000, 5000, 20_000, 40_000, 140_000]


def hurting(n_columns, dtype, device):
    """Return rows meant to hurt: an offset, ties on top, a confident entry, masked entries, gaps beyond reach."""
    x = np.random.default_rng(n_columns).normal(size=(7, n_columns)) * 5.0
    x[0] += 1e4 if dtype == torch.float32 else 64.0
    x[1, 3] = x[1, -3] = x[1].max() + 1.0
    x[2] -= 60.0
    x[2, 40] = 0.0
    x[3, ::3] = -np.inf
    x[3, n_columns // 4 : 3 * n_columns // 4] = -np.inf
    x[4] *= 1000.0 if dtype != torch.float16 else 10.0
    x[5] = 0.0
    return torch.from_numpy(x).to(dtype).to(device)


def wide(tensor):
    return tensor.detach().double().cpu().numpy()


def ulps(result, exact):
    """Return the largest distance from the exact numbers in units in the last place; infinite where one is missed."""
    bits, least, _ = BOUNDS[result.dtype]
    got, exact = wide(result).astype(np.longdouble), np.asarray(exact)
    finite = np.isfinite(exact)
    if not np.array_equal(got[~finite], exact[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return float("inf")
    exponent = np.frexp(np.where(exact[finite] == 0.0, 1.0, exact[finite]))[1] - 1
    spacing = np.maximum(np.exp2((exponent - bits).astype(float)), np.exp2(float(least)))
    return float((np.abs(got[finite] - exact[finite]) / spacing).max(initial=0.0))


def exact_rows(x, y, temperature):
    """Return softmax, its logarithm, the losses and their gradients by the formulas in extended precision."""
    z = wide(x).astype(np.longdouble) / np.longdouble(temperature)
    rows = np.arange(len(z))
    m = z.max(1, keepdims=True)
    e = np.exp(z - m)
    top = z.argmax(1)
    others = e.copy()
    others[rows, top] = 0.0
    log_rest = np.log1p(others.sum(1, keepdims=True))
    p, log_p = e / e.sum(1, keepdims=True), (z - m) - log_rest
    gradient = p.copy()
    others = e.copy()
    others[rows, y] = 0.0
    gradient[rows, y] = -others.sum(1) / e.sum(1)
    lse = (m + log_rest)[:, 0]
    return {"softmax": p, "log_softmax": log_p, "logsumexp": lse}, -log_p[rows, y], gradient / temperature


def errors(session, dtype, n_columns, temperature):
    """Record the errors of the functions of rows."""
    x = hurting(n_columns, dtype, session.device)
    y = torch.tensor([1, 3, 40, 1, n_columns - 1, 7, 0])
    maps, losses, gradient = exact_rows(x, y.numpy(), temperature)
    y = y.to(session.device)
    rows = x.clone().requires_grad_()
    loss = softhead.torch.cross_entropy(rows, y, reduction="none", temperature=temperature)
    loss.sum().backward()
    found = {
        "softmax": ulps(softhead.torch.softmax(x, 1, temperature=temperature), maps["softmax"]),
        "log_softmax": ulps(softhead.torch.log_softmax(x, 1, temperature=temperature), maps["log_softmax"]),
        "loss": ulps(loss, losses),
        "gradient": ulps(rows.grad, gradient),
    }
    if temperature == 1.0:
        found["logsumexp"] = ulps(softhead.logsumexp(x), maps["logsumexp"])
    worst = max(found.values())
    session.record(
        check=f"errors, {dtype}, {n_columns} columns, temperature {temperature:g}",
        ok=worst <= BOUNDS[dtype][2],
        seen=", ".join(f"{name} {value:.2f}" for name, value in found.items()) + " ulp",
    )


def confident(session):
    """Check that a row whose probability rounds to 1 keeps its loss and its gradient."""
    for n_columns in (1000, 140_000):
        x = torch.zeros(1, n_columns, device=session.device)
        x[0, 7] = 60.0
        x.requires_grad_()
        loss = softhead.torch.cross_entropy(x, torch.tensor([7], device=session.device))
        loss.backward()
        exact = (n_columns - 1) * np.exp(-60.0)
        off = max(abs(loss.item() / exact - 1.0), abs(x.grad[0, 7].item() / -exact - 1.0))
        yield f"a confident row of {n_columns}", off < 1e-6, f"off by {off:.1e}"


def hazards(session):
    """Check that ignored rows are not read, and that what is no number stays in its row."""
    for n_columns in (1000, 140_000):
        x = hurting(n_columns, torch.float32, session.device)
        y = torch.tensor([1, 3, -100, 1, 5, 7, 0], device=session.device)
        x[2] = torch.nan
        rows = x.clone().requires_grad_()
        loss = softhead.torch.cross_entropy(rows, y, reduction="none")
        loss.sum().backward()
        clean = not loss[2].item() and not rows.grad[2].any().item() and rows.grad.isfinite().all().item()
        yield f"an ignored row of {n_columns} that is full of NaN", clean, ""
        x[4, -1], x[5, 0] = torch.nan, torch.inf
        p = softhead.torch.softmax(x, 1)
        bad = p.isnan().all(1).tolist(), p.isnan().any(1).tolist()
        expected = [False, False, True, False, True, True, False]
        yield f"NaN and infinity stay in their rows of {n_columns}", bad == (expected, expected), ""


def repeats(session):
    """Check that calls repeat bit for bit, that a row alone has the bits of its batch, and deterministic algorithms."""
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        for n_columns in (1000, 20_000, 140_000):
            x = torch.randn(300, n_columns, generator=generator).to(dtype).to(session.device)
            y = torch.randint(n_columns, (300,), generator=generator).to(session.device)

            def run(x=x, y=y):
                rows = x.clone().requires_grad_()
                loss = softhead.torch.cross_entropy(rows, y, reduction="none")
                loss.sum().backward()
                return softhead.torch.softmax(x, 1), softhead.torch.log_softmax(x, 1), loss.detach(), rows.grad

            first = run()
            same = all(torch.equal(a, b) for _ in range(3) for a, b in zip(first, run(), strict=True))
            alone = all(torch.equal(a[137:138], b) for a, b in zip(first, run(x[137:138], y[137:138]), strict=True))
            yield f"repeats of {dtype}, {n_columns} columns", same, ""
            yield f"a row alone, {dtype}, {n_columns} columns", alone, ""
    for dtype in (torch.float32, torch.bfloat16):
        tensors = linear_problem(1500, 256, 3000, dtype, session.device)
        first = linear_gradients(softhead.torch.linear_cross_entropy, *tensors)
        again = [linear_gradients(softhead.torch.linear_cross_entropy, *tensors) for _ in range(3)]
        same = all(torch.equal(a, b) for one in again for a, b in zip(first, one, strict=True))
        yield f"repeats of linear_cross_entropy, {dtype}", same, ""
    torch.use_deterministic_algorithms(True)
    try:
        linear_gradients(softhead.torch.linear_cross_entropy, *tensors)
        run()
    finally:
        torch.use_deterministic_algorithms(False)
    yield "torch.use_deterministic_algorithms", True, ""


def strides(session):
    """Check columns that do not lie side by side, and rows that are far apart."""
    x = torch.randn(64, 3000, generator=torch.Generator().manual_seed(1)).to(session.device)
    expected = softhead.torch.softmax(x, 1)
    yield "a transposed tensor", torch.equal(softhead.torch.softmax(x.T.contiguous().T, 1), expected), ""
    spread = torch.zeros(64, 9000, device=session.device)
    spread[:, :3000] = x
    yield "rows that are far apart", torch.equal(softhead.torch.softmax(spread[:, :3000], 1), expected), ""
    yield (
        "every other column",
        torch.equal(softhead.torch.softmax(x[:, ::2], 1), softhead.torch.softmax(x[:, ::2].contiguous(), 1)),
        "",
    )


def beyond_32_bits(session):
    """Check that the last rows of more than 2**32 entries have the bits that they have alone."""
    n_columns = 131_071
    n_rows = 2**32 // n_columns + 3
    x = torch.randn(n_rows, n_columns, dtype=torch.bfloat16, device=session.device)
    y = torch.randint(n_columns, (n_rows,), device=session.device)
    p = softhead.torch.softmax(x, 1)
    yield "softmax of more than 2**32 entries", torch.equal(p[-2:], softhead.torch.softmax(x[-2:].clone(), 1)), ""
    del p
    rows = x.requires_grad_()
    softhead.torch.cross_entropy(rows, y, reduction="sum").backward()
    tail = x.detach()[-2:].clone().requires_grad_()
    softhead.torch.cross_entropy(tail, y[-2:], reduction="sum").backward()
    yield "its cross-entropy's gradient", torch.equal(rows.grad[-2:], tail.grad), f"{x.numel():.3g} entries"


def linear_problem(n, d, c, dtype, device, scale=1.0):
    """Return rows, a weight and labels, of which some are ignored."""
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, d, generator=generator)
    weight = scale * torch.randn(c, d, generator=generator) / d**0.5
    y = torch.randint(c, (n,), generator=generator)
    y[::17] = -100
    x[17] = torch.nan
    return x.to(dtype).to(device), weight.to(dtype).to(device), y.to(device)


def linear_gradients(loss, x, weight, y, **options):
    """Return the loss and its gradients."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    value = loss(x, weight, y, **options)
    value.backward()
    return value.detach(), x.grad, weight.grad


def unfused(x, weight, y):
    return functional.cross_entropy(functional.linear(x, weight), y)


def linear_errors(session):
    """Check that the fused loss is as near to float64 as the unfused one."""
    for dtype, bound in ((torch.bfloat16, 4e-3), (torch.float32, 1e-3)):
        x, weight, y = linear_problem(1500, 256, 5003, dtype, session.device, scale=4.0)
        ours = linear_gradients(softhead.torch.linear_cross_entropy, x, weight, y)
        clean = x.masked_fill((y < 0).unsqueeze(1), 0.0)
        exact = linear_gradients(unfused, clean.double().cpu(), weight.double().cpu(), y.cpu())
        theirs = linear_gradients(unfused, clean, weight, y)
        off, peer = (
            [float((a.double().cpu() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]
            for found in (ours, theirs)
        )
        ok = all(mine <= max(1.1 * other, bound) for mine, other in zip(off, peer, strict=True))
        seen = "loss, by x, by weight: " + ", ".join(
            f"{a:.1e} (unfused {b:.1e})" for a, b in zip(off, peer, strict=True)
        )
        yield f"linear_cross_entropy against float64, {dtype}", ok, seen


def modes(session):
    """Check that compiled programs and autocast agree with the eager loss."""
    x, weight, y = linear_problem(300, 128, 1000, torch.float32, session.device)
    loss = softhead.torch.linear_cross_entropy
    expected = linear_gradients(loss, x, weight, y)

    def cast(x, weight, y):
        with torch.autocast(session.device.type, torch.bfloat16):
            return loss(x, weight, y)

    for name, function, bound in (("autocast", cast, 1e-2), ("torch.compile", torch.compile(loss), 1e-5)):
        try:
            got = linear_gradients(function, x, weight, y)
        except Exception as error:  # no compiler here
            yield f"{name} of linear_cross_entropy", False, f"{type(error).__name__}: {str(error)[:100]}"
            continue
        off = max(float((a - b).norm() / b.norm()) for a, b in zip(got, expected, strict=True))
        yield f"{name} of linear_cross_entropy", off < bound, f"off by {off:.1e}"


CHECKS = (confident, hazards, strides, repeats, linear_errors, modes, beyond_32_bits)


def run(session):
    """Record every check."""
    for part in CHECKS:
        if session.expired() or (part is beyond_32_bits and not session.on_gpu):
            session.record(check=part.__name__, ok="not run", seen="")
            continue
        try:
            for check, ok, seen in part(session):
                session.record(check=check, ok=bool(ok), seen=seen)
        except Exception as error:
            session.record(check=part.__name__, ok=False, seen=f"{type(error).__name__}: {str(error)[:300]}")
    for n_columns in WIDTHS[:1] if session.tiny else WIDTHS:
        for dtype in BOUNDS:
            for temperature in (1.0, 0.7):
                if session.expired():
                    return
                errors(session, dtype, n_columns, temperature)
