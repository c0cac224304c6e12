"""20 newsgroups from raw text: the command line beside scikit-learn's TfidfVectorizer and LogisticRegression.

    python benchmarks/text.py --data FOLDER [--C 1 10 100]

FOLDER holds 20newsgroups.jsonl.gz (split, label, id, text). Its two splits become two files; the command line trains on
the first and, in a process of its own, predicts the second. scikit-learn fits its defaults: TfidfVectorizer() and
LogisticRegression(C=C, max_iter=1000), in float32 and float64, each in a process of its own as well. Seconds are those
of whole processes, from reading the files on.
"""

import argparse
import csv
import gzip
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sklearn.metrics import accuracy_score, f1_score

PEER = """
import json, sys
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

train, test = ([json.loads(line) for line in open(path, encoding="utf-8")] for path in ("train.jsonl", "test.jsonl"))
dtype, C = np.dtype(sys.argv[1]), float(sys.argv[2])
model = make_pipeline(TfidfVectorizer(dtype=dtype), LogisticRegression(C=C, max_iter=1000))
model.fit([row["text"] for row in train], [row["label"] for row in train])
print(json.dumps(model.predict([row["text"] for row in test]).tolist()))
"""


def split(source, folder):
    """Write the two splits of the file, and return the labels of the second."""
    labels = []
    with (
        gzip.open(source, "rt", encoding="utf-8") as lines,
        open(folder / "train.jsonl", "w", encoding="utf-8") as train,
        open(folder / "test.jsonl", "w", encoding="utf-8") as test,
    ):
        for line in lines:
            row = json.loads(line)
            (train if row["split"] == "train" else test).write(line)
            if row["split"] == "test":
                labels.append(row["label"])
    return labels


def run(folder, *command):
    """Run a Python process in the folder, and return what it printed and its seconds."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of 20newsgroups.jsonl.gz")
    parser.add_argument("--C", type=float, nargs="+", default=[1.0, 10.0, 100.0])
    options = parser.parse_args()
    print("| C | who | accuracy | macro-F1 | seconds | of these the fit |")
    print("|---" * 6 + "|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        labels = split(options.data / "20newsgroups.jsonl.gz", folder)

        def line(C, who, predicted, seconds, fit=""):
            scores = accuracy_score(labels, predicted), f1_score(labels, predicted, average="macro")
            print(f"| {C:g} | {who} | {scores[0]:.4f} | {scores[1]:.4f} | {seconds:.1f} | {fit} |", flush=True)

        for C in options.C:
            arguments = ("--text", "text", "--target", "label", "--test-size", "0", "--C", str(C), "--json")
            summary, first = run(folder, "-m", "softhead", "train", "train.jsonl", *arguments)
            table, second = run(folder, "-m", "softhead", "predict", "train.safetensors", "test.jsonl")
            predicted = [row["label"] for row in csv.DictReader(io.StringIO(table))]
            line(C, "softhead train, predict", predicted, first + second, f"{json.loads(summary)['seconds']:.1f}")
            for dtype in ("float32", "float64"):
                printed, seconds = run(folder, "-c", PEER, dtype, str(C))
                line(C, f"scikit-learn, {dtype}", json.loads(printed), seconds)


if __name__ == "__main__":
    main()
