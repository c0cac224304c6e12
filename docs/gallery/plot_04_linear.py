r"""
The loss of a linear classifier, and its gradient
=================================================

The simplest classifier of images has one matrix of weights W: every pixel votes for every class.
This page computes its loss and gradient with two loops, without any, and in one call; descends it
by hand; and compares where that leads with the optimum.
"""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import softhead

X, y = load_digits(return_X_y=True)
X = np.column_stack([X / 16, np.ones(len(y))])  # a column of ones, whose weights are the intercepts
N, C = len(y), 10

# %%
# Two loops
# ---------
#
# For image i the scores are :math:`f = x_i W`, and with m their maximum
#
# .. math:: L_i = -\log \frac{e^{f_{y_i} - m}}{\sum_j e^{f_j - m}}, \qquad
#           L = \frac{1}{N} \sum_i L_i + \frac{\lambda}{2} \sum W^2, \qquad
#           \frac{\partial L}{\partial W} = -\frac{1}{N} X^\top (\text{keep} - \text{prob}) + \lambda W,
#
# where keep is 1 at the true class. The penalty is :math:`\frac{\lambda}{2} \sum W^2`; its gradient
# is :math:`\lambda W`.


def two_loops(W, reg):
    loss, dW = 0.0, np.zeros_like(W)
    for i in range(N):
        f = X[i] @ W
        f -= f.max()
        prob = np.exp(f) / np.exp(f).sum()
        loss -= np.log(prob[y[i]])
        for j in range(C):
            keep = 1.0 if j == y[i] else 0.0
            dW[:, j] -= (keep - prob[j]) * X[i]
    return loss / N + reg / 2 * (W**2).sum(), dW / N + reg * W


# %%
# No loop
# -------
#
# The same with whole matrices: the row maxima are subtracted by broadcasting.


def no_loop(W, reg):
    f = X @ W
    f -= f.max(axis=1, keepdims=True)
    prob = np.exp(f)
    prob /= prob.sum(axis=1, keepdims=True)
    loss = -np.log(prob[np.arange(N), y]).mean()
    prob[np.arange(N), y] -= 1
    return loss + reg / 2 * (W**2).sum(), X.T @ prob / N + reg * W


# %%
# One call
# --------
#
# ``linear_cross_entropy_value_and_grad`` takes W as classes x features. It works on blocks of rows,
# so that the table of all scores is never there at once.


def one_call(W, reg):
    loss, gradients = softhead.linear_cross_entropy_value_and_grad(X, W.T, y, l2=reg)
    return loss, gradients.linear_weight.T


W = 0.1 * np.random.default_rng(0).standard_normal((X.shape[1], C))
loss, gradient = two_loops(W, 0.01)
for function in (no_loop, one_call):
    other_loss, other_gradient = function(W, 0.01)
    np.testing.assert_allclose(other_loss, loss, rtol=1e-13)
    np.testing.assert_allclose(other_gradient, gradient, rtol=1e-10, atol=1e-14)

# %%
# Before any training
# -------------------
#
# With W = 0 all ten classes are equally likely, and the loss is :math:`-\log 0.1 = 2.30`. A program
# whose first loss is another number has a mistake in it: this is the cheapest test there is. From
# there, follow the gradient.

W = np.zeros_like(W)
start, _ = one_call(W, 0.0)
np.testing.assert_allclose(start, -np.log(0.1), rtol=1e-14)

reg = 1e-3
losses = []
for _ in range(200):
    loss, gradient = one_call(W, reg)
    losses.append(loss)
    W -= 1.0 * gradient

# %%
# Where does this lead, and how far is it still? ``SoftmaxClassifier`` finds the optimum and a bound
# on what is left. Its C is :math:`1 / (\lambda N)`. It does not penalise the intercepts, so to pose
# the very same problem the column of ones stays a feature, and the intercept is switched off.

model = softhead.SoftmaxClassifier(C=1 / (reg * N), fit_intercept=False, tol=1e-8).fit(X, y)
optimum = model.objective_
assert model.gap_ <= 1e-8 * optimum
assert all(later < earlier for earlier, later in pairwise(losses))
assert optimum < losses[-1] < 1.2 * optimum

fig, (left, right) = plt.subplots(1, 2)
left.plot(losses)
left.axhline(-np.log(0.1), color="0.6", linestyle=":")
left.text(80, 2.2, "untrained: $-\\log\\,0.1$", color="0.4", va="top")
left.axhline(optimum, color="C1", linestyle="--", linewidth=1.2, label="optimum, certified")
left.set(title="gradient descent", xlabel="step", ylabel="loss", ylim=(0, 2.4))
left.legend(loc="center right")
right.plot(np.array(losses) - optimum)
right.axhline(model.gap_, color="C1", linestyle="--", linewidth=1.2)
right.text(60, 1.6 * model.gap_, f"SoftmaxClassifier, {model.n_iter_[0]} iterations", color="C1")
right.set(title="distance to the optimum", xlabel="step", yscale="log")

# %%
# The weights are pictures
# ------------------------
#
# Column c of W has one number for each pixel: red where ink speaks for the class, blue where it
# speaks against.

templates = model.coef_[:, :-1].reshape(C, 8, 8)
limit = np.abs(templates).max()
fig, axes = plt.subplots(2, 5, figsize=(7.5, 3.2))
for c, ax in enumerate(axes.flat):
    ax.imshow(templates[c], cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.set_title(c)
    ax.set_axis_off()
