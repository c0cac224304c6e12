r"""
Softmax and its Jacobian
========================

A classifier ends in one number per class, the *logits* :math:`z`. Softmax makes probabilities of
them:

.. math:: p_i = \frac{e^{z_i}}{\sum_j e^{z_j}}

This page draws it, draws its matrix of derivatives, and shows what a small probability does to a
gradient that passes through softmax.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import softhead

# %%
# Ten outputs for a handwritten digit
# -----------------------------------
#
# A linear classifier of digits gives ten logits for an image. They are hard to compare: they have
# no unit, and a constant may be added to all of them. Their softmax is positive, sums to 1, keeps
# their order, and does not see the constant. The largest output is the prediction.

X, y = load_digits(return_X_y=True)
X = X / 16
model = softhead.SoftmaxClassifier(C=0.1).fit(X[:1000], y[:1000])

row = 1003
logits = model.decision_function(X[row : row + 1])[0]
p = softhead.softmax(logits)

assert (p > 0).all()
assert abs(p.sum() - 1) < 1e-15
assert (np.argsort(p) == np.argsort(logits)).all()
np.testing.assert_allclose(softhead.softmax(logits + 100), p, rtol=1e-12)
assert model.predict(X[row : row + 1])[0] == p.argmax() == y[row]

fig, (image, before, after) = plt.subplots(1, 3, width_ratios=[1, 1.6, 1.6])
image.imshow(X[row].reshape(8, 8), cmap="gray_r")
image.set_title(f"a {y[row]}")
image.set_axis_off()
colours = ["C1" if c == p.argmax() else "C0" for c in range(10)]
before.bar(range(10), logits, color=colours)
before.axhline(0, color="0.4", linewidth=0.8)
before.set(title="logits", xlabel="class", xticks=range(10))
after.bar(range(10), p, color=colours)
after.set(title="softmax(logits)", xlabel="class", xticks=range(10), ylim=(0, 1))

# %%
# Why it is called soft
# ---------------------
#
# Softmax of [1, 2, 3] is [0.09, 0.24, 0.67]. When the last logit grows to 5, its class takes nearly
# all the mass: a maximum, but a soft one. The hard maximum would jump from 0 to 1 where the last
# logit passes the others, and be flat everywhere else.

last = np.linspace(-2, 7, 300)
z = np.column_stack([np.full(300, 1.0), np.full(300, 2.0), last])
soft, hard = softhead.softmax(z), softhead.hardmax(z)

np.testing.assert_array_equal(softhead.softmax([1, 2, 3]).round(2), [0.09, 0.24, 0.67])
np.testing.assert_array_equal(softhead.softmax([1, 2, 5]).round(3), [0.017, 0.047, 0.936])

fig, ax = plt.subplots()
for c, name in enumerate(["logit 1", "logit 2", "the last"]):
    ax.plot(last, soft[:, c], color=f"C{c}", label=name)
ax.plot(last, hard[:, 2], color="C2", linestyle=":", label="the last, hard maximum")
for x, place in ((3, (3.4, 0.55)), (5, (5.1, 0.8))):
    value = softhead.softmax([1, 2, x])[2]
    ax.plot(x, value, "o", color="C2")
    ax.annotate(f"{value:.2f}", (x, value), place)
ax.set(xlabel="the last logit", ylabel="probability", title="softmax of [1, 2, z]")
ax.legend()

# %%
# The Jacobian
# ------------
#
# Every output depends on every logit:
#
# .. math:: \frac{\partial p_i}{\partial z_j} = \begin{cases} p_i (1 - p_i) & i = j \\
#           -p_i p_j & i \neq j \end{cases}
#
# or :math:`\operatorname{diag}(p) - p p^\top`. The matrix is symmetric, and its rows sum to 0,
# because raising all logits alike changes nothing. Here are the ten outputs of a digit that the
# classifier is unsure of, and of one that it is sure of.

P = model.predict_proba(X)
unsure, sure = P.max(axis=1).argmin(), P.max(axis=1).argmax()
J = softhead.softmax_jacobian(P[[unsure, sure]])

np.testing.assert_allclose(J, J.transpose(0, 2, 1))
np.testing.assert_allclose(J.sum(axis=2), 0, atol=1e-16)
q = P[unsure]
np.testing.assert_allclose(J[0], np.diag(q) - np.outer(q, q), atol=1e-16)
step = 1e-5 * np.eye(10)  # central differences of softmax itself
around = np.log(q) + step, np.log(q) - step
differences = (softhead.softmax(around[0]) - softhead.softmax(around[1])) / 2e-5
np.testing.assert_allclose(J[0], differences, atol=1e-10)

fig, axes = plt.subplots(1, 2, figsize=(7.5, 3.4))
for ax, matrix, i, name in zip(axes, J, (unsure, sure), ("unsure", "sure"), strict=True):
    picture = ax.imshow(matrix, cmap="RdBu_r", vmin=-0.25, vmax=0.25)
    ax.set(title=f"{name}: max p = {P[i].max():.3f}", xlabel="logit j", ylabel="output i")
    ax.set(xticks=range(10), yticks=range(10))
fig.colorbar(picture, ax=axes, label="$\\partial p_i / \\partial z_j$", shrink=0.9)

# %%
# The picture on the right is not blank by mistake. A classifier that is sure of its answer has
# almost no derivative left.
#
# Small p, small gradient
# -----------------------
#
# No entry of row i is larger than :math:`p_i`. A gradient that comes back through softmax is
# multiplied by it: a class at probability 1e-6 hears a millionth of what is said. That is why
# softmax is not followed by a squared distance. The cross-entropy divides by p first, and the two
# factors cancel: what is left is p - y.

truth = 0  # the logit of the true class falls from 4 to -14
z = np.column_stack([np.linspace(4, -14, 200), np.zeros((200, 2))])
p = softhead.softmax(z)
y_true = np.eye(3)[truth]
squared = softhead.softmax_vjp(p, 2 * (p - y_true))[:, truth]
_, entropic = softhead.cross_entropy_value_and_grad(z, np.full(200, truth), reduction="sum")

bound = np.minimum(p[:, :, None], p[:, None, :])
assert (np.abs(softhead.softmax_jacobian(p)) <= bound).all()
np.testing.assert_allclose(entropic, p - y_true, atol=1e-15)
assert abs(squared[-1]) < 3 * p[-1, truth] < 2e-6  # a mistake beyond doubt, and nothing to learn
assert entropic[-1, truth] < -0.999

fig, ax = plt.subplots()
ax.plot(p[:, truth], -entropic[:, truth], label="cross-entropy: $1 - p$")
ax.plot(p[:, truth], -squared, label="squared distance")
ax.set(xscale="log", xlabel="probability of the true class", ylabel="pull on its logit")
ax.set_title("what a mistake teaches")
ax.legend()
