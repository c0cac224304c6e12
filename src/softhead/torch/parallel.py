"""Cross-entropy over classes that several processes hold: every process has a shard of the logits or of the weights.

Shards follow each other in the order of the ranks; they may differ in size. For a block of rows the processes exchange
their maxima, and then one sum of a few float64 numbers a row. With m the maximum of all shards, which belongs to the
first rank that has it, and rest the sum of all other exponentials, the loss of the class on top is log1p(rest), and its
gradient -rest / (1 + rest): what one process would return, up to the rounding of products.

Every process must call with the same rows, targets and options. What one finds wrong with its arguments is an error in
all of them, so that none waits for the others.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from softhead import _checks

__all__ = ["cross_entropy", "linear_cross_entropy"]

_BLOCK_SIZE = 2**21  # logits of the largest shard: 16 MB for each of the few float64 arrays of a block


class _Shard(NamedTuple):
    """What a process knows of the classes, and the options of the loss."""

    group: Any
    rank: int
    offset: int  # of its first class
    n_classes: int  # of all processes
    block: int  # rows at a time
    temperature: float
    label_smoothing: float
    z_loss: float
    weight_sum: float  # of all classes


class _Statistics(NamedTuple):
    """Of every row, (n,), what all processes found together; float64 but for `owned`."""

    maximum: Tensor
    rest: Tensor
    label_weight: Tensor
    owned: Tensor  # whether the maximum lies in this process's shard


def cross_entropy(
    input: Tensor,
    target: Tensor,
    *,
    group: Any = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Return the cross-entropy of logits whose classes are spread over a process group.

    Parameters
    ----------
    input : Tensor of shape (..., C_k)
        This process's shard of the logits, classes last; C_k may differ from process to process.
    target : Tensor of shape (...)
        Classes, counted over all shards; the same in every process.
    group : ProcessGroup, optional
        Its ranks hold the shards in order; the default group if None.
    weight : Tensor of shape (C_k,), optional
        This process's shard of the weights of the classes, in every process or in none.
    ignore_index, label_smoothing, temperature, z_loss, reduction
        As in `softhead.torch.cross_entropy`.

    Returns
    -------
    Tensor of the dtype of `input`
        The same in every process. Differentiable once; the gradient is that of this process's shard.

    Raises
    ------
    TypeError, ValueError
        In every process, if a shape, a dtype or a weight does not fit in one of them.
    IndexError
        If a class lies outside all shards and is not `ignore_index`.

    References
    ----------
    M. Shoeybi et al., "Megatron-LM: Training multi-billion parameter language models using model parallelism", 2019,
    section 3: the exchange of losses in the place of logits.

    Examples
    --------
    >>> import torch, torch.distributed as dist
    >>> from softhead.torch import parallel
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> parallel.cross_entropy(torch.tensor([[40.0, 0.0]]), torch.tensor([0]))
    tensor(4.2484e-18)
    >>> dist.destroy_process_group()
    """
    options = (ignore_index, label_smoothing, temperature, z_loss, reduction)
    return _loss(input, None, None, target, group, weight, *options)


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    group: Any = None,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Return the cross-entropy of the logits W x + b, whose classes are spread over a process group.

    The logits of a block of rows exist, never those of all; they are computed again for the gradient.

    Parameters
    ----------
    input : Tensor of shape (..., n_features)
        x, the same in every process.
    linear_weight : Tensor of shape (C_k, n_features)
        This process's shard of the weights; C_k may differ from process to process.
    target : Tensor of shape (...)
        Classes, counted over all shards; the same in every process.
    group : ProcessGroup, optional
        Its ranks hold the shards in order; the default group if None.
    linear_bias, weight : Tensor of shape (C_k,), optional
        This process's shards of the biases and of the weights of the classes, in every process or in none.
    ignore_index, label_smoothing, temperature, z_loss, reduction
        As in `softhead.torch.linear_cross_entropy`.

    Returns
    -------
    Tensor of the dtype of `input`
        The same in every process. Differentiable once: the gradient of `input` is the whole one, summed over the
        processes; those of the others are of this process's shards.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `cross_entropy`.
    """
    options = (ignore_index, label_smoothing, temperature, z_loss, reduction)
    return _loss(input, linear_weight, linear_bias, target, group, weight, *options)


def _loss(
    x: Tensor,
    linear_weight: Tensor | None,
    linear_bias: Tensor | None,
    target: Tensor,
    group: Any,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    temperature: float,
    z_loss: float,
    reduction: str,
) -> Tensor:
    """Check the arguments together with the other processes, compute the losses of all rows, and reduce them."""
    options = _checks.loss_options(
        0, weight=None, label_smoothing=label_smoothing, temperature=temperature, z_loss=z_loss, reduction=reduction
    )
    wrong = _what_is_wrong(x, linear_weight, linear_bias, target, weight)
    n_local = 0 if wrong else (x.shape[-1] if linear_weight is None else linear_weight.shape[0])
    weight_sum = float(n_local) if weight is None or wrong else float(weight.double().sum())
    found = [float(wrong is not None), float(n_local), float(target.numel()), weight_sum]
    everyone = _gathered(torch.tensor(found, dtype=torch.float64, device=x.device), group).tolist()
    if wrong is not None:
        raise wrong
    for other, (refused, _, n_rows, _) in enumerate(everyone):
        if refused or n_rows != target.numel():
            reason = "refused its arguments" if refused else f"has {int(n_rows)} rows, this one {target.numel()}"
            raise ValueError(f"group: the process of rank {other} {reason}")
    sizes = [int(size) for _, size, _, _ in everyone]
    rank = dist.get_rank(group)
    shard = _Shard(
        group,
        rank,
        sum(sizes[:rank]),
        sum(sizes),
        max(1, _BLOCK_SIZE // max(1, *sizes)),
        options.temperature,
        options.label_smoothing,
        options.z_loss,
        sum(total for _, _, _, total in everyone),
    )
    if weight is not None and shard.weight_sum == 0.0:
        raise ValueError("weight is all zeros; at least one class must have a positive weight")
    labels = target.reshape(-1).long()
    ignored = labels == ignore_index
    outside = ((labels < 0) | (labels >= shard.n_classes)) & ~ignored
    if bool(outside.any()):
        first = int(outside.nonzero()[0])
        raise IndexError(
            f"target.flatten()[{first}] is {int(labels[first])}; labels lie in [0, {shard.n_classes}) "
            f"or equal {ignore_index=}"
        )
    labels = torch.where(ignored, -1, labels)
    rows = x.reshape(labels.shape[0], x.shape[-1])
    losses, label_weights = _Losses.apply(rows, linear_weight, linear_bias, labels, weight, shard)
    if options.reduction == "none":
        return losses.to(x.dtype).reshape(target.shape)
    total = losses.sum()
    if options.reduction == "mean":
        count = label_weights.sum()
        nothing = count == 0.0  # the mean is NaN then, but no gradient is: none of the rows is read
        total = torch.where(nothing, torch.nan, total / torch.where(nothing, 1.0, count))
    return total.to(x.dtype)


class _Losses(torch.autograd.Function):
    """The losses of all rows, and the weights of their labels: float64, the same in every process."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        linear_weight: Tensor | None,
        linear_bias: Tensor | None,
        labels: Tensor,
        weight: Tensor | None,
        shard: _Shard,
    ) -> tuple[Tensor, Tensor]:
        parts = []
        for block in _blocks(len(x), shard):
            logits = _logits(x[block], linear_weight, linear_bias, labels[block])
            parts.append(_block_losses(logits, labels[block], weight, shard))
        losses = torch.cat([losses for losses, _ in parts])
        statistics = _Statistics(*(torch.cat(column) for column in zip(*(known for _, known in parts), strict=True)))
        ctx.shard = shard
        ctx.save_for_backward(x, linear_weight, linear_bias, labels, weight, *statistics)
        ctx.mark_non_differentiable(statistics.label_weight)
        return losses, statistics.label_weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, linear_weight, linear_bias, labels, weight, *saved = ctx.saved_tensors
        shard, statistics = ctx.shard, _Statistics(*saved)

        def residuals_of(block: slice) -> Tensor:
            logits = _logits(x[block], linear_weight, linear_bias, labels[block])
            known = _Statistics(*(column[block] for column in statistics))
            return upstream[block, None] * _residuals(logits, labels[block], weight, known, shard)

        if linear_weight is None:
            of_logits = torch.empty_like(x)
            for block in _blocks(len(x), shard):
                of_logits[block] = residuals_of(block)
            return of_logits, *[None] * 5
        wide = torch.promote_types(linear_weight.dtype, torch.float32)
        of_x = torch.empty(x.shape, dtype=wide, device=x.device)
        of_weight = torch.zeros(linear_weight.shape, dtype=wide, device=x.device)
        of_bias = torch.zeros(len(linear_weight), dtype=torch.float64, device=x.device)
        for block in _blocks(len(x), shard):
            residuals = residuals_of(block)
            of_bias += residuals.sum(0)
            residuals = residuals.to(wide)
            of_x[block] = residuals @ linear_weight.to(wide)
            of_weight += residuals.T @ _cleared(x[block], labels[block]).to(wide)
        if ctx.needs_input_grad[0]:
            dist.all_reduce(of_x, group=shard.group)
        bias = None if linear_bias is None else of_bias.to(linear_bias.dtype)
        return of_x.to(x.dtype), of_weight.to(linear_weight.dtype), bias, *[None] * 3


def _blocks(n_rows: int, shard: _Shard) -> list[slice]:
    """Return the blocks of rows, at least one, which are the same in every process."""
    return [slice(at, min(at + shard.block, n_rows)) for at in range(0, max(1, n_rows), shard.block)]


def _block_losses(logits: Tensor, labels: Tensor, weight: Tensor | None, shard: _Shard) -> tuple[Tensor, _Statistics]:
    """Return the losses of a block of rows, and what their gradients need; two exchanges."""
    nothing = torch.full(logits.shape[:1], -torch.inf, dtype=torch.float64, device=logits.device)
    everyone = _gathered(logits.amax(1) if logits.shape[1] else nothing, shard.group)
    maximum, owner = everyone.max(0).values, everyone.argmax(0)  # the first of equal ones
    maximum = torch.where(maximum.isfinite(), maximum, torch.nan)
    known = _Statistics(maximum, nothing, nothing, owner == shard.rank)
    d, e = _exponentials(logits, known, shard)
    local = labels - shard.offset
    mine = (local >= 0) & (local < logits.shape[1])
    at = torch.where(mine, local, 0)[:, None]
    at_label = torch.zeros_like(maximum) if not logits.shape[1] else d.gather(1, at)[:, 0]
    weights = torch.ones(logits.shape[1:], dtype=d.dtype, device=d.device) if weight is None else weight.double()
    label_weight = torch.zeros_like(maximum) if not logits.shape[1] else weights[at[:, 0]]
    columns = [e.sum(1), torch.where(mine, at_label, 0.0), torch.where(mine, label_weight, 0.0)]
    if shard.label_smoothing:
        columns.append(torch.where(weights == 0.0, 0.0, weights * d).sum(1))
    sums = torch.stack(columns)
    dist.all_reduce(sums, group=shard.group)
    rest, at_label, label_weight = sums[:3]
    log_sum = rest.log1p()
    losses = (1.0 - shard.label_smoothing) * label_weight * (log_sum - at_label)
    losses = torch.where(label_weight == 0.0, 0.0 * rest, losses)  # an infinite loss of weight zero counts nothing
    if shard.label_smoothing:
        losses = losses + shard.label_smoothing / shard.n_classes * (shard.weight_sum * log_sum - sums[3])
    if shard.z_loss:
        losses = losses + shard.z_loss * (maximum / shard.temperature + log_sum) ** 2
    return torch.where(labels < 0, 0.0, losses), known._replace(rest=rest, label_weight=label_weight)


def _residuals(logits: Tensor, labels: Tensor, weight: Tensor | None, known: _Statistics, shard: _Shard) -> Tensor:
    """Return the gradients of the losses of a block of rows with respect to this shard's logits; no exchange."""
    _, e = _exponentials(logits, known, shard)
    rest, smoothing = known.rest[:, None], shard.label_smoothing
    top = _top(logits, known)
    p = torch.where(top, 1.0, e) / (1.0 + rest)
    weights = torch.ones(logits.shape[1:], dtype=p.dtype, device=p.device) if weight is None else weight.double()
    on_label = (1.0 - smoothing) * known.label_weight[:, None]
    hit = labels[:, None] - shard.offset == torch.arange(logits.shape[1], device=logits.device)
    spread = smoothing / max(1, shard.n_classes)
    mass = on_label + spread * shard.weight_sum
    wanted = torch.where(hit, on_label, 0.0) + spread * weights
    # At the top p may be so close to 1 that mass p - wanted cancels; mass - wanted - mass (1 - p) does not.
    surplus = torch.where(hit, 0.0, on_label) + spread * (shard.weight_sum - weights)
    residuals = torch.where(top & (p > 0.5), surplus - mass * (rest / (1.0 + rest)), mass * p - wanted)
    if shard.z_loss:
        lse = (known.maximum / shard.temperature)[:, None] + rest.log1p()
        residuals = residuals + 2.0 * shard.z_loss * lse * p
    return torch.where(labels[:, None] < 0, 0.0, residuals / shard.temperature)


def _exponentials(logits: Tensor, known: _Statistics, shard: _Shard) -> tuple[Tensor, Tensor]:
    """Return (x - maximum) / temperature, and its exponential but at the top."""
    d = (logits - known.maximum[:, None]) / shard.temperature
    return d, torch.where(_top(logits, known), 0.0, d.exp())


def _top(logits: Tensor, known: _Statistics) -> Tensor:
    """Return True at the first maximum of every row whose maximum lies in this shard."""
    if not logits.shape[1]:
        return torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    classes = torch.arange(logits.shape[1], device=logits.device)
    return (logits.argmax(1)[:, None] == classes) & known.owned[:, None]


def _logits(x: Tensor, linear_weight: Tensor | None, linear_bias: Tensor | None, labels: Tensor) -> Tensor:
    """Return this shard's logits of a block of rows in float64, zeros where a row is ignored."""
    rows = _cleared(x, labels)
    if linear_weight is not None:
        wide = torch.promote_types(linear_weight.dtype, torch.float32)
        rows = rows.to(wide) @ linear_weight.to(wide).T
        rows = rows if linear_bias is None else rows + linear_bias.to(wide)
    return rows.double()


def _cleared(rows: Tensor, labels: Tensor) -> Tensor:
    """Return rows with zeros in place of those that are not read."""
    return torch.where(labels[:, None] < 0, torch.zeros((), dtype=rows.dtype, device=rows.device), rows)


def _gathered(tensor: Tensor, group: Any) -> Tensor:
    """Return the tensors of all processes, in the order of their ranks."""
    everyone = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, tensor, group=group)
    return torch.stack(everyone)


def _what_is_wrong(
    x: Tensor, linear_weight: Tensor | None, linear_bias: Tensor | None, target: Tensor, weight: Tensor | None
) -> Exception | None:
    """Return the error that this process's arguments deserve."""
    if target.is_floating_point() or target.is_complex():
        return TypeError(f"target has dtype {target.dtype}; classes must be integers")
    if not x.is_floating_point():
        return TypeError(f"input has dtype {x.dtype}; accepted are floating dtypes")
    if x.dim() == 0 or target.shape != x.shape[:-1]:
        return ValueError(
            f"target has shape {tuple(target.shape)}; with input of shape {tuple(x.shape)} it must have that of the "
            f"rows, {tuple(x.shape[:-1])}"
        )
    if linear_weight is not None:
        try:
            bias = None if linear_bias is None else tuple(linear_bias.shape)
            _checks.linear_shapes(tuple(x.shape), tuple(linear_weight.shape), bias)
        except ValueError as error:
            return error
    n_classes = x.shape[-1] if linear_weight is None else linear_weight.shape[0]
    if weight is not None:
        if tuple(weight.shape) != (n_classes,):
            return ValueError(f"weight has shape {tuple(weight.shape)}; of this shard's classes it is ({n_classes},)")
        if not bool((weight.isfinite() & (weight >= 0)).all()):
            return ValueError("weight: weights must be finite and not negative")
    return None
