r"""
Tables: mixed columns, missing values, dates
============================================

Real tables have numbers, names, dates and holes. ``TableEncoder`` turns them into the matrix that a
linear model takes. The table of this page is made up by a rule that is known, so that what the model
finds can be compared with it.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.pipeline import make_pipeline

import softhead

# %%
# A week of deliveries
# --------------------
#
# Three carriers share the parcels. Which one takes a parcel depends on its weight, on the depot, and on the hour
# of the day. One weight in ten was not recorded.

rng = np.random.default_rng(0)
n = 6000
weight = rng.lognormal(0, 0.6, n)
depot = rng.choice(["north", "south", "harbour"], n, p=[0.5, 0.3, 0.2])
time = pd.Timestamp("2024-03-04") + pd.to_timedelta(rng.integers(0, 7 * 24 * 60, n), unit="min")
hour = time.hour + time.minute / 60
logits = np.column_stack(
    [
        np.zeros(n),
        1.5 * np.log(weight) + 2.0 * (depot == "harbour"),
        2.0 * np.cos(2 * np.pi * (hour - 22) / 24),  # at night
    ]
)
carrier = np.array(["bike", "truck", "night express"])[(logits + rng.gumbel(size=(n, 3))).argmax(axis=1)]
table = pd.DataFrame({"weight": weight, "depot": depot, "time": time})
table.loc[rng.random(n) < 0.1, "weight"] = np.nan
print(table.head(3).to_string())

# %%
# From columns to numbers
# -----------------------
#
# Numbers are standardised; a missing one becomes the mean, and a column of its own says that it was
# missing. A name becomes one column for each value. A moment becomes days, and a sine and a cosine of
# its phase in the year, the week and the day, so that 23:59 lies beside 0:00.

train, test = np.arange(n) < 4500, np.arange(n) >= 4500
model = make_pipeline(softhead.TableEncoder(), softhead.SoftmaxClassifier()).fit(table[train], carrier[train])
names = model[0].get_feature_names_out()
print(*names, sep=", ")

encoded = model[0].transform(table[train])
encoded = encoded.toarray() if hasattr(encoded, "toarray") else encoded
column = {name: encoded[:, j] for j, name in enumerate(names)}
assert "weight missing" in column
np.testing.assert_allclose(column["weight"].mean(), 0, atol=1e-5)
assert (column["weight"][column["weight missing"] == 1] == 0).all()
np.testing.assert_array_equal(sum(column[f"depot={d}"] for d in ("north", "south", "harbour")), 1)

# %%
# What it found, beside what is true
# ----------------------------------
#
# The hour of the day: the model's mean probabilities on new rows, as lines, and how often each
# carrier came in truth, as points.

p = model.predict_proba(table[test])
classes = model.classes_
fig, (left, right) = plt.subplots(1, 2, width_ratios=[1.4, 1])
bins = hour[test].astype(int) // 2
for c, name in enumerate(classes):
    said = np.array([p[bins == b, c].mean() for b in range(12)])
    was = np.array([(carrier[test][bins == b] == name).mean() for b in range(12)])
    left.plot(np.arange(1, 24, 2), said, color=f"C{c}", label=name)
    left.plot(np.arange(1, 24, 2), was, "o", color=f"C{c}", markersize=4)
    assert np.abs(said - was).mean() < 0.06
left.set(xlabel="hour", ylabel="share", xticks=range(0, 25, 6), ylim=(0, 0.9))
left.legend(ncols=3, loc="upper center", columnspacing=0.8)

harbour = model[1].coef_[:, list(names).index("depot=harbour")]
north = model[1].coef_[:, list(names).index("depot=north")]
effect = dict(zip(classes, harbour - north, strict=True))
np.testing.assert_allclose(effect["truck"] - effect["bike"], 2.0, atol=0.3)  # the 2.0 of the rule
right.barh(classes, harbour - north, color=["C0", "C1", "C2"])
right.axvline(0, color="0.4", linewidth=0.8)
right.set(title="harbour, against north", xlabel="logit")

# %%
# How good can it be? The rule itself is right on no more than this share of rows, because chance decides
# the rest.

best = softhead.softmax(logits[test])
rule = np.array(["bike", "truck", "night express"])[best.argmax(axis=1)]
score, limit = model.score(table[test], carrier[test]), (rule == carrier[test]).mean()
print(f"accuracy {score:.3f}; of the rule that made the data {limit:.3f}")
assert limit - 0.03 < score < limit + 0.02
