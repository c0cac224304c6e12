r"""
From maximum likelihood to the cross-entropy
============================================

Why is the loss of a classifier :math:`-\log p`? Because it is what maximum likelihood leads to. Four
steps show it for a bag of balls; then the same quantity gets its other names, and is set beside the
squared error.
"""

import matplotlib.pyplot as plt
import numpy as np

import softhead

# %%
# Ten balls, six of them white
# ----------------------------
#
# A bag holds white and black balls. Ten are drawn, each put back: six are white. What is the
# probability p of white?
#
# 1. **Likelihood.** The probability of what was seen is :math:`L(p) = p^6 (1 - p)^4`.
# 2. **Logarithm.** A product becomes a sum: :math:`\log L = 6 \log p + 4 \log (1 - p)`. The logarithm
#    grows with its argument, so the maximum stays where it is.
# 3. **Derivative.** :math:`\frac{6}{p} - \frac{4}{1 - p}`.
# 4. **Equation.** It is 0 where :math:`6 (1 - p) = 4 p`: at p = 0.6, the share of white balls.

p = np.linspace(0.001, 0.999, 999)
likelihood = p**6 * (1 - p) ** 4
log_likelihood = 6 * np.log(p) + 4 * np.log1p(-p)
slope = 6 / p - 4 / (1 - p)

assert p[likelihood.argmax()] == p[log_likelihood.argmax()]
np.testing.assert_allclose(p[likelihood.argmax()], 0.6)
np.testing.assert_allclose(slope[likelihood.argmax()], 0, atol=1e-11)
np.testing.assert_allclose(np.gradient(log_likelihood, p)[300:700], slope[300:700], atol=1e-3)

fig, axes = plt.subplots(1, 3, figsize=(7.5, 2.8))
for ax, (name, curve) in zip(
    axes,
    {"1. likelihood": likelihood, "2. its logarithm": log_likelihood, "3. its derivative": slope}.items(),
    strict=True,
):
    ax.plot(p, curve)
    ax.axvline(0.6, color="C1", linewidth=1, linestyle="--")
    ax.set(title=name, xlabel="p", xticks=[0, 0.6, 1])
axes[1].set_ylim(-25, -5)
axes[2].axhline(0, color="0.4", linewidth=0.8)
axes[2].set_ylim(-60, 60)
axes[2].annotate("4. zero at 0.6", (0.6, 0), (0.25, 30), arrowprops={"arrowstyle": "->"})

# %%
# The same, per ball and with a minus, is the binary cross-entropy
# ----------------------------------------------------------------
#
# Divided by the number of balls and negated, the log-likelihood is a mean loss:
# :math:`-\frac{1}{10} \log L = -[0.6 \log p + 0.4 \log (1 - p)]`. A model states p by a logit,
# :math:`x = \log \frac{p}{1 - p}`.

white = np.repeat([1, 0], [6, 4])
logits = np.log(p) - np.log1p(-p)
loss = np.array([softhead.binary_cross_entropy_with_logits(np.full(10, x), white) for x in logits])
np.testing.assert_allclose(loss, -log_likelihood / 10, rtol=1e-12)

# For any number of classes it is the cross-entropy of what is seen, q, with what is said, p.
two = softhead.cross_entropy(np.column_stack([np.zeros(999), logits]), np.tile([0.4, 0.6], (999, 1)), reduction="none")
np.testing.assert_allclose(two, loss, rtol=1e-12)

# %%
# Cross-entropy, entropy, divergence
# ----------------------------------
#
# .. math:: \underbrace{-\sum_i q_i \log p_i}_{\text{cross-entropy}} =
#           \underbrace{-\sum_i q_i \log q_i}_{\text{entropy of } q} +
#           \underbrace{\sum_i q_i \log \frac{q_i}{p_i}}_{\mathrm{KL}(q \Vert p)}
#
# The entropy is what the balls themselves cost: no model says less. The divergence is what the
# model adds, and is 0 only where it is right. Between equal distributions it is the divergence that
# is 0, not the cross-entropy. Minimising the one minimises the other: they differ by a constant.

q = np.array([0.4, 0.6])
entropy = softhead.entropy(np.log(q))
divergence = softhead.kl_divergence(np.column_stack([np.log1p(-p), np.log(p)]), np.tile(q, (999, 1)), reduction="none")
np.testing.assert_allclose(loss, entropy + divergence, rtol=1e-12)
assert softhead.kl_divergence(np.log(q), q) < 1e-16
np.testing.assert_allclose(softhead.cross_entropy(np.log(q), q), entropy)
assert entropy > 0.67

fig, ax = plt.subplots()
ax.fill_between(p, 0, entropy, color="C0", alpha=0.25, label="entropy of the balls")
ax.fill_between(p, entropy, loss, color="C1", alpha=0.3, label="divergence of the model")
ax.plot(p, loss, color="0.2", label="cross-entropy")
ax.axvline(0.6, color="C1", linewidth=1, linestyle="--")
ax.set(xlabel="p, what the model says of white", ylabel="nats a ball", ylim=(0, 2.2), xlim=(0, 1))
ax.legend(loc="upper center")

# %%
# One true class of five
# ----------------------
#
# Where one class is true, q is 1 there and 0 elsewhere, and the sum has one term:
# :math:`-\log p_\text{true}`. The fourth class is true; three models say what they think. The worse
# the mistake, the more it costs. Smoothed labels, 1 - s + s / C for the true class and s / C for
# the others, ask for less certainty, and cost the entropy of q even when they are met.

said = np.array([[0.1, 0.15, 0.05, 0.6, 0.1], [0.05, 0.15, 0.4, 0.3, 0.1], [0.15, 0.2, 0.4, 0.1, 0.15]])
losses = softhead.cross_entropy(np.log(said), [3, 3, 3], reduction="none")
np.testing.assert_allclose(losses, -np.log([0.6, 0.3, 0.1]))
smoothed = softhead.cross_entropy(np.log(said), [3, 3, 3], label_smoothing=0.1, reduction="none")
np.testing.assert_allclose(smoothed, 0.9 * losses - 0.02 * np.log(said).sum(axis=1))

fig, axes = plt.subplots(1, 3, figsize=(7.5, 2.6), sharey=True)
for ax, row, one in zip(axes, said, losses, strict=True):
    ax.bar(range(1, 6), row, color=["C0", "C0", "C0", "C1", "C0"])
    ax.set(title=f"costs {one:.2f}", xlabel="class", xticks=range(1, 6))
axes[0].set_ylabel("probability")

# %%
# Backwards, in two steps
# -----------------------
#
# With a = softmax(z) and any targets y, the loss :math:`-\sum_j y_j \log a_j` is a number, so its
# derivative by a is a vector: :math:`-y_j / a_j`, with a minus. Times the Jacobian of softmax it is
#
# .. math:: \frac{\partial L}{\partial z_i} = a_i \sum_j y_j - y_i,
#
# and a - y where y sums to 1: two steps that each divide or multiply by tiny numbers become a
# difference. Forwards the same pair is a log-softmax and the loss of log-probabilities. Logits are
# such log-probabilities themselves, but for a constant: hence their name.

z, y = np.array([0.5, -1.0, 2.0]), np.array([0.5, 0.0, 1.5])  # targets need not sum to 1
a = softhead.softmax(z)
by_a = -y / a
by_z = softhead.softmax_vjp(a, by_a)
loss_of_z, gradient = softhead.cross_entropy_value_and_grad(z, y)

np.testing.assert_allclose(by_z, a * y.sum() - y, atol=1e-15)
np.testing.assert_allclose(gradient, by_z, atol=1e-15)
np.testing.assert_allclose(softhead.nll_loss(softhead.log_softmax(z), y), loss_of_z)
np.testing.assert_allclose(z - softhead.logsumexp(z), np.log(a))

# %%
# Not a squared distance
# ----------------------
#
# Squared error also is smallest where p = q. As a loss after softmax it is another thing:
#
# - it is bounded, by 2, while -log p grows without limit: a confident mistake costs what it should;
# - its slope fades where it is needed most, since softmax multiplies by p, and -1 / p undoes that;
# - it looks at how the other classes share the rest, about which the label says nothing.

z = np.linspace(-10, 10, 401)  # the logit of the true class, beside one other at 0
rows = np.column_stack([z, np.zeros(401)])
probability = softhead.softmax(rows)
entropic, entropic_slope = softhead.cross_entropy_value_and_grad(rows, np.zeros(401, int), reduction="none")
residual = probability - [1.0, 0.0]
squared = (residual**2).sum(axis=1)
squared_slope = softhead.softmax_vjp(probability, 2 * residual)[:, 0]

assert squared.max() < 2
assert entropic[0] > 10
assert abs(entropic_slope[0, 0] + 1) < 1e-4
assert abs(squared_slope[0]) < 2e-4
np.testing.assert_allclose(entropic_slope[:, 0], probability[:, 0] - 1, atol=1e-15)
np.testing.assert_allclose(np.gradient(squared, z)[5:-5], squared_slope[5:-5], atol=1e-3)

fig, (left, right) = plt.subplots(1, 2)
left.plot(z, entropic, label="cross-entropy")
left.plot(z, squared, label="squared error")
left.set(title="loss", xlabel="logit of the true class")
left.legend()
right.plot(z, entropic_slope[:, 0])
right.plot(z, squared_slope)
right.set(title="slope", xlabel="logit of the true class")
