r"""
Text: which words speak for a class
===================================

Texts become rows of a sparse matrix, with a column for each word, and a linear softmax classifier
weighs the words. The texts of this page come with Python's scientific libraries: the docstrings of
SciPy's functions. The task: from which subpackage is a docstring?
"""

import importlib
import inspect
import re

import matplotlib.pyplot as plt
import numpy as np

import softhead

# %%
# The texts
# ---------
#
# Only the prose before the first heading is kept, without signatures, formulas and code; and the name
# of the subpackage is taken out where it appears.

subjects = ["fft", "integrate", "linalg", "ndimage", "signal", "special", "stats"]
texts, labels = [], []
for subject in subjects:
    module = importlib.import_module(f"scipy.{subject}")
    for name in module.__all__:
        documentation = inspect.getdoc(getattr(module, name))
        if not documentation or inspect.ismodule(getattr(module, name)):
            continue
        prose = re.split(r"\n\w[\w ]*\n-{3,}", documentation)[0]
        prose = re.sub(r"^\w+\(.*\n|^ +.*$|^\.\. .*$|:math:`[^`]*`|``[^`]*``", " ", prose, flags=re.MULTILINE)
        prose = re.sub(rf"\b{subject}\b", " ", prose, flags=re.IGNORECASE)
        if len(prose.split()) >= 8:
            texts.append(prose)
            labels.append(subject)
texts, labels = np.array(texts, dtype=object), np.array(labels)
print(len(texts), "texts:", {subject: int((labels == subject).sum()) for subject in subjects})

# %%
# Train and test
# --------------
#
# ``TextEncoder`` keeps words that are in at least two texts, and weighs them by TF-IDF. The matrix stays
# sparse all the way. C is larger than for dense features, since rows of unit length with few entries
# need large weights.

rng = np.random.default_rng(0)
order = rng.permutation(len(texts))
train, test = order[: len(order) * 3 // 4], order[len(order) * 3 // 4 :]
encoder = softhead.TextEncoder(min_texts=2).fit(texts[train])
features = encoder.transform(texts[train])
model = softhead.SoftmaxClassifier(C=100).fit(features, labels[train])

p = model.predict_proba(encoder.transform(texts[test]))
accuracy = (model.classes_[p.argmax(axis=1)] == labels[test]).mean()
most_frequent = max((labels[train] == subject).mean() for subject in subjects)
filled = features.nnz / np.prod(features.shape)
print(f"{features.shape[1]} words, {filled:.1%} of the matrix filled")
print(f"accuracy {accuracy:.3f}; always the most frequent subject: {most_frequent:.3f}")

assert accuracy > 0.75 > most_frequent
assert filled < 0.1
assert model.gap_ <= 1e-4 * model.objective_
np.testing.assert_allclose(np.sqrt(features.multiply(features).sum(axis=1)), 1, rtol=1e-5)

# %%
# What it has learnt
# ------------------
#
# The largest weights of each class, and its confusions, as shares of each true subject.

words = encoder.vocabulary_
fig, axes = plt.subplots(2, 4, figsize=(7.5, 4.2))
for ax, subject, weights in zip(axes.flat, model.classes_, model.coef_, strict=False):
    top = np.argsort(weights)[-6:]
    ax.barh(words[top], weights[top])
    ax.set(title=subject, xticks=[])
    ax.tick_params(labelsize="small")


confusion = np.zeros((7, 7))
np.add.at(confusion, (np.searchsorted(subjects, labels[test]), p.argmax(axis=1)), 1)
confusion /= confusion.sum(axis=1, keepdims=True)
ax = axes.flat[7]
ax.imshow(confusion, vmin=0, vmax=1)
short = [subject[:4] for subject in subjects]
ax.set_xticks(range(7), short, rotation=90, fontsize="small")
ax.set_yticks(range(7), short, fontsize="small")
ax.set_title("true, over said")

# %%
# Why did it say so?
# ------------------
#
# A logit is a sum over the words of a text: the words that speak for a class, and by how much.

document = "The roots of the Bessel function of the first kind, and how a digital filter can use them."
x = encoder.transform([document])
logits = model.decision_function(x)[0]
parts = {words[j]: model.coef_[:, j] * value for j, value in zip(x.indices, x.data, strict=True)}
np.testing.assert_allclose(sum(parts.values()) + model.intercept_, logits, rtol=1e-4, atol=1e-4)
first, second = np.argsort(logits)[:-3:-1]
assert {model.classes_[first], model.classes_[second]} == {"signal", "special"}

ranked = sorted(parts, key=lambda word: parts[word][first] - parts[word][second])
shown = ranked[:4] + ranked[-4:]
fig, ax = plt.subplots(figsize=(7.5, 2.6))
ax.barh(shown, [parts[word][first] - parts[word][second] for word in shown])
ax.axvline(0, color="0.4", linewidth=0.8)
ax.set_title(f'"{document}"\n{model.classes_[second]}  or  {model.classes_[first]}?', fontsize="small")
