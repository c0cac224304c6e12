r"""
Temperature, distillation, attention
====================================

Softmax of [1, 2, 8] is [0.001, 0.002, 0.997]: very sharp. A temperature T > 0 sets how sharp:

.. math:: p = \operatorname{softmax}(z / T)

This page draws its limits, and two places where it earns its keep: a small model that learns from a
large one, and attention.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier

import softhead

# %%
# From the hard maximum to the uniform distribution
# -------------------------------------------------
#
# Above 1 it flattens, towards 1/3 for each of three classes; below 1 it sharpens, towards the hard
# maximum. The order of the classes stays. The entropy grows all the way.

z = np.array([1.0, 2.0, 8.0])
T = np.geomspace(0.05, 1000, 200)
p = np.stack([softhead.softmax(z, temperature=t) for t in T])

np.testing.assert_array_equal(softhead.softmax(z).round(3), [0.001, 0.002, 0.997])
np.testing.assert_allclose(p[0], softhead.hardmax(z), atol=1e-50)
np.testing.assert_allclose(p[-1], 1 / 3, atol=0.002)
assert (p.argsort(axis=1) == [0, 1, 2]).all()
entropy = softhead.entropy(z / T[:, None])
assert (np.diff(entropy) >= 0).all()
assert entropy[-1] < np.log(3)

fig, (left, right) = plt.subplots(1, 2)
left.plot(T, p, label=["logit 1", "logit 2", "logit 8"])
left.axhline(1 / 3, color="0.6", linestyle=":", linewidth=1)
left.axvline(1, color="0.6", linestyle=":", linewidth=1)
left.set(xscale="log", xlabel="temperature", title="softmax of [1, 2, 8]")
left.legend()
right.plot(T, entropy, color="C4")
right.axhline(np.log(3), color="0.6", linestyle=":", linewidth=1)
right.text(0.05, np.log(3) - 0.02, "log 3", va="top")
right.set(xscale="log", xlabel="temperature", title="entropy")

# %%
# Distillation: what a wrong answer knows
# ---------------------------------------
#
# A large model that sees a seven also says that it looks a little like a three and not at all like a
# six. A label does not say that. So let a small model learn from the large one's probabilities,
# softened by a temperature so that the small ones count.
#
# The teacher: 200 trees, trained on 900 images. The student: a linear model that sees 40 images.

X, y = load_digits(return_X_y=True)
X = X / 16
order = np.random.default_rng(0).permutation(len(y))
train, pool, test = np.split(order, [900, 1300])
teacher = ExtraTreesClassifier(200, random_state=0).fit(X[train], y[train])
teacher_logits = np.log(np.clip(teacher.predict_proba(X), 1e-3, 1))

seven = pool[y[pool] == 7][4]
assert teacher_logits[seven].argmax() == 7
assert teacher_logits[seven, 3] > teacher_logits[seven, 6] + 1
fig, axes = plt.subplots(1, 4, figsize=(7.5, 2.4), width_ratios=[0.8, 1, 1, 1])
axes[0].imshow(X[seven].reshape(8, 8), cmap="gray_r")
axes[0].set_axis_off()
axes[1].bar(range(10), np.eye(10)[7])
axes[1].set_title("the label")
for ax, temperature in zip(axes[2:], (1, 2), strict=True):
    ax.bar(range(10), softhead.softmax(teacher_logits[seven], temperature=temperature))
    ax.set_title(f"the teacher, T = {temperature}")
for ax in axes[1:]:
    ax.set(ylim=(0, 1), xticks=range(0, 10), yticks=[0, 0.5, 1])

# %%
# ``fit_proba`` trains on distributions. Six draws of 40 images, four of each digit; a student each is trained on their
# labels, and once on the teacher's probabilities at each temperature.

temperatures = [0.5, 1.0, 2.0, 4.0, 8.0]
rng = np.random.default_rng(1)
by_label, by_teacher = [], []
for _ in range(6):
    rows = np.concatenate([rng.choice(pool[y[pool] == c], 4, replace=False) for c in range(10)])
    student = softhead.SoftmaxClassifier(C=10).fit(X[rows], y[rows])
    by_label.append(student.score(X[test], y[test]))
    by_teacher.append([])
    for temperature in temperatures:
        q = softhead.softmax(teacher_logits[rows], temperature=temperature)
        student = softhead.SoftmaxClassifier(C=10).fit_proba(X[rows], q, classes=np.arange(10))
        by_teacher[-1].append(student.score(X[test], y[test]))

best = teacher.score(X[test], y[test])
gain = np.array(by_teacher)[:, 2] - by_label
print("gain at T = 2, draw by draw:", gain.round(3))
assert gain.mean() > 0.03  # at T = 2
assert best > 0.95

fig, ax = plt.subplots()
ax.axhline(best, color="C2", linestyle="--", label="the teacher")
ax.errorbar(
    temperatures, np.mean(by_teacher, axis=0), np.std(by_teacher, axis=0), fmt="o-", label="taught by it", capsize=3
)
mean, spread = np.mean(by_label), np.std(by_label)
ax.axhspan(mean - spread, mean + spread, color="C1", alpha=0.2)
ax.axhline(mean, color="C1", label="taught by labels")
ax.set(xscale="log", xlabel="temperature of the teacher", ylabel="accuracy of the student", ylim=(0.8, 1))
ax.set_xticks(temperatures, temperatures)
ax.minorticks_off()
ax.legend(loc="lower right", bbox_to_anchor=(1, 0.72), ncols=3)

# %%
# For students trained by gradients of their own there is ``distillation_loss``,
#
# .. math:: T^2 \, \mathrm{KL}\bigl(\operatorname{softmax}(z_\text{teacher} / T) \Vert
#           \operatorname{softmax}(z_\text{student} / T)\bigr).
#
# Its gradient by a logit is :math:`T (p - q)`, and softened p and q lie closer together by about
# 1 / T: with the factor T squared it keeps its size when T changes.

student_logits = student.decision_function(X[test])
for temperature in (2.0, 20.0):
    q = softhead.softmax(teacher_logits[test], temperature=temperature)
    kl = softhead.kl_divergence(student_logits, q, temperature=temperature)
    loss = softhead.distillation_loss(student_logits, teacher_logits[test], temperature=temperature)
    np.testing.assert_allclose(loss, temperature**2 * kl, rtol=1e-10)
    gradient = temperature * (softhead.softmax(student_logits, temperature=temperature) - q)
    print(f"T = {temperature:4}: KL {kl:.5f}, times T squared {loss:.3f}, gradient {np.abs(gradient).mean():.3f}")

# %%
# Attention: a softmax over places
# --------------------------------
#
# A query looks at keys, and takes the mean of their values, weighted by
# :math:`\operatorname{softmax}(q \cdot k / \sqrt d)`: a temperature of :math:`\sqrt d`. It is there
# because the dot product of two random vectors of d numbers has the standard deviation
# :math:`\sqrt d`: without it, long vectors would always attend to one place only. What a query must
# not see, such as the future, is left out by ``where``.

rng = np.random.default_rng(2)
widths = [4, 16, 64, 256, 1024]
sharpness = []
for d in widths:
    queries, keys = rng.standard_normal((2, 200, d))
    scores = queries @ keys.T
    plain, tempered = softhead.softmax(scores), softhead.softmax(scores, temperature=np.sqrt(d))
    np.testing.assert_allclose(tempered, softhead.softmax(scores / np.sqrt(d)), rtol=1e-10)
    sharpness.append([plain.max(axis=1).mean(), tempered.max(axis=1).mean()])
sharpness = np.array(sharpness)
assert sharpness[-1, 0] > 0.9
assert sharpness[:, 1].max() < 0.2

past = np.tri(12, dtype=bool)
queries, keys, values = rng.standard_normal((3, 12, 16))
weights = softhead.softmax(queries @ keys.T, temperature=4.0, where=past)
assert (weights[~past] == 0).all()
np.testing.assert_allclose(weights.sum(axis=1), 1)
np.testing.assert_array_equal((weights @ values)[0], values[0])  # the first place sees itself alone

fig, (left, right) = plt.subplots(1, 2, width_ratios=[1.3, 1])
left.plot(widths, sharpness, "o-", label=["T = 1", "$T = \\sqrt{d}$"])
left.set(xscale="log", xlabel="numbers in a key, d", title="largest weight among 200 places", ylim=(0, 1))
left.legend()
right.imshow(weights)
right.set(title="causal attention", xlabel="key", ylabel="query")
