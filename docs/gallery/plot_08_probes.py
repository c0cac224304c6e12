r"""
Linear probes: 96 penalties at once
===================================

How good are the features of a large model? One trains a linear classifier on them: a linear probe.
Its one free choice is the penalty, and the protocol of CLIP tries 96 of them, chooses on a
validation set, and fits once more. Here that is one call, and every fit has a certificate.

The embeddings on this page are made up, so that it can be built anywhere. Their spectrum falls off
like those of real ones, which is what makes such fits slow. With real embeddings, only the first
cell changes; figures on real data are in the README.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import PredefinedSplit

import softhead

rng = np.random.default_rng(0)
classes, width, rows = 10, 48, 1200
scale = np.arange(1, width + 1) ** -0.7  # the standard deviation of the k-th direction
rotation = np.linalg.qr(rng.standard_normal((width, width)))[0]
centres = 0.5 * rng.standard_normal((classes, width))
y = rng.integers(0, classes, rows)
X = np.float32((centres[y] + rng.standard_normal((rows, width))) * scale @ rotation)
train, validation, test = np.split(rng.permutation(rows), [600, 900])

# %%
# The protocol
# ------------
#
# Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021,
# appendix A.3: 96 penalties, evenly spaced in their logarithm from 1e-6 to 1e6. ``PredefinedSplit``
# marks by -1 what is trained on; the chosen penalty is fitted to training and validation rows.

both = np.concatenate([train, validation])
split = PredefinedSplit(np.repeat([-1, 0], [len(train), len(validation)]))
Cs = np.geomspace(1e-6, 1e6, 96)
probe = softhead.SoftmaxClassifierCV(Cs, cv=split, scoring="accuracy").fit(X[both], y[both])

scores = probe.scores_[0, 0]
assert probe.scores_.shape == (1, 1, 96)
assert scores[np.flatnonzero(Cs == probe.C_)[0]] == scores.max()
certified = probe.statuses_[0, 0] == "converged"
assert certified.all()
assert probe.gap_ <= 1e-4 * probe.objective_
print(f"chosen C = {probe.C_:.3g}: accuracy {scores.max():.3f} on the validation rows")
print(f"refitted: {probe.best_estimator_.score(X[test], y[test]):.3f} on the test rows")

softhead.RegularizationPathDisplay.from_estimator(probe)

# %%
# What a certificate is worth
# ---------------------------
#
# A fit that stops early looks like a stronger penalty: accuracies then depend on the solver's
# patience, and curves of different features cannot be compared. Here the distance to the optimum is
# bounded at every point, at 1e-4 of the objective or better.

fig, (left, right) = plt.subplots(1, 2)
left.plot(Cs, probe.gaps_[0, 0], ".")
left.axhline(1e-4, color="C1", linestyle="--", linewidth=1.2)
left.text(2e-4, 8e-5, "asked for", color="C1", va="top")
left.set(xscale="log", yscale="log", xlabel="C", title="certified relative distance to the optimum")
right.plot(Cs, probe.n_iter_[0, 0], ".")
right.set(xscale="log", xlabel="C", title="iterations, each fit from its neighbours")
assert probe.gaps_.max() <= 1e-4

# %%
# The whole path, for a choice of one's own
# -----------------------------------------
#
# ``softmax_path`` gives the probes themselves. With it, one may choose by the log loss, which looks
# at the probabilities. Beyond its best penalty the number of errors hardly changes, but the probe
# grows too sure of what it says, and pays for it.

path = softhead.softmax_path(X[train], y[train], Cs=Cs[::3])
loss, error = [], []
for k in range(len(path.Cs)):
    logits = path.classifier(k).decision_function(X[validation])
    loss.append(float(softhead.cross_entropy(logits, y[validation])))
    error.append((logits.argmax(axis=1) != y[validation]).mean())
assert path.coefs.shape == (32, classes, width)
assert loss[-1] > 1.5 * min(loss)
assert error[-1] < min(error) + 0.03

fig, (left, right) = plt.subplots(1, 2)
left.plot(path.Cs, loss)
left.plot(path.Cs[np.argmin(loss)], min(loss), "o", color="C1")
left.set(xscale="log", xlabel="C", title="log loss on the validation rows")
right.plot(path.Cs, error)
right.plot(path.Cs[np.argmin(error)], min(error), "o", color="C1")
right.set(xscale="log", xlabel="C", title="errors on the validation rows")
