"""Predictions and figures from files read block by block: to the last byte those of the whole table in memory."""

import json
import os

import numpy as np
import pytest
from typer.testing import CliRunner

from softhead import SoftmaxClassifier, save
from softhead.app import evaluation, scoring, streaming
from softhead.app.cli import app

pa = pytest.importorskip("pyarrow")
ROWS = 3000


def softhead(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table with a model of some columns, of very many categories, of its text, and of plain numbers."""
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("scoring")
    colour = np.array(["red", "green", "blue"], object)[rng.integers(0, 3, ROWS)]
    x = rng.normal(size=ROWS)
    x[::19] = np.nan
    strong = np.nan_to_num(x) + (colour == "red") + rng.normal(size=ROWS)
    table = {
        "colour": colour,
        "tail": [f"N{k:03d}" for k in rng.integers(0, 150, ROWS)],
        "x": pa.array(x, from_pandas=True),
        "z": rng.normal(size=ROWS).astype(np.float32),
        "words": [f"{c} thing {'odd' if s > 1 else 'even'}" for c, s in zip(colour, strong, strict=True)],
        "label": np.array(["no", "maybe", 'a "yes"'], object)[np.digitize(strong, [0.0, 1.0])],
        "size": np.digitize(strong, [0.0, 1.0]),
    }
    whole = pa.table(table)
    parquet.write_table(whole, folder / "all.parquet", row_group_size=700)
    turned = pa.concat_tables([whole.slice(1), whole.slice(0, 1)])  # no model's own table
    parquet.write_table(turned, folder / "turned.parquet", row_group_size=700)
    kinds = {
        "mixed": (["colour", "x", "label"], []),
        "sparse": (["tail", "colour", "label"], ["--max-categories", 200]),
    }
    for kind, (names, more) in kinds.items():
        parquet.write_table(pa.table({name: table[name] for name in names}), folder / f"{kind}.parquet")
        data = folder / f"{kind}.parquet"
        softhead("train", data, "--target", "label", "--out", folder / kind, "--calibrate", "holdout", "-q", *more)
    softhead("train", folder / "all.parquet", "--target", "size", "--text", "words", "--out", folder / "text", "-q")
    numbers = pa.table({"z": table["z"], "size": table["size"]})
    parquet.write_table(numbers, folder / "plain.parquet", row_group_size=1100)
    save(SoftmaxClassifier().fit(numbers.select(["z"]).to_pandas(), table["size"]), folder / "plain")
    return folder


@pytest.fixture
def short_blocks(monkeypatch):
    monkeypatch.setattr(evaluation, "_MOST_AT_ONCE", 601)
    monkeypatch.setattr(streaming, "_LABELS", 1000)


@pytest.mark.parametrize("kind", ["mixed", "sparse", "text", "plain"])
@pytest.mark.parametrize("out", ["csv", "parquet", "-"])
def test_predictions_are_the_same_bytes(folder, tmp_path, short_blocks, kind, out):
    written = []
    for way in ("--in-memory", "--stream"):
        path = out if out == "-" else tmp_path / f"{way}.{out}"
        result = softhead("predict", folder / kind, folder / "all.parquet", "-o", path, "--probabilities", way)
        written.append(result.stdout_bytes if out == "-" else path.read_bytes())
    assert written[0] == written[1]
    assert written[0].count(b"\n") == ROWS + 1 or out == "parquet"
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("kind", ["mixed", "sparse", "text", "plain"])
def test_every_figure_is_the_same(folder, short_blocks, kind):
    more = ["--target", "size"] if kind == "plain" else []
    own = folder / ("all.parquet" if kind == "text" else f"{kind}.parquet")
    for data in {own, folder / "turned.parquet"}:
        whole, blocks = (
            json.loads(softhead("evaluate", folder / kind, data, "--json", way, *more).stdout)
            for way in ("--in-memory", "--stream")
        )
        assert blocks == whole
        held_out = kind != "plain" and data == own
        assert blocks["scored"] == ("the rows held out from its training on this table" if held_out else "all")
        assert blocks["rows_tested"] == (ROWS // 5 if held_out else ROWS)


def test_groups_of_rows_in_a_file_are_bounded_and_the_same(folder, tmp_path, short_blocks, monkeypatch):
    from pyarrow import parquet

    monkeypatch.setattr("softhead.app.display._GROUP_ROWS", 1000)
    paths = [tmp_path / name for name in ("a.parquet", "b.parquet")]
    for path, way in zip(paths, ("--in-memory", "--stream"), strict=True):
        softhead("predict", folder / "mixed", folder / "all.parquet", "-o", path, way)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    metadata = parquet.read_metadata(paths[1])
    assert [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)] == [1000] * 3


def test_a_file_that_memory_does_not_hold_is_read_in_blocks(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "available_memory", lambda root: 50_000.0)
    data = folder / "mixed.parquet"
    for command in ("predict", "evaluate"):
        result = softhead(command, folder / "mixed", data)
        assert result.stderr.startswith(f"softhead: {data} is read block by block: it would take about 0.0 GB")
        assert softhead(command, folder / "mixed", data, "--in-memory").stdout == result.stdout
        assert "only for .parquet files" in softhead(command, folder / "mixed", "iris", "--stream", code=2).stderr
    monkeypatch.setattr(streaming, "available_memory", lambda root: np.inf)
    assert softhead("predict", folder / "mixed", data).stderr == ""


def test_what_the_model_does_not_use_is_not_read(folder):
    from softhead.model_file import load

    file = scoring.ScoredFile(load(folder / "mixed"), folder / "all.parquet", "size")
    assert next(file.table.tables())[1].column_names == ["colour", "x", "size"]


def test_what_is_wrong_is_one_line_and_nothing_is_left_behind(folder, tmp_path, short_blocks):
    from pyarrow import parquet

    table = parquet.read_table(folder / "mixed.parquet")
    broken = table.set_column(1, "x", pa.array([*np.zeros(2000), np.inf, *np.zeros(ROWS - 2001)]))
    unseen = table.set_column(2, "label", pa.array([*["no"] * 2500, "never", *["no"] * (ROWS - 2501)]))
    lost = table.set_column(2, "label", pa.array([*["no"] * 2500, None, *["no"] * (ROWS - 2501)]))
    for name, changed in (("broken", broken), ("unseen", unseen), ("lost", lost), ("short", table.select(["x"]))):
        parquet.write_table(changed, tmp_path / f"{name}.parquet")
    whole = (folder / "mixed.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    rotten = bytearray(whole)
    rotten[100:2000] = bytes(1900)
    (tmp_path / "rotten.parquet").write_bytes(rotten)
    out = tmp_path / "out.csv"
    out.write_text("old")
    for command, name, words in (
        ("predict", "broken", "in the rows from 1804 on, counted from there: column 'x', row 198: found inf"),
        ("predict", "short", "X has no column 'colour'"),
        ("predict", "cut", "truncated, damaged or not a .parquet file"),
        ("predict", "rotten", "cannot be read from row"),
        ("evaluate", "unseen", "row 2501, column 'label': the label 'never' is not among the 3 classes"),
        ("evaluate", "lost", "target 'label' has missing labels: 1 of 3000 rows, the first row 2501"),
        ("evaluate", "short", "no column 'label'"),
    ):
        path = tmp_path / f"{name}.parquet"
        more = ["-o", out] if command == "predict" else []
        result = softhead(command, folder / "mixed", path, "--stream", *more, code=1)
        assert words in result.stderr, result.stderr
        assert str(path) in result.stderr
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""
    assert out.read_text() == "old"
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
