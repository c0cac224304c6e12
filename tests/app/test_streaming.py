"""Training on tables that memory does not hold: the choice, the rows, the encoding and the model."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from softhead import load
from softhead.app import streaming
from softhead.app.cli import app
from softhead.app.streaming import Needs, TableFile, available_memory, held_out_rows, needs

pa = pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    n = 5000
    colour = np.array(["red", "green", "blue"], object)[rng.integers(0, 3, n)]
    x = rng.normal(size=n)
    label = np.where(x + (colour == "red") + rng.normal(size=n) > 0.5, "yes", "no").astype(object)
    path = tmp_path_factory.mktemp("tables") / "mixed.parquet"
    parquet.write_table(pa.table({"colour": colour, "x": x, "label": label}), path, row_group_size=900)
    return path


def softhead(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def train(table, out, *more):
    result = softhead("train", table, "--target", "label", "--out", out, "--json", *more)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), result.stderr


def test_a_streamed_model_is_that_of_memory_and_its_held_out_rows_are_known_again(table, tmp_path):
    whole, _ = train(table, tmp_path / "a", "--in-memory", "--test-size", 0)
    streamed, stderr = train(table, tmp_path / "b", "--stream", "--test-size", 0, "--checkpoint", tmp_path / "c")
    assert stderr == ""
    assert streamed["status"] == "converged"
    assert streamed["objective"] == pytest.approx(whole["objective"], rel=1e-4)
    assert streamed["features"] == whole["features"] == 4
    assert not (tmp_path / "c").exists()
    np.testing.assert_allclose(load(tmp_path / "b")[-1].coef_, load(tmp_path / "a")[-1].coef_, atol=1e-2)

    tested, _ = train(table, tmp_path / "d", "--stream")
    assert tested["rows"] + tested["rows_tested"] == 5000
    assert 800 < tested["rows_tested"] < 1200
    again = json.loads(softhead("evaluate", tmp_path / "d", table, "--json").stdout)
    assert again["scored"] == "the rows held out from its training on this table"
    for name in ("rows_tested", "accuracy", "log_loss"):
        assert again[name] == pytest.approx(tested[name], rel=1e-6)


def test_tables_that_memory_does_not_hold_are_streamed(table, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "available_memory", lambda root: 50_000.0)
    _, stderr = train(table, tmp_path / "a")
    assert stderr.startswith(f"softhead: {table} is read block by block: it would take about 0.0 GB in memory")
    assert train(table, tmp_path / "a", "--in-memory")[1] == ""
    assert needs(table).needed > 5000 * 3 * 4 * 2
    assert str(Needs(9.21e9, 6e9)) == "it would take about 9.2 GB in memory, of which 6.0 GB are free"


def test_what_goes_not_together_is_refused(table, tmp_path):
    for more in (["--stream", "--sweep"], ["--stream", "--text", "colour"], ["--checkpoint", "c", "--sweep"]):
        result = softhead("train", table, "--target", "label", "--out", tmp_path / "a", *more)
        assert result.exit_code == 2
    result = softhead("train", "iris", "--stream")
    assert result.exit_code == 2
    for target, words in (
        ("lable", "no column 'lable'; there are 'colour', 'x', 'label'"),
        ("x", "not a whole number"),
    ):
        result = softhead("train", table, "--target", target, "--stream", "--out", tmp_path / "a")
        assert result.exit_code == 1
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
    result = softhead(
        "train", table, "--target", "label", "--out", tmp_path / "a", "--checkpoint", tmp_path / "x" / "c"
    )
    assert result.exit_code == 1
    assert "the folder of the checkpoint does not exist" in result.stderr
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([("x", []), ("label", [])], "has no rows"),
        ([("x", [1.0, 2.0]), ("x", [3.0, 4.0]), ("label", ["a", "b"])], "more than one column is named 'x'"),
    ],
)
def test_a_file_that_no_model_can_be_trained_on_is_refused_in_a_line(tmp_path, columns, words):
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    names, values = zip(*columns, strict=True)
    parquet.write_table(pa.Table.from_arrays([pa.array(value) for value in values], names=list(names)), path)
    for way in ("--stream", "--in-memory"):
        result = softhead("train", path, "--target", "label", way, "--out", tmp_path / "m")
        assert result.exit_code == 1
        assert words in result.stderr
        assert result.stderr.count("\n") == 1


def test_held_out_rows_are_drawn_alike_and_bounded(monkeypatch):
    packed = held_out_rows(1003, test_size=0.2, seed=1)
    assert len(packed) == 126
    rows = np.unpackbits(packed, count=1003).astype(bool)
    assert 150 < rows.sum() < 250
    np.testing.assert_array_equal(packed, held_out_rows(1003, test_size=0.2, seed=1))
    for first, n in ((0, 1003), (5, 90), (8, 8), (1000, 3)):
        np.testing.assert_array_equal(streaming._mask(packed, first, n), rows[first : first + n])
    assert not held_out_rows(1003, test_size=0.0, seed=1).any()
    monkeypatch.setattr(streaming, "_MOST_HELD_OUT", 10)
    assert np.unpackbits(held_out_rows(1003, test_size=0.5, seed=1)).sum() < 30


def test_blocks_of_a_table_are_its_rows(table, monkeypatch):
    monkeypatch.setattr(streaming, "_BLOCK_BYTES", 0)
    file = TableFile(table, "label")
    starts = [first for first, _ in file.tables()]
    assert starts == [0, 1024, 2048, 3072, 4096]
    from pyarrow import parquet

    assert pa.concat_tables(part for _, part in file.tables()).equals(parquet.read_table(table))


def test_free_memory_is_the_least_that_system_and_control_groups_grant(tmp_path):
    assert available_memory(tmp_path) == np.inf
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
    assert available_memory(tmp_path) == 8_192_000.0
    for folder, most, used in (("a", 6_000_000, 1_000_000), ("a/b", "max", 500)):
        group = tmp_path / "sys/fs/cgroup" / folder
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{most}\n")
        (group / "memory.current").write_text(f"{used}\n")
    assert available_memory(tmp_path) == 5_000_000.0
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 4000 kB\n")
    assert available_memory(tmp_path) == 4_096_000.0


def test_what_is_wrong_with_labels_is_told_of_the_whole_column(tmp_path, monkeypatch):
    from pyarrow import parquet

    monkeypatch.setattr(streaming, "_BLOCK_BYTES", 1)  # blocks of 1024 rows
    for values, words in (
        ([1, 0] * 1500 + [None] * 2, "target 'y' has missing labels: 2 of 3002 rows, the first row 3001"),
        ([1.0, 0.0] * 1500 + [0.5], "target 'y', row 3001: found 0.5, which is not a whole number"),
    ):
        path = tmp_path / "wrong.parquet"
        parquet.write_table(pa.table({"x": np.arange(float(len(values))), "y": pa.array(values)}), path)
        for way in ("--in-memory", "--stream"):
            result = softhead("train", path, "--target", "y", "--out", tmp_path / "a", way)
            assert result.exit_code == 1
            assert result.stderr.startswith(f"softhead: error: {path}: {words}")


def test_rows_that_are_all_held_out_and_labels_that_are_lost(tmp_path):
    from pyarrow import parquet

    few = pa.table({"x": [0.0, 1.0], "y": ["a", "b"]})
    parquet.write_table(few, tmp_path / "few.parquet")
    assert np.unpackbits(held_out_rows(2, test_size=0.9, seed=0), count=2).all()
    result = softhead("train", tmp_path / "few.parquet", "--target", "y", "--stream", "--test-size", 0.9)
    assert "all of its 2 rows are held out by --test-size 0.9; accepted is less" in result.stderr

    y = np.array(["a", "b"] * 50, object)
    y[np.unpackbits(held_out_rows(100, test_size=0.2, seed=0), count=100).argmax()] = "once"
    parquet.write_table(pa.table({"x": np.arange(100.0), "y": y}), tmp_path / "once.parquet")
    result = softhead("train", tmp_path / "once.parquet", "--target", "y", "--stream", "--out", tmp_path / "a")
    assert result.exit_code == 0
    assert "warning: the label 'once' is only in rows held out: the model does not know it" in result.stderr


@pytest.mark.parametrize("way", ["--in-memory", "--stream"])
def test_an_index_that_pandas_left_is_no_feature(table, tmp_path, way):
    from pyarrow import parquet

    whole = parquet.read_table(table)
    rows = np.arange(whole.num_rows)
    path = tmp_path / "indexed.parquet"
    parquet.write_table(whole.append_column("__index_level_0__", pa.array(rows)), path)
    train(path, tmp_path / "a", way)
    assert load(tmp_path / "a")[0].feature_names_in_.tolist() == ["colour", "x"]
    outputs = [softhead("predict", tmp_path / "a", data, way).stdout for data in (table, path)]
    assert outputs[0] == outputs[1] != ""


@pytest.mark.parametrize("way", ["--in-memory", "--stream"])
def test_views_of_strings_are_strings(table, tmp_path, way):
    from pyarrow import parquet

    whole = parquet.read_table(table)
    views = pa.schema([field.with_type(pa.string_view()) if field.name != "x" else field for field in whole.schema])
    path = tmp_path / "mixed.parquet"
    parquet.write_table(whole.cast(views), path)
    train(table, tmp_path / "a", way)
    train(path, tmp_path / "b", way)
    np.testing.assert_array_equal(load(tmp_path / "a")[-1].coef_, load(tmp_path / "b")[-1].coef_)
    outputs = [softhead("evaluate", tmp_path / "a", data, "--json", way).stdout for data in (table, path)]
    assert json.loads(outputs[0]) | {"data": ""} == json.loads(outputs[1]) | {"data": ""}


def test_blocks_of_long_strings_are_short(table, tmp_path, monkeypatch):
    from pyarrow import parquet

    path = tmp_path / "long.parquet"
    strings = [f"{k:04d}" * 500 for k in range(2000)]
    parquet.write_table(pa.table({"s": strings, "y": [0, 1] * 1000}), path, use_dictionary=False)
    monkeypatch.setattr(streaming, "_STORED_BYTES", 2**18)
    sizes = [part.num_rows for _, part in TableFile(path, "y").tables()]
    assert sum(sizes) == 2000
    assert 100 < max(sizes) <= 2**18 // 2000 + 1
    monkeypatch.undo()
    assert [part.num_rows for _, part in TableFile(table, "label").tables()] == [5000]


def test_files_that_are_none_are_told_alike(table, tmp_path):
    (tmp_path / "cut.parquet").write_bytes(table.read_bytes()[:-100])
    (tmp_path / "folder.parquet").mkdir()
    for name, words in (
        ("cut", "is truncated, damaged or not a .parquet file"),
        ("folder", "is a folder; accepted are files"),
        ("absent", "no such file"),
    ):
        path = tmp_path / f"{name}.parquet"
        for way in ([], ["--stream"], ["--in-memory"]):
            result = softhead("train", path, "--target", "label", *way)
            assert result.exit_code in (1, 2)
            assert f"{path}: {words}" in result.stderr
