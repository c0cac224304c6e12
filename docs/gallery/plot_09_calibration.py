r"""
Calibration: when 0.9 means nine in ten
=======================================

A classifier that says 0.9 should be right nine times in ten. Many are not: too weak a penalty, or too
few rows, and they are sure of too much. One number mends most of it, a temperature, fitted on rows
that the model has not seen.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import softhead

# %%
# Too sure
# --------
#
# 300 noisy images, and hardly any penalty. The model is right on three of four new images, and believes
# that it is right on nine of ten.

X, y = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
X = X / 16 + 0.3 * rng.standard_normal(X.shape)
order = rng.permutation(len(y))
train, test = order[:300], order[300:]
model = softhead.SoftmaxClassifier(C=1000).fit(X[train], y[train])

before = model.predict_proba(X[test])
accuracy, believed = (before.argmax(axis=1) == y[test]).mean(), before.max(axis=1).mean()
print(f"right: {accuracy:.3f}; on average sure by {believed:.3f}")
assert believed > accuracy + 0.1

# %%
# One temperature, from rows that were not trained on
# ---------------------------------------------------
#
# ``calibrate`` fits copies of the model to four fifths of the rows, lets each say its logits for the
# fifth left out, and finds the temperature under which these have the least log loss. No row is
# set aside for good, and none judges a model that has seen it.

calibrated = softhead.calibrate(softhead.SoftmaxClassifier(C=1000), X[train], y[train])
T = calibrated.temperature_
after = calibrated.predict_proba(X[test])

assert T > 1.5
assert (after.argmax(axis=1) == before.argmax(axis=1)).all()  # no prediction changes
np.testing.assert_allclose(after, softhead.softmax(model.decision_function(X[test]), temperature=T), atol=1e-4)

errors = {name: softhead.calibration_error(p, y[test]) for name, p in (("before", before), ("after", after))}
for name, p in (("before", before), ("after", after)):
    loss = softhead.log_loss(np.log(p), y[test])
    print(f"{name:6}: calibration error {errors[name].value:.3f}, log loss {loss.value:.3f}")
assert errors["after"].value < errors["before"].value / 2

# %%
# The diagram shows, for each bin of the probability that a prediction was given, how often it was right.
# Below the diagonal the model is too sure. The bars are Wilson's 95 % intervals: the bins in
# the middle hold few images, and say little.

fig, axes = plt.subplots(1, 2, figsize=(7.5, 3.6), sharey=True)
for ax, (name, p) in zip(axes, (("before", before), (f"after, T = {T:.2f}", after)), strict=True):
    softhead.ReliabilityDisplay.from_predictions(y[test], p, n_bins=10, ax=ax)
    ax.set_title(name)

# %%
# The loss over the temperature
# -----------------------------
#
# In :math:`\beta = 1 / T` the log loss is convex: it has one minimum, and Newton's method finds it to
# the last digits. ``TemperatureScaler`` does that for logits from anywhere. Set beside it: the
# temperature that would have been best on the test images.

logits = model.decision_function(X[test])
scaler = softhead.TemperatureScaler().fit(logits, y[test])
temperatures = np.geomspace(0.3, 30, 200)
curve = np.array([softhead.cross_entropy(logits, y[test], temperature=t) for t in temperatures])

assert scaler.status_ == "converged"
lowest = softhead.cross_entropy(logits, y[test], temperature=scaler.temperature_)
assert lowest <= curve.min()
for t in (0.999, 1.001):
    assert softhead.cross_entropy(logits, y[test], temperature=t * scaler.temperature_) > lowest

fig, ax = plt.subplots()
ax.plot(temperatures, curve)
for x, name, colour in (
    (1.0, "as trained", "C1"),
    (T, "from folds", "C0"),
    (scaler.temperature_, "best on test", "C2"),
):
    loss = float(softhead.cross_entropy(logits, y[test], temperature=x))
    ax.plot(x, loss, "o", color=colour, label=f"{name}: T = {x:.2f}, loss {loss:.3f}")
ax.set(xscale="log", xlabel="temperature", ylabel="log loss on test", ylim=(0, 3))
ax.legend(loc="upper right")

# %%
# To abstain
# ----------
#
# What are honest probabilities for? To know when not to answer. Sorted by the probability of the
# prediction, the surest half of the images is answered with half the mistakes or fewer.

risk = softhead.risk_coverage(after, y[test])
np.testing.assert_allclose(risk.risk[-1], 1 - accuracy)
half = risk.risk[np.searchsorted(risk.coverage, 0.5)]
assert half < 0.5 * (1 - accuracy)
print(f"errors: {risk.risk[-1]:.3f} when all are answered, {half:.3f} on the surest half")

fig, ax = plt.subplots()
ax.plot(risk.coverage, risk.risk, drawstyle="steps-post")
ax.set(xlabel="share of images that are answered", ylabel="share of these that are wrong")
