"""Texts from the command line: JSON Lines, CSV and Parquet in, a model that a new process reads, and every fault."""

import gzip
import json
import subprocess
import sys

import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from typer.testing import CliRunner

from softhead.app import cli
from softhead.app.datasets import DataError, KnownColumns, load_data

GOOD, BAD = "a fine and lovely day", "an awful rainy night"
ROWS = [
    {"id": k, "text": f"{GOOD if k % 2 else BAD} number {k}", "label": "good" if k % 2 else "bad", "more": [k]}
    for k in range(40)
]


def lines(rows=ROWS):
    return "".join(json.dumps(row) + "\n" for row in rows)


def softhead(*arguments):
    """Run a command in this process."""
    result = CliRunner().invoke(cli.app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def read(path, text="text", target="label", **known):
    return load_data(path, target=target, known=KnownColumns(text=text, **known))


def test_train_predict_evaluate_and_info(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text(lines())
    code, out, err = softhead("train", "data.jsonl", "--text", "text", "--target", "label", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["accuracy"] == 1.0
    code, out, _ = softhead("info", "data.safetensors", "--json")
    info = json.loads(out)
    assert (info["steps"], info["columns"]) == (["TextEncoder", "SoftmaxClassifier"], ["text"])
    code, out, _ = softhead("evaluate", "data.safetensors", "data.jsonl", "--json")
    scores = json.loads(out)
    assert (scores["rows_tested"], scores["accuracy"]) == (8, 1.0)
    (tmp_path / "new.jsonl").write_text('{"text": "lovely"}\n{"text": null}\n\n{"label": 7, "text": "awful"}\n')
    command = [sys.executable, "-m", "softhead", "predict", "data.safetensors", "new.jsonl"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    predicted = [line.split(",")[0] for line in out.splitlines()]
    assert (predicted[0], predicted[1], predicted[3], len(predicted)) == ('"label"', '"good"', '"bad"', 4)


def test_every_format_is_the_same_table(tmp_path):
    table = pa.table({"text": [row["text"] for row in ROWS], "label": [row["label"] for row in ROWS]})
    (tmp_path / "a.jsonl").write_text(lines())
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines().encode("utf-8-sig")))
    csv.write_csv(table, tmp_path / "a.csv")
    parquet.write_table(table, tmp_path / "a.parquet")
    parquet.write_table(table.set_column(0, "text", table["text"].dictionary_encode()), tmp_path / "b.parquet")
    for name in ("a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet", "b.parquet"):
        data = read(tmp_path / name)
        assert data.features.column_names == ["text"]
        assert data.features["text"].to_pylist() == table["text"].to_pylist()
        assert data.target.tolist() == table["label"].to_pylist()


def test_digits_in_csv_are_text(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n007,1\n42,0\n")
    assert read(tmp_path / "a.csv").features["text"].to_pylist() == ["007", "42"]


@pytest.mark.parametrize(("values", "dtype"), [((1, 2), "int64"), ((True, False), "bool"), (("x", "y"), "object")])
def test_targets(tmp_path, values, dtype):
    (tmp_path / "a.jsonl").write_text(lines([{"text": "a b", "label": value} for value in values]))
    target = read(tmp_path / "a.jsonl").target
    assert (str(target.dtype), target.tolist()) == (dtype, list(values))


def test_json_lines_without_text_are_a_table(tmp_path):
    rows = [{"size": 1, "kind": "x", "label": 0}, {"size": 2.5, "label": 1}, {"size": None, "kind": "y", "label": 1}]
    (tmp_path / "a.jsonl").write_text(lines(rows))
    data = load_data(tmp_path / "a.jsonl", target="label")
    assert data.features.to_pydict() == {"size": [1.0, 2.5, None], "kind": ["x", None, "y"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b'{"text": "a", "label": 1}\n[1]\n', "line 2: is not a JSON object"),
        (b'{"text": "a", "label": 1}\n\n"x"\n', "line 3: is not a JSON object"),
        (b'{"text": "a", "label": 1}\n{"text": \n', r"line 2: is not valid JSON"),
        (b"[" * 100_000, r"line 1: is not valid JSON"),
        (b'{"text": "a", "label": 1, "text": "b"}', "line 1: has the key 'text' twice"),
        (b'{"text": "\xff", "label": 1}', "line 1: is not UTF-8"),
        (b'{"text": "\\ud800", "label": 1}', "line 1, column 'text': holds half of a surrogate pair"),
        (b'{"text": "a", "label": 1}\n{"text": 5, "label": 1}', "line 2, column 'text': found a whole number, after a"),
        (b'{"text": ["a"], "label": 1}', "line 1, column 'text': found a list"),
        (b'{"text": 5, "label": 1}', "column 'text' is of type int64; accepted as text are strings"),
        (b'{"txt": "a", "label": 1}', r"no column 'text' \(did you mean 'txt'\?\)"),
        (b'{"text": "a", "lable": 1}', r"no column 'label' \(did you mean 'lable'\?\)"),
        (b'{"text": "a", "label": 1}\n{"text": "b"}', r"missing labels: 1 of 2 rows, the first row 2 \(line 2\)"),
        (b'{"text": "a", "label": 1e400}', "whole number|label"),
        (b'{"text": "a", "label": 123456789012345678901234567890}', "column 'label' cannot be read"),
    ],
)
def test_faults_are_one_line_that_says_where(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_texts_are_of_tables_only(tmp_path):
    with pytest.raises(DataError, match="a text can be named only for files"):
        load_data("iris", target=None, known=KnownColumns(text="text"))
    (tmp_path / "a.npz").write_bytes(b"")
    with pytest.raises(DataError, match="a text can be named only for tables"):
        read(tmp_path / "a.npz")
    (tmp_path / "a.jsonl").write_text(lines())
    with pytest.raises(DataError, match="cannot be both text and target"):
        read(tmp_path / "a.jsonl", text="label")


def test_options_for_categories_are_not_for_texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text(lines())
    code, _, err = softhead("train", "a.jsonl", "--text", "text", "--target", "label", "--max-categories", "5")
    assert code == 2
    assert "not together with --text" in " ".join(err.split())


def test_texts_without_words_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text(lines([{"text": "?", "label": k % 2} for k in range(8)]))
    code, _, err = softhead("train", "a.jsonl", "--text", "text", "--target", "label")
    assert code == 1
    assert err.startswith("softhead: error: a.jsonl: X: none of its")
    assert err.count("\n") == 1


def test_columns_that_a_table_model_does_not_use_may_hold_anything(tmp_path):
    rows = [{"x": k % 7, "kind": "ab"[k % 2], "label": "cd"[k % 2]} for k in range(40)]
    train, new, model = (str(tmp_path / name) for name in ("train.jsonl", "new.jsonl", "model.safetensors"))
    (tmp_path / "train.jsonl").write_text(lines(rows))
    (tmp_path / "new.jsonl").write_text(lines([{**row, "more": {"a": [1]}} for row in rows]))
    assert softhead("train", train, "--target", "label", "--out", model, "--quiet")[0] == 0
    expected, found = (softhead("predict", model, data) for data in (train, new))
    assert (expected[0], expected) == (0, found)
    assert "found an object" in softhead("train", new, "--target", "label")[2]
