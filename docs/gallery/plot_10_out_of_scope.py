r"""
Out of scope: to know what one was not taught
=============================================

An assistant knows its intents: "book a flight", "what is my balance". People also ask for what is none of
them. Softmax sums to 1 over the known classes whatever it is asked, so that a strange question still gets
an answer. Can it be told by the logits?

The usual data for this, CLINC150 with its 150 intents and its out-of-scope questions, do not come
with this project. This page asks the same of data that do: a classifier of the digits 0 to 6, which
then meets a 7, 8 or 9. On sentence embeddings of CLINC150 itself the log-sum-exp of the logits tells
out-of-scope questions with an area under the curve of 0.97, by ``benchmarks/calibration.py``.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score, roc_curve

import softhead

X, y = load_digits(return_X_y=True)
X = X / 16
known = y < 7
order = np.random.default_rng(0).permutation(np.flatnonzero(known))
train, test, strange = order[:700], order[700:], np.flatnonzero(~known)
model = softhead.SoftmaxClassifier(C=10).fit(X[train], y[train])
logits, odd = model.decision_function(X[test]), model.decision_function(X[strange])

# %%
# It never says "none of these"
# -----------------------------
#
# Every strange image gets seven probabilities that sum to 1, and quite a few get a high one.

p_known, p_odd = softhead.softmax(logits), softhead.softmax(odd)
np.testing.assert_allclose(p_odd.sum(axis=1), 1)
sure = np.argsort(-p_odd.max(axis=1))[:5]
assert p_odd[sure].max(axis=1).min() > 0.8

fig, axes = plt.subplots(1, 5, figsize=(7.5, 1.9))
for ax, i in zip(axes, sure, strict=True):
    ax.imshow(X[strange[i]].reshape(8, 8), cmap="gray_r")
    ax.set_title(f"a {y[strange[i]]}; says {p_odd[i].argmax()},\np = {p_odd[i].max():.2f}")
    ax.set_axis_off()

# %%
# Three scores
# ------------
#
# - 1 - max p: the classifier is unsure.
# - - max z: no class has a large logit. Softmax forgets this, since it forgets a common constant.
# - the energy, -log sum exp z: the same with a soft maximum, so that all classes count.
#
# Each is set against the truth by the area under its ROC curve: the chance that a strange image
# scores higher than a known one. A score that tells nothing has 0.5.

truth = np.repeat([0, 1], [len(test), len(strange)])
both = np.concatenate([logits, odd])
scores = {
    "1 - max p": softhead.out_of_scope_score(both, method="max_probability"),
    "- max z": softhead.out_of_scope_score(both, method="max_logit"),
    "energy": softhead.out_of_scope_score(both, method="energy"),
}
np.testing.assert_allclose(scores["1 - max p"], 1 - softhead.softmax(both).max(axis=1), atol=1e-15)
np.testing.assert_allclose(scores["energy"], -softhead.logsumexp(both))
areas = {name: roc_auc_score(truth, score) for name, score in scores.items()}
assert min(areas.values()) > 0.8

fig, axes = plt.subplots(1, 4, figsize=(7.5, 2.5), width_ratios=[1, 1, 1, 1.2])
for ax, (name, score) in zip(axes, scores.items(), strict=False):
    bins = np.linspace(score.min(), score.max(), 25)
    ax.hist(score[truth == 0], bins, density=True, alpha=0.6, label="known")
    ax.hist(score[truth == 1], bins, density=True, alpha=0.6, label="strange")
    ax.set(title=name, yticks=[])
axes[0].legend()
for name, score in scores.items():
    false, true, _ = roc_curve(truth, score)
    axes[3].plot(false, true, linewidth=1.5, label=f"{name}: {areas[name]:.2f}")
axes[3].plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle=":")
axes[3].set(title="found, over false alarms", xticks=[0, 1], yticks=[0, 1])
axes[3].legend(loc="lower right", fontsize="small")

# %%
# A threshold for use
# -------------------
#
# Choose it on known rows alone, here so that 5 of 100 are turned away: what is strange is not known
# beforehand. How many of the strange are caught then is what one finds out.

for name, score in scores.items():
    threshold = np.quantile(score[truth == 0], 0.95)
    caught = (score[truth == 1] > threshold).mean()
    print(f"{name:10} area {areas[name]:.3f}, catches {caught:.2f} of the strange for 0.05 false alarms")
    assert abs((score[truth == 0] > threshold).mean() - 0.05) < 0.01
    assert caught > 0.2
