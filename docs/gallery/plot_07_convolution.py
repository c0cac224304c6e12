r"""
Convolution features into the head
==================================

In a convolutional network softmax comes last: filters make feature maps, the maps are flattened to
one row of numbers for each image, a matrix W makes logits of it, and softmax probabilities. This
page builds that in NumPy, with filters drawn at random, and trains the head alone.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import softhead

# %%
# From an image to 7 x 7 x 64
# ---------------------------
#
# Images of digits are 8 x 8, here with an empty row and column added. A filter of 3 x 3 pixels has
# 7 x 7 places in one; 64 filters make 64 maps. Negative responses are cut off, which is what makes
# the features more than a linear map of the pixels.

images, y = load_digits(return_X_y=True)
images = np.float32(images / 16).reshape(-1, 8, 8)
rng = np.random.default_rng(0)
filters = rng.standard_normal((64, 3, 3)).astype(np.float32)
offsets = rng.uniform(-1, 1, 64).astype(np.float32)


def convolve(images):
    padded = np.pad(images, ((0, 0), (0, 1), (0, 1)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.maximum(np.einsum("nijab,kab->nijk", patches, filters, optimize=True) + offsets, 0)


maps = convolve(images)
assert maps.shape == (1797, 7, 7, 64)

row = 5
fig, axes = plt.subplots(2, 6, figsize=(7.5, 2.7))
axes[0, 0].imshow(images[row], cmap="gray_r")
axes[0, 0].set_title("image")
axes[1, 0].set_title("five filters,\nand their maps", y=0.4)
shown = np.argsort(-maps[row].std(axis=(0, 1)))[:40:8]
for k, column in zip(shown, axes.T[1:], strict=True):
    column[0].imshow(filters[k], cmap="RdBu_r", vmin=-2, vmax=2)
    column[1].imshow(maps[row, :, :, k])
for ax in axes.flat:
    ax.set_axis_off()

# %%
# Flattened to 3136
# -----------------
#
# Flattening gives each image a row of 7 * 7 * 64 = 3136 numbers. W holds one such row for each
# class: T x N in the notation of T classes and N features. The logits are W x + b, and prob is their
# softmax. There are three times as many features as images to train on; the penalty is what makes
# the optimum a single one.

flat = maps.reshape(len(maps), -1)
train, test = np.split(rng.permutation(len(y)), [1000])
pixels = images.reshape(len(images), -1)
head = softhead.SoftmaxClassifier(C=0.03, tol=1e-3).fit(flat[train], y[train])
plain = softhead.SoftmaxClassifier().fit(pixels[train], y[train])

assert flat.shape == (1797, 3136)
assert head.coef_.shape == (10, 3136)
assert head.gap_ <= 1e-3 * head.objective_
prob = softhead.softmax(flat[test] @ head.coef_.T + head.intercept_)
np.testing.assert_allclose(prob, head.predict_proba(flat[test]), atol=1e-5)
with_maps, with_pixels = head.score(flat[test], y[test]), plain.score(pixels[test], y[test])
assert with_maps > with_pixels
print(f"accuracy on {len(test)} images: from pixels {with_pixels:.3f}, from feature maps {with_maps:.3f}")

# %%
# Where a logit comes from
# ------------------------
#
# The head is linear in its features, so a logit is a sum over the 49 places. Shaped back, the sum
# over the 64 filters at each place shows what in the image spoke for a class, and what against it.

i = test[np.argsort(np.sort(prob, axis=1)[:, -1])[5]]  # one of the least certain
x, p = maps[i], head.predict_proba(flat[i : i + 1])[0]
first, second = np.argsort(p)[:-3:-1]
weights = head.coef_.reshape(10, 7, 7, 64)
parts = (weights * x).sum(axis=3)
logits = head.decision_function(flat[i : i + 1])[0]
np.testing.assert_allclose(parts.sum(axis=(1, 2)) + head.intercept_, logits, atol=1e-4)

limit = np.abs(parts[[first, second]]).max()
fig, axes = plt.subplots(1, 4, figsize=(7.5, 2.4), width_ratios=[1, 1, 1, 1.4])
axes[0].imshow(images[i], cmap="gray_r")
axes[0].set_title(f"a {y[i]}")
for ax, c in zip(axes[1:3], (first, second), strict=True):
    ax.imshow(parts[c], cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.set_title(f"for and against {c}")
for ax in axes[:3]:
    ax.set_axis_off()
axes[3].bar(range(10), p)
axes[3].set(title="prob", xticks=range(10), ylim=(0, 1))
