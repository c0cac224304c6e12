r"""
Numerics: how wrong is softmax?
===============================

Softmax in floating point is never quite right. How wrong may it be? This page measures errors in units in
the last place (ulp): 1 ulp is the distance between two neighbouring floating-point numbers. The best
that any method can promise is 0.5. The tables against PyTorch and JAX, and the bounds, are on the
page about numerics.
"""

import matplotlib.pyplot as plt
import numpy as np
import scipy.special

import softhead


def naive(x):
    e = np.exp(x)
    return e / e.sum(axis=-1, keepdims=True)


def shifted(x):
    return naive(x - x.max(axis=-1, keepdims=True))


def ulp(computed, exact):  # results in float32, exact ones in float64
    return np.abs(computed - exact) / np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)


def scipy_softmax(x):
    return scipy.special.softmax(x, axis=-1)


methods = {"exp / sum": naive, "shifted": shifted, "SciPy": scipy_softmax, "softhead": softhead.softmax}
styles = dict(zip(methods, [("C3", "o"), ("C2", "s"), ("C1", "^"), ("C0", "o")], strict=True))

# %%
# Gaps between the logits
# -----------------------
#
# The shift x - max x is rounded. That error is small beside the gap, but an exponential turns an
# *absolute* error of its argument into a *relative* one of its result: the larger the gap, the more last
# places are wrong. (The formula without a shift does not have this error, while it does not overflow.)
# SciPy's is the shifted formula: the two lines lie on each other. softhead keeps the rounding error of the
# subtraction and puts it in at the end.

rng = np.random.default_rng(0)
gaps = np.geomspace(0.5, 80, 16)
worst = {name: [] for name in methods}
for gap in gaps:
    x = np.float32(rng.uniform(-gap, 0, (2000, 10)) + rng.uniform(-5, 5, (2000, 1)))
    exact = softhead.softmax(x.astype(np.float64))
    normal = exact > 1.2e-38  # beside subnormal numbers the last place is coarser
    for name, method in methods.items():
        worst[name].append(ulp(method(x), exact)[normal].max())
assert max(worst["softhead"]) < 2
assert min(worst["shifted"][-1], worst["SciPy"][-1]) > 20

# %%
# Long rows
# ---------
#
# A sum of a million float32 numbers collects a rounding error with each addition, and every probability
# of the row is divided by it. NumPy adds in pairs, which helps; the other errors stay.

lengths = [10, 100, 1000, 10_000, 100_000, 1_000_000]
long = {name: [] for name in methods}
for length in lengths:
    x = np.float32(3 * rng.standard_normal((max(1, 20_000 // length), length)))
    exact = softhead.softmax(x.astype(np.float64))
    for name, method in methods.items():
        long[name].append(ulp(method(x), exact).max())
assert max(long["softhead"]) < 2

fig, (left, right) = plt.subplots(1, 2)
for name, (colour, marker) in styles.items():
    left.plot(gaps, worst[name], marker + "-", color=colour, markersize=3, linewidth=1.2, label=name)
    right.plot(lengths, long[name], marker + "-", color=colour, markersize=3, linewidth=1.2)
for ax in (left, right):
    ax.axhline(2, color="0.6", linestyle=":", linewidth=1)
    ax.set(xscale="log", yscale="log", ylim=(0.4, 300))
left.set(xlabel="range of the logits", ylabel="worst error, ulp", title="ten classes")
right.set(xlabel="classes", title="logits of standard deviation 3")
left.legend()

# %%
# The tail of a confident model
# -----------------------------
#
# A model that is sure has a loss near 0, and a gradient :math:`p - 1` near 0. Computed as written, both
# become exactly 0 when p rounds to 1, in float32 already at a gap of 17: nothing is left to learn
# from. With rest the sum of all exponentials but the largest,
#
# .. math:: \text{loss} = \operatorname{log1p}(\text{rest}), \qquad
#           p - 1 = \frac{-\text{rest}}{1 + \text{rest}}
#
# keep all digits, down to the smallest numbers there are.

gap = np.float32(np.linspace(1, 80, 159))
z = np.column_stack([gap, np.zeros_like(gap)])
losses, gradients = softhead.cross_entropy_value_and_grad(z, np.zeros(159, int), reduction="none")
p = shifted(z)[:, 0]
with np.errstate(divide="ignore"):
    as_written = {"loss": -np.log(p), "gradient": 1 - p}
rest = np.exp(-gap.astype(np.float64))
exact = {"loss": np.log1p(rest), "gradient": rest / (1 + rest)}
own = {"loss": losses, "gradient": -gradients[:, 0]}

for name in exact:
    assert ulp(own[name], exact[name]).max() < 4
    assert (as_written[name][gap > 20] == 0).all()

fig, axes = plt.subplots(1, 2)
for ax, name in zip(axes, exact, strict=True):
    ax.plot(gap, own[name], label="softhead")
    seen = as_written[name] > 0
    ax.plot(gap[seen], as_written[name][seen], ".", color="C1", markersize=4, label="as written")
    ax.axvspan(gap[~seen][0], 80, color="C1", alpha=0.2)
    ax.text(40, 1e-3, "exactly 0 as written", color="C1")
    ax.set(yscale="log", xlabel="gap", title=f"{name} of the true class, float32")
axes[0].legend(loc="lower left")

# %%
# The same row, the same bits
# ---------------------------
#
# A row's result depends on the row alone: not on its neighbours, nor on the number of threads. And an offset
# that float32 can hold exactly changes no bit.

x = np.float32(rng.standard_normal((5000, 100)))
p = softhead.softmax(x)
np.testing.assert_array_equal(softhead.softmax(x[1234]), p[1234])
np.testing.assert_array_equal(softhead.softmax(x[::-7]), p[::-7])
with softhead.num_threads(1):
    np.testing.assert_array_equal(softhead.softmax(x), p)
eights = np.float32(8 * rng.integers(-10, 10, (100, 10)))
np.testing.assert_array_equal(softhead.softmax(eights + np.float32(1e8)), softhead.softmax(eights))
