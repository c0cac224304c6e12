r"""
Hard choices: Gumbel-softmax and ARSM
=====================================

Sometimes a model must choose: one action, one token, one branch. A choice has no useful gradient.
This page draws why, and measures the ways around it by their bias and their variance.
"""

from itertools import product

import matplotlib.pyplot as plt
import numpy as np

import softhead

# %%
# The hard maximum teaches one entry, or none
# -------------------------------------------
#
# The derivative of max(z) is 1 at the chosen entry and 0 at all others. That of its one-hot answer,
# ``hardmax``, is 0 everywhere it exists: a staircase. The soft maximum, ``logsumexp``, hands a share
# to every entry, and the shares are the probabilities.

z = np.array([1.0, 2.0, 5.0, 4.0])
step = 1e-6 * np.eye(4)


def slope(f):
    return (f(z + step) - f(z - step)) / 2e-6


np.testing.assert_allclose(slope(lambda x: x.max(axis=-1)), softhead.hardmax(z), atol=1e-8)
np.testing.assert_allclose(slope(softhead.logsumexp), softhead.softmax(z), atol=1e-8)
np.testing.assert_array_equal(slope(softhead.hardmax), 0.0)

moved = np.linspace(-3, 3, 301)
pair = np.column_stack([moved, np.zeros(301)])
fig, (left, right) = plt.subplots(1, 2)
left.plot(moved, softhead.hardmax(pair)[:, 0], color="C1", label="hardmax")
for temperature, shade in ((0.1, 1.0), (0.5, 0.7), (1.0, 0.4)):
    p = softhead.softmax(pair, temperature=temperature)[:, 0]
    left.plot(moved, p, color="C0", alpha=shade, label=f"softmax, T = {temperature}")
left.set(title="a choice between z and 0", xlabel="z")
left.legend()
names = [f"{v:g}" for v in z]
right.bar(np.arange(4) - 0.2, softhead.hardmax(z), 0.4, color="C1", label="of max")
right.bar(np.arange(4) + 0.2, softhead.softmax(z), 0.4, color="C0", label="of logsumexp")
right.set(title="derivatives", xlabel="logit", xticks=range(4), xticklabels=names)
right.legend(loc="upper left")

# %%
# Gumbel-softmax: a choice that bends
# -----------------------------------
#
# Add Gumbel noise to the logits, and the position of the largest is a sample of the softmax. Replace
# that position by a softmax at temperature T, and the sample has a derivative. Each point below is
# one sample for three classes; a corner is a pure choice. As T falls, samples move into the corners.

logits = np.log([0.6, 0.3, 0.1])
corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
fig, axes = plt.subplots(1, 4, figsize=(7.5, 2.2))
mass = []
for ax, temperature in zip(axes, (5.0, 1.0, 0.3, 0.05), strict=True):
    samples = softhead.gumbel_softmax(np.tile(logits, (20_000, 1)), temperature=temperature, rng=0)
    share = np.bincount(samples.argmax(axis=1), minlength=3) / 20_000
    np.testing.assert_allclose(share, [0.6, 0.3, 0.1], atol=0.01)  # at any temperature
    mass.append((samples.max(axis=1) > 0.99).mean())
    x, y = (samples[:1500] @ corners).T
    ax.scatter(x, y, s=3, alpha=0.25, linewidth=0, color="C0")
    ax.plot(*corners[[0, 1, 2, 0]].T, color="0.5", linewidth=0.8)
    ax.set_title(f"T = {temperature:g}")
    ax.set_aspect("equal")
    ax.set_axis_off()
assert mass == sorted(mass)
assert mass[-1] > 0.8

# %%
# A problem whose answer is known
# -------------------------------
#
# Three variables choose among four classes each; f rewards the three choices together. There are 64
# outcomes, so the gradient of :math:`E[f]` by the twelve logits can be summed exactly, and every
# estimator can be held against it.

rng = np.random.default_rng(0)
V, C = 3, 4
worth = rng.standard_normal((V, C))
logits = rng.standard_normal((V, C))
p = softhead.softmax(logits)


def f(classes):
    return (worth[np.arange(V), classes].sum() - 1.0) ** 2


def relaxed(y):  # the same function of one-hot rows, and of what lies between them
    total = (worth * y).sum() - 1.0
    return total**2, 2 * total * worth


exact = np.zeros((V, C))
for outcome in product(range(C), repeat=V):
    chance = p[np.arange(V), outcome].prod()
    exact += chance * f(np.array(outcome)) * (np.eye(C)[list(outcome)] - p)

# %%
# The estimators:
#
# - **REINFORCE** draws z once: :math:`f(z) (\text{onehot}(z) - p)`. No bias, and f may be anything.
# - **REINFORCE, 6 draws** is the mean of six, as many calls of f as ARSM makes here.
# - **with a baseline**: from each of the six values, the mean of the other five is taken away.
# - **ARSM** draws one random vector for each variable, swaps its entries in pairs, and merges what f
#   says of the swapped choices. No bias either.
# - **Gumbel-softmax** sends the derivative of f through one bent sample: one call, but f must be
#   differentiable, also between the choices, and the gradient is that of another problem: biased.
# - **Straight-through** takes the derivative of f at the hard choice, and goes on from there with
#   that of the bent one.


def reinforce(f, draws, baseline=False):
    z = (rng.random((draws, V, 1)) > p.cumsum(axis=1)[:, :-1]).sum(axis=2)
    values = np.array([f(one) for one in z])
    if baseline:
        values = values - (values.sum() - values) / (draws - 1)
    return np.mean(values[:, None, None] * (np.eye(C)[z] - p), axis=0)


def gumbel(temperature, hard=False):
    seed = int(rng.integers(2**31))
    y = softhead.gumbel_softmax(logits, temperature=temperature, rng=seed)
    at = softhead.gumbel_softmax(logits, temperature=temperature, rng=seed, hard=True) if hard else y
    return softhead.softmax_vjp(y, relaxed(at)[1], temperature=temperature)


def shifted(classes):  # the same gradient, and five more everywhere
    return f(classes) + 5


N = 2000


def measure(estimate):
    estimates = np.stack([estimate() for _ in range(N)])
    variance = estimates.var(axis=0).sum()
    chance = np.sqrt(variance / N)  # what the bias would look like if there were none
    return np.linalg.norm(estimates.mean(axis=0) - exact), chance, variance


calls = []
softhead.arsm_gradient(lambda z: calls.append(1) or f(z), logits, rng=0)
assert len(calls) <= C * (C - 1) // 2 + 1

results = {
    "REINFORCE": measure(lambda: reinforce(f, 1)),
    "REINFORCE, 6 draws": measure(lambda: reinforce(f, 6)),
    "  with a baseline": measure(lambda: reinforce(f, 6, baseline=True)),
    "ARSM": measure(lambda: softhead.arsm_gradient(f, logits, rng=rng)),
    "Gumbel, T = 2": measure(lambda: gumbel(2.0)),
    "Gumbel, T = 0.5": measure(lambda: gumbel(0.5)),
    "Gumbel, T = 0.1": measure(lambda: gumbel(0.1)),
    "straight-through, T = 0.5": measure(lambda: gumbel(0.5, hard=True)),
}
of_shifted = {
    "REINFORCE": measure(lambda: reinforce(shifted, 1)),
    "REINFORCE, 6 draws": measure(lambda: reinforce(shifted, 6)),
    "  with a baseline": measure(lambda: reinforce(shifted, 6, baseline=True)),
    "ARSM": measure(lambda: softhead.arsm_gradient(shifted, logits, rng=rng)),
}
for name, (bias, chance, variance) in results.items():
    print(f"{name:26} bias {bias:.3f}, by chance {chance:.3f}   variance {variance:6.2f}")

for name, (bias, chance, _) in of_shifted.items():
    assert bias < 4 * chance
    assert results[name][0] < 4 * results[name][1]
assert results["ARSM"][2] < results["REINFORCE"][2] / 2
assert of_shifted["ARSM"][2] < of_shifted["REINFORCE, 6 draws"][2] / 2
np.testing.assert_allclose(of_shifted["ARSM"][2], results["ARSM"][2], rtol=0.2)
assert results["Gumbel, T = 2"][0] > 10 * results["Gumbel, T = 2"][1]
assert results["Gumbel, T = 2"][2] < results["Gumbel, T = 0.5"][2] < results["Gumbel, T = 0.1"][2]

# %%
# Cooling Gumbel-softmax trades bias for variance. ARSM needs no such bargain, and it does not see a
# constant in f, which ruins plain REINFORCE: the pale bars are those of f + 5. It is not the last
# word: on this problem REINFORCE with a baseline varies less, on as many calls of f (W. Kool, H. van
# Hoof and M. Welling, "Buy 4 REINFORCE samples, get a baseline for free!", 2019).

fig, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(7.5, 3.6))
names = list(results)[::-1]
colours = ["C0" if "T =" in name else "C2" if name == "ARSM" else "C1" for name in names]
shifted_variance = [of_shifted[name][2] if name in of_shifted else np.nan for name in names]
left.barh(names, shifted_variance, color=colours, alpha=0.3)
left.barh(names, [results[name][2] for name in names], color=colours, height=0.5)
left.set(xscale="log", title="variance")
right.barh(names, [results[name][0] for name in names], color=colours, height=0.5)
chances = [results[name][1] for name in names]
right.plot(chances, names, "|", color="k", markersize=14, markeredgewidth=1.5, label="chance alone")
right.set_title("bias")
right.legend()
