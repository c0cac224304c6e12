"""Files, folders and arrays as sources: the rows are those that were written, whatever the blocks."""

import os

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import dump_svmlight_file

import softhead
from softhead import RowSource, SoftmaxClassifier, TableEncoder, open_rows
from softhead.kernels.transpose import columns_to_rows
from softhead.linear.columns import Columns
from softhead.rows import svmlight

pa = pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 5)).astype(np.float32)
    y = np.array(["low", "mid", "high"], object)[rng.integers(0, 3, 100)]
    return X, y, rng.random(100)


def table_of(X, y, weight):
    return pa.table({f"x{j}": X[:, j] for j in range(X.shape[1])} | {"label": y, "w": weight})


def write(folder, kind, X, y, weight):
    from pyarrow import feather, parquet

    table = table_of(X, y, weight)
    if kind == "folder":
        (folder / "sub").mkdir()
        for k, name in enumerate(["a.parquet", "b.parquet", "sub/c.parquet"]):
            parquet.write_table(table.slice(40 * k, 40), folder / name, row_group_size=7)
        (folder / "_metadata.parquet").write_bytes(b"no rows")
        return folder, {"target": "label", "sample_weight": "w"}
    path = folder / f"data.{kind}"
    if kind == "parquet":
        parquet.write_table(table, path, row_group_size=33)
    elif kind == "feather":
        feather.write_feather(table, path, chunksize=13)
    elif kind == "npz":
        np.savez_compressed(path, X=X, label=y.astype(str), w=weight)
    else:
        np.save(path, X)
        np.save(folder / "y.npy", y.astype(str))
        return path, {"target": folder / "y.npy", "sample_weight": weight}
    return path, {"target": "label", "sample_weight": "w"}


@pytest.mark.parametrize("kind", ["parquet", "folder", "feather", "npz", "npy"])
@pytest.mark.parametrize("block_rows", [32, None])
def test_every_format_gives_the_rows_that_were_written(tmp_path, data, kind, block_rows):
    X, y, weight = data
    path, names = write(tmp_path, kind, X, y, weight)
    source = open_rows(path, **names, block_rows=block_rows)
    for _ in range(2):
        blocks = list(source)
        if block_rows:
            assert [len(block[1]) for block in blocks] == [32, 32, 32, 4]
        np.testing.assert_array_equal(np.concatenate([block[0] for block in blocks]), X)
        assert all(block[0].dtype == np.float32 and block[0].flags.writeable for block in blocks)
        assert np.concatenate([block[1] for block in blocks]).tolist() == y.tolist()
        np.testing.assert_array_equal(np.concatenate([block[2] for block in blocks]), weight)
    if kind in ("parquet", "folder", "feather"):
        assert source.feature_names == ["x0", "x1", "x2", "x3", "x4"]


def test_lists_missing_values_and_other_types_become_numbers(tmp_path):
    from pyarrow import parquet

    vectors = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 3)
    table = pa.table(
        {
            "fixed": fixed,
            "lists": pa.array(vectors.tolist(), pa.list_(pa.float64())),
            "whole": pa.array([1, None, 3, 4]),
            "flag": [True, False, True, False],
            "y": pa.array(["a", "b", "a", "b"]).dictionary_encode(),
        }
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    ((X, y, _),) = open_rows(tmp_path / "t.parquet", target="y", features="fixed")
    assert X.dtype == np.float32
    np.testing.assert_array_equal(X, vectors)
    ((X, y, _),) = open_rows(tmp_path / "t.parquet", target="y")
    assert X.dtype == np.float64
    assert y.tolist() == ["a", "b", "a", "b"]
    expected = np.column_stack([vectors, vectors, [1, np.nan, 3, 4], [1, 0, 1, 0]])
    np.testing.assert_array_equal(X, expected)


def test_mixed_columns_go_through_an_encoder(tmp_path):
    from pyarrow import parquet

    rng = np.random.default_rng(1)
    colour = np.array(["red", "blue", "green"], object)[rng.integers(0, 3, 60)]
    table = pa.table({"colour": colour, "size": rng.normal(size=60), "y": (colour == "red").astype(int)})
    parquet.write_table(table, tmp_path / "t.parquet")
    features = table.drop_columns(["y"])
    encoder = TableEncoder().fit(features)
    with pytest.raises(ValueError, match="column 'colour' is of type string; features are numbers, or encode= makes"):
        open_rows(tmp_path / "t.parquet", target="y")
    source = open_rows(tmp_path / "t.parquet", target="y", encode=encoder.transform, block_rows=25)
    np.testing.assert_array_equal(np.concatenate([X for X, _, _ in source]), encoder.transform(features))
    assert SoftmaxClassifier().fit(source).score(source) == 1.0


@pytest.mark.parametrize("first", [0, 1])
def test_svmlight_blocks_are_the_lines_of_the_file(tmp_path, monkeypatch, first):
    rng = np.random.default_rng(2)
    X = sparse.random_array((200, 30), density=0.2, rng=rng).toarray()
    X[0, 29] = X[1, 0] = 1.0
    y = rng.integers(0, 4, 200)
    path = tmp_path / "data.svm"
    dump_svmlight_file(X, y, str(path), zero_based=first == 0)
    monkeypatch.setattr(svmlight, "_BLOCK_BYTES", 1000)
    blocks = list(open_rows(path))
    assert len(blocks) > 5
    np.testing.assert_allclose(sparse.vstack([X for X, _, _ in blocks]).toarray(), X, rtol=1e-12)
    assert np.concatenate([labels for _, labels, _ in blocks]).tolist() == y.tolist()
    assert next(iter(open_rows(path, features=40)))[0].shape[1] == 40
    with pytest.raises(ValueError, match="has 30 features, more than 10"):
        list(open_rows(path, features=10))


def test_what_cannot_be_opened_is_named(tmp_path):
    np.savez(tmp_path / "t.npz", X=np.zeros((3, 2)), y=np.zeros(3), objects=np.array([None]))
    np.save(tmp_path / "columns.npy", np.zeros((3, 2), order="F"))
    (tmp_path / "bad.npz").write_bytes(b"PK no archive")
    (tmp_path / "empty").mkdir()
    for name, arguments, error, words in (
        ("t.npz", {"target": "z"}, ValueError, "no array 'z'; there are 'X', 'y', 'objects'"),
        ("t.npz", {"target": "objects"}, ValueError, "holds Python objects"),
        ("t.npz", {"features": "y"}, ValueError, "accepted are numbers of two or more dimensions"),
        ("columns.npy", {}, ValueError, "is stored column by column"),
        ("bad.npz", {}, ValueError, "not a .npz file"),
        ("empty", {}, ValueError, "a folder without .parquet files"),
        ("no.npy", {}, FileNotFoundError, "No such file"),
        ("t.npz", {"block_rows": 0}, ValueError, "block_rows: got 0"),
        ("t.npz", {"encode": str}, ValueError, "is no table of columns"),
    ):
        with pytest.raises(error, match=words):
            open_rows(tmp_path / name, **arguments)
    (tmp_path / "t.txt").write_text("")
    with pytest.raises(ValueError, match=r"unknown suffix '\.txt'; accepted are folders of \.parquet files"):
        open_rows(tmp_path / "t.txt")
    with pytest.raises(ValueError, match=r"target: shape \(2,\) for 3 rows"):
        open_rows(np.zeros((3, 2)), target=[0, 1])
    with pytest.raises(ValueError, match="can be read only once"):
        RowSource(iter([]))
    with pytest.raises(TypeError, match="got int; accepted are iterables and callables"):
        RowSource(3)
    with pytest.raises(ValueError, match="different labels"):
        RowSource([], classes=["a", "a"])


@pytest.mark.parametrize("kind", ["parquet", "npy", "npz"])
def test_a_truncated_file_names_the_block_and_leaves_the_model_as_it_was(tmp_path, kind):
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(40_000, 5)).astype(np.float32), np.arange(40_000) % 2
    path, names = write(tmp_path, kind, X, y, np.ones(len(y)))
    model = SoftmaxClassifier().fit(X[:50], y[:50])
    coef = model.coef_
    source = open_rows(path, **names, block_rows=500)
    passes = 0

    def blocks():
        nonlocal passes
        passes += 1
        for k, block in enumerate(source.blocks):
            if passes == 3 and k == 1:  # in the middle of a pass
                os.truncate(path, path.stat().st_size // 2)
            yield block

    words = r"block \d+, from row \d+ \(counted from 0\) on, cannot be read: .*data\."
    with pytest.raises(ValueError, match=words) as caught:
        model.fit(RowSource(blocks))
    assert "\n" not in str(caught.value)
    assert model.coef_ is coef


def test_files_of_a_folder_have_one_type_a_column(tmp_path):
    from pyarrow import parquet

    columns = {"x": np.ones(4, np.float32), "y": [0, 1, 0, 1]}
    parquet.write_table(pa.table(columns), tmp_path / "1.parquet")
    for column, words in (
        ({"x": np.full(4, 0.1)}, r"2\.parquet: column 'x' is double; in .*1\.parquet it is float"),
        ({"z": np.ones(4, np.float32)}, r"2\.parquet: column 'x' is not there; in .*1\.parquet it is float"),
    ):
        parquet.write_table(pa.table({**column, "y": columns["y"]}), tmp_path / "2.parquet")
        with pytest.raises(ValueError, match=words):  # also where a block ends with the first file
            SoftmaxClassifier().fit(open_rows(tmp_path, target="y", block_rows=4))
    os.rename(tmp_path / "1.parquet", tmp_path / "ONE.PARQUET")
    assert SoftmaxClassifier().fit(open_rows(tmp_path / "ONE.PARQUET", target="y")).status_ == "converged"
    with pytest.raises(ValueError, match="the column 'y' is named twice"):
        open_rows(tmp_path / "ONE.PARQUET", target="y", features=["x", "y"])
    with pytest.raises(ValueError, match=r"features: got 'x'; the features of an array or a \.npy file"):
        open_rows(np.ones((3, 2)), features="x")


def test_names_are_public():
    assert softhead.open_rows is open_rows


def test_columns_become_rows_wherever_batches_and_pieces_end(tmp_path):
    from pyarrow import parquet

    rng = np.random.default_rng(4)
    n, rows = 20_000, 17_003  # several stripes for the threads, and blocks of parts of some row groups
    X = rng.normal(size=(n, 20)).astype(np.float32)
    y = rng.integers(0, 3, n)
    table = pa.table({f"x{j}": X[:, j] for j in range(20)} | {"y": y})
    X[:, 5] = np.where(np.arange(n) % 1000 == 7, np.nan, X[:, 5])
    table = table.set_column(5, "x5", pa.array(X[:, 5], pa.float32(), from_pandas=True))
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=7001)
    blocks = open_rows(tmp_path / "t.parquet", target="y", block_rows=rows).blocks
    np.testing.assert_array_equal(np.concatenate([X for X, _, _ in blocks]), X)
    (first, labels, _), (second, _, _) = blocks.by_columns()
    assert isinstance(first, Columns)
    assert (first.shape, second.shape, first.dtype, len(first)) == ((rows, 20), (n - rows, 20), np.float32, rows)
    np.testing.assert_array_equal(labels, y[:rows])
    np.testing.assert_array_equal(second.rows(), X[rows:])
    assert first.astype(np.dtype(np.float32), copy=False) is first
    np.testing.assert_array_equal(first.astype(np.dtype(np.float64)), X[:rows].astype(np.float64))
    for start, stop in ((0, 1), (5, 21), (6990, 7010), (7001, 7003), (13_990, 17_003), (17_000, 17_003), (4, 4)):
        out = np.zeros((stop - start + 2, 20), np.float32)
        columns_to_rows(first.addresses, first.begins, start, stop, out)
        np.testing.assert_array_equal(out[:-2], X[start:stop])
        assert not out[-2:].any()


@pytest.mark.parametrize(("n_features", "block_rows"), [(20, 700), (20, 13), (3, 700), (70, 3000)])
@pytest.mark.parametrize("tol", [1e-4, 1e-9])
def test_a_fit_has_the_same_bits_whether_its_numbers_lie_in_rows_or_columns(tmp_path, n_features, block_rows, tol):
    from pyarrow import parquet

    rng = np.random.default_rng(5)
    X = rng.normal(size=(3000, n_features)).astype(np.float32)
    y = np.digitize(X[:, 0] + rng.normal(size=3000), [-0.5, 0.5])
    table = pa.table({f"x{j}": X[:, j] for j in range(n_features)} | {"y": y})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=1009)
    by_columns = SoftmaxClassifier(tol=tol).fit(open_rows(tmp_path / "t.parquet", target="y", block_rows=block_rows))
    parts = [slice(k, k + block_rows) for k in range(0, 3000, block_rows)]
    by_rows = SoftmaxClassifier(tol=tol).fit(RowSource([(X[part], y[part]) for part in parts]))
    np.testing.assert_array_equal(by_columns.coef_, by_rows.coef_)
    np.testing.assert_array_equal(by_columns.intercept_, by_rows.intercept_)
    assert (by_columns.objective_, by_columns.gap_) == (by_rows.objective_, by_rows.gap_)


def test_an_index_that_pandas_left_is_no_feature_unless_named(tmp_path):
    from pyarrow import parquet

    path = tmp_path / "indexed.parquet"
    parquet.write_table(pa.table({"x": [1.0, 2.0], "y": [0, 1], "__index_level_0__": [5, 7]}), path)
    assert open_rows(path, target="y").feature_names == ["x"]
    named = open_rows(path, target="y", features=["__index_level_0__"])
    np.testing.assert_array_equal(np.concatenate([X for X, _, _ in named]), [[5.0], [7.0]])
