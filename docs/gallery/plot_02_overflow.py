r"""
Why exp(x) / sum(exp(x)) fails
==============================

The formula of softmax, typed as it stands, is right on paper and wrong in a computer. This page
shows where it breaks and what mends it, and why dividing the logits by their size first is no cure.
"""

import matplotlib.pyplot as plt
import numpy as np

import softhead


def naive(x):
    e = np.exp(x)
    return e / e.sum(axis=-1, keepdims=True)


# %%
# Exponentials leave the range of numbers
# ---------------------------------------
#
# The largest number in float32 is 3.4e38, so ``exp(89)`` is infinite; in float64 that happens at
# 710, in float16 at 12. Infinity divided by infinity is not a number. Far below zero it is no
# better: all exponentials round to 0, and 0 / 0 is not a number either. Yet adding a constant to all
# logits should change nothing. Here the same three logits, 0, 1 and 2, are moved along.

offsets = np.arange(-900.0, 900.0, 0.5)
exact = softhead.softmax([0.0, 1.0, 2.0])


def error(function, dtype):
    x = (offsets[:, None] + [0.0, 1.0, 2.0]).astype(dtype)
    with np.errstate(all="ignore"):
        p = function(x).astype(np.float64)
    return np.abs(p / exact - 1).max(axis=1).reshape(-1, 10).max(axis=1)  # the worst of ten offsets


with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
    assert np.isnan(naive(np.array([1000.0, 1001.0]))).all()
    assert np.isnan(naive(np.array([-1000.0, -1001.0]))).all()
    assert np.isnan(naive(np.float32([89.0, 90.0]))).all()

np.testing.assert_array_equal(softhead.softmax([1000.0, 1001.0]), softhead.softmax([0.0, 1.0]))
assert error(softhead.softmax, np.float64).max() < 1e-15
assert error(softhead.softmax, np.float32).max() < 1e-6

fig, axes = plt.subplots(2, 1, figsize=(7.5, 3.8), sharex=True)
for ax, dtype in zip(axes, (np.float32, np.float64), strict=True):
    of_naive, of_softhead = error(naive, dtype), error(softhead.softmax, dtype)
    failed = np.isnan(of_naive)
    ax.fill_between(offsets[5::10], 1e-19, 1e2, where=failed, color="C1", alpha=0.25, linewidth=0)
    ax.plot(offsets[5::10], np.maximum(of_naive, 1e-17), color="C1", label="as it stands")
    ax.plot(offsets[5::10], np.maximum(of_softhead, 1e-17), color="C0", label="softhead")
    ax.set(yscale="log", ylim=(1e-19, 1e2), ylabel="relative error", title=dtype.__name__)
    ax.text(-895, 3e-3, "not a\nnumber", color="C1", va="center")
axes[0].legend(loc="lower left", bbox_to_anchor=(0, 0.97), ncols=2)
axes[1].set_xlabel("constant added to the logits 0, 1, 2")

# %%
# The cure: subtract the maximum
# ------------------------------
#
# A factor above and below the fraction bar cancels, and a factor :math:`e^D` only adds D to the
# exponents. With :math:`D = -\max z` the largest exponential is :math:`e^0 = 1`: nothing overflows,
# and the sum is at least 1, so nothing is divided by 0.

z = np.array([700.0, 710.0, 720.0])
for D in (-z.max(), -715.0, -700.0):
    np.testing.assert_allclose(naive(z + D), softhead.softmax(z), rtol=1e-14)

# %%
# The logarithm needs a cure of its own
# -------------------------------------
#
# A loss takes the logarithm of a probability. One that has rounded to 0 gives minus infinity, and
# where its target is 0, the product 0 * -inf is not a number. One that has rounded to 1 gives a loss
# of exactly 0, and with it a gradient of exactly 0: the model stops learning from that row. Taken
# as one formula, :math:`\log p_i = z_i - m - \log \sum_j e^{z_j - m}`, neither happens.

gap = np.linspace(0, 1200, 601)
z = np.column_stack([gap, np.zeros_like(gap)])
p = naive(z - z.max(axis=1, keepdims=True))  # shifted, and still not enough
with np.errstate(divide="ignore"):
    wrong, sure = -np.log(p[:, 1]), -np.log(p[:, 0])
own_wrong = softhead.cross_entropy(z, np.ones(601, int), reduction="none")
own_sure = softhead.cross_entropy(z, np.zeros(601, int), reduction="none")

assert wrong[-1] == np.inf
np.testing.assert_allclose(own_wrong, gap + np.exp(-gap), rtol=1e-12, atol=0.7)
assert own_wrong[-1] == 1200.0
at_40 = gap == 40
assert sure[at_40] == 0.0
np.testing.assert_allclose(own_sure[at_40], np.exp(-40.0), rtol=1e-12)

fig, (left, right) = plt.subplots(1, 2)
finite = np.isfinite(wrong)
left.plot(gap, own_wrong, label="softhead")
left.plot(gap[finite], wrong[finite], "--", color="C1", label="log of a shifted softmax")
left.axvspan(gap[~finite][0], 1200, color="C1", alpha=0.2)
left.text(820, 250, "infinite", color="C1")
left.set(title="loss of a confident mistake", xlabel="gap between the logits", ylabel="loss")
left.legend()
show = (gap > 0) & (gap <= 60)
right.plot(gap[show], own_sure[show], label="softhead")
kept = show & (sure > 0)
right.plot(gap[kept], sure[kept], "--", color="C1")
right.axvspan(gap[show & (sure == 0)][0], 60, color="C1", alpha=0.2)
right.text(40, 1e-3, "exactly 0", color="C1")
right.set(title="loss of a confident hit", xlabel="gap between the logits", yscale="log")

# %%
# Scaling is no cure
# ------------------
#
# Four normalisations are often named in one breath with softmax. They scale the data:
#
# ========= ================================================
# L1        z / sum of abs(z)
# L2        z / square root of the sum of z squared
# max       z / max abs(z)
# z-score   (z - mean) / standard deviation
# ========= ================================================
#
# A linear one cannot widen gaps. In [1, 2, 3] the last is 1.5 times the second, in [1, 2, 5] it is
# 2.5 times: so it stays after L1, L2 and max. Softmax turns a *difference* into a ratio:
# :math:`p_i / p_j = e^{z_i - z_j}`, here 2.7 and 20.

a, b = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 5.0])
maps = {norm: lambda x, norm=norm: softhead.normalize(x, norm=norm) for norm in ("l1", "l2", "max", "zscore")}
maps["softmax"] = softhead.softmax

for norm in ("l1", "l2", "max"):
    for x in (a, b):
        scaled = maps[norm](x)
        np.testing.assert_allclose(scaled[2] / scaled[1], x[2] / x[1])
        np.testing.assert_allclose(scaled[1] / scaled[0], 2)
for x in (a, b):
    p = softhead.softmax(x)
    np.testing.assert_allclose(p[2] / p[1], np.exp(x[2] - x[1]))

fig, axes = plt.subplots(1, 5, figsize=(7.5, 2.6))
for ax, (name, function) in zip(axes, maps.items(), strict=True):
    ax.bar(np.arange(3) - 0.2, function(a), 0.4, label="[1, 2, 3]")
    ax.bar(np.arange(3) + 0.2, function(b), 0.4, label="[1, 2, 5]")
    ax.axhline(0, color="0.4", linewidth=0.8)
    ax.set(title=name, xticks=range(3))
axes[0].legend(loc="upper left", fontsize="small", handlelength=1)
axes[0].set_ylim(0, 0.9)

# %%
# They also forget the unit. Logits of [10, 20, 30] are ten times as sure as [1, 2, 3], and the scaled
# ones cannot tell: softmax after scaling answers another question. And they do not protect from
# overflow for certain. The z-score of one class among 600,000 is 775, whose exponential is infinite;
# dividing by the maximum, if it is negative, turns the order round.

assert softhead.softmax(10 * a).max() > 0.9999
for norm in ("l1", "l2", "max", "zscore"):
    np.testing.assert_allclose(maps[norm](10 * a), maps[norm](a))
one = np.zeros(600_000)
one[0] = 1.0
score = softhead.normalize(one, norm="zscore")
with np.errstate(over="ignore"):
    assert np.exp(score[0]) == np.inf
assert softhead.softmax(score)[0] == 1.0
negative = np.array([-1.0, -2.0])
assert (negative / negative.max()).argmax() != negative.argmax()
assert softhead.normalize(negative, norm="max").argmax() == negative.argmax()
