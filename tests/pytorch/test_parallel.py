"""Classes spread over processes against one process that has them all."""

import functools
import os
import tempfile
import traceback
from pathlib import Path

import numpy as np
import pytest

import softhead

torch = pytest.importorskip("torch")
from torch import distributed  # noqa: E402
from torch import multiprocessing as processes  # noqa: E402

from softhead.torch import parallel  # noqa: E402

SIZES = {2: [3, 8], 3: [5, 0, 6]}  # of the shards of 11 classes
PLAIN = {"temperature": 1.0}
EVERYTHING = {"label_smoothing": 0.2, "temperature": 0.7, "z_loss": 0.1}


def problem():
    rng = np.random.default_rng(0)
    x, linear_weight, linear_bias = (rng.standard_normal(shape) for shape in ((40, 4), (11, 4), 11))
    labels = rng.integers(0, 11, 40)
    labels[[3, 17]] = -100
    logits = 3.0 * rng.standard_normal((40, 11))
    logits[0] = 0.0  # ties between shards
    logits[1, :] = np.where(np.arange(11) == labels[1], 60.0, 0.0)  # a confident row
    logits[2] = 8.0 * rng.integers(-5, 5, 11)
    logits[3] = np.nan  # an ignored row
    logits[4, :6] = -np.inf
    labels[4] = 9
    x[17] = np.inf
    return x, linear_weight, linear_bias, logits, labels, np.linspace(0.0, 2.0, 11)


def check(result, expected, dtype, scale=1.0):
    eps = torch.finfo(dtype).eps
    np.testing.assert_allclose(result.detach().double().numpy(), expected, rtol=16 * eps, atol=16 * eps * scale)


def check_all(rank, world, group):
    cross_entropy = functools.partial(parallel.cross_entropy, group=group)
    linear_cross_entropy = functools.partial(parallel.linear_cross_entropy, group=group)
    torch.set_num_threads(1)
    x, linear_weight, linear_bias, logits, labels, weight = problem()
    target = torch.from_numpy(labels)
    at = np.cumsum([0, *SIZES[world]])
    own = slice(at[rank], at[rank + 1])
    parallel._BLOCK_SIZE = 8 * 16  # 16 rows at a time
    for dtype in (torch.float64, torch.float32):
        wide = lambda array, dtype=dtype: torch.from_numpy(array).to(dtype).numpy()  # noqa: E731
        for options in (PLAIN, EVERYTHING):
            for reduction in ("mean", "none"):
                settings = options | {"reduction": reduction}
                with_weight = {} if options is PLAIN else {"weight": weight}
                shared = {} if options is PLAIN else {"weight": torch.from_numpy(weight[own].copy())}
                upstream = np.random.default_rng(1).standard_normal(40) if reduction == "none" else np.float64(1.0)
                factor = upstream[:, None] if reduction == "none" else upstream
                finite = settings if options is PLAIN else settings | {"label_smoothing": 0.0}  # for logits of -inf

                # An offset that eats digits; squared by z_loss it would drown all other rows.
                offset = np.where(np.arange(40) == 2, 1e8 if options is PLAIN else 0.0, 0.0)[:, None]
                value, gradient = softhead.cross_entropy_value_and_grad(
                    wide(logits + offset).astype(np.float64), labels, **finite, **with_weight
                )
                shard = torch.from_numpy((logits + offset)[:, own]).to(dtype).requires_grad_()
                loss = cross_entropy(shard, target, **finite, **shared)
                assert loss.dtype == dtype
                loss.backward(torch.as_tensor(upstream, dtype=dtype))
                check(loss, value, dtype)
                check(shard.grad, (factor * gradient)[:, own], dtype, 1e-30 if options is PLAIN else 20.0)
                assert not shard.grad[3].any()

                value, expected = softhead.linear_cross_entropy_value_and_grad(
                    *(wide(a).astype(np.float64) for a in (x, linear_weight)),
                    labels,
                    linear_bias=wide(linear_bias).astype(np.float64),
                    **settings | {"reduction": "sum" if reduction == "none" else "mean"},
                    **with_weight,
                )
                rows, own_weight, own_bias = (
                    torch.from_numpy(array.copy()).to(dtype).requires_grad_()
                    for array in (x, linear_weight[own], linear_bias[own])
                )
                loss = linear_cross_entropy(rows, own_weight, target, linear_bias=own_bias, **settings, **shared)
                loss.sum().backward()
                check(loss.sum(), value, dtype, 100.0)
                check(rows.grad, expected.x, dtype, 10.0)
                check(own_weight.grad, expected.linear_weight[own], dtype, 100.0)
                check(own_bias.grad, expected.linear_bias[own], dtype, 100.0)
                assert not rows.grad[17].any()

    nothing = torch.full_like(target, -100)  # the mean is NaN then, but gradients are 0
    leaves = [torch.from_numpy(a.copy()).requires_grad_() for a in (logits[:, own], x, linear_weight[own])]
    for loss in (cross_entropy(leaves[0], nothing), linear_cross_entropy(*leaves[1:], nothing)):
        loss.backward()
        assert loss.isnan()
    assert not any(leaf.grad.any() for leaf in leaves)

    half = torch.from_numpy(logits[:, own].copy()).nan_to_num().to(torch.bfloat16).requires_grad_()
    loss = cross_entropy(half[5:], target[5:])
    loss.backward()
    assert loss.dtype == half.grad.dtype == torch.bfloat16
    one = cross_entropy(torch.zeros(11)[own], torch.tensor(10), reduction="sum")  # a row without a batch
    check(one, np.log(11.0), torch.float32)
    assert cross_entropy(torch.zeros(0, 11)[:, own], target[:0], reduction="sum") == 0.0

    for arguments, error, message in (
        ((torch.zeros(2, 11)[:, own], torch.tensor([0, 11])), IndexError, r"\[1\] is 11; labels lie in \[0, 11\)"),
        ((torch.zeros(2, 11)[:, own], torch.tensor([0.0, 1.0])), TypeError, "target has dtype torch.float32"),
        ((torch.zeros(2, 11)[:, own], torch.tensor([0])), ValueError, "target has shape"),
    ):
        with pytest.raises(error, match=message):
            cross_entropy(*arguments)
    # What one process has wrong, all refuse.
    shards = torch.ones(SIZES[world][rank]) if rank else -torch.ones(SIZES[world][rank])
    with pytest.raises(ValueError, match="rank 0 refused its arguments" if rank else "not negative"):
        cross_entropy(torch.zeros(2, 11)[:, own], torch.tensor([0, 1]), weight=shards)
    rows = 2 if rank else 3
    with pytest.raises(ValueError, match="this one"):
        cross_entropy(torch.zeros(rows, 11)[:, own], torch.zeros(rows, dtype=torch.int64))


def work(rank, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3)
    pair = distributed.new_group([0, 1])
    try:
        check_all(rank, 3, None)
        if rank < 2:
            check_all(rank, 2, pair)
    except BaseException:
        Path(folder, f"{rank}.txt").write_text(traceback.format_exc())
        raise
    finally:
        distributed.destroy_process_group()


def test_losses_and_gradients_of_shards_are_those_of_all_classes():
    with tempfile.TemporaryDirectory() as folder:
        try:
            processes.spawn(work, (folder,), nprocs=3)
        except Exception:
            pytest.fail("\n".join(path.read_text() for path in sorted(Path(folder).glob("*.txt"))))
