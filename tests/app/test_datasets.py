import bz2
import csv
import datetime as dt
import gzip
import io
import os
import zipfile
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from pyarrow import parquet
from sklearn.datasets import load_digits, load_iris

from softhead.app.csv_table import read_csv
from softhead.app.datasets import BUNDLED, DataError, KnownColumns, load_data

TEXT = b"y,n,c\nu,1,02139\nv,2.5,00001\nu,,\n"
TABLE = pa.table({"n": [1, 2.5, None], "c": pa.array([2139, 1, None], pa.int64())})


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def fault(path, text=None, *, target="y", **options):
    """Return what is wrong with a file, without its name, which must come first."""
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(DataError) as caught:
        load_data(path, target=target, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.splitlines() == [message]
    return message.removeprefix(f"{path}: ")


class TestBundled:
    def test_digits_are_images(self):
        data = load_data("digits", target=None)
        assert_array_equal(data.features, load_digits().images)
        assert_array_equal(data.target, load_digits().target)
        assert data.target.dtype == np.int64
        assert (data.name, data.target_name, data.features_name, data.n_rows) == ("digits", "target", None, 1797)

    def test_tables_have_their_names(self):
        data = load_data("iris", target="target")
        iris = load_iris()
        assert data.features.column_names == iris.feature_names
        assert_array_equal(np.column_stack(data.features.columns), iris.data)
        assert data.target.tolist() == [iris.target_names[label] for label in iris.target]
        assert {type(label) for label in data.target} == {str}

    @pytest.mark.parametrize(
        ("name", "shape", "labels"),
        [("wine", (178, 13), {"class_0", "class_1", "class_2"}), ("breast_cancer", (569, 30), {"benign", "malignant"})],
    )
    def test_others(self, name, shape, labels):
        data = load_data(name, target=None)
        assert data.features.shape == shape
        assert set(data.target) == labels

    def test_a_bundled_name_is_never_a_file(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "digits").mkdir()
        assert load_data("digits", target=None).n_rows == 1797
        with pytest.raises(DataError, match="is a folder"):
            load_data("./digits", target=None)

    def test_faults(self):
        with pytest.raises(DataError, match=r"^iris: no target 'species'; there are 'target'$"):
            load_data("iris", target="species")
        with pytest.raises(DataError, match=r"^digits: features can be named only for \.npz files; found 'images'$"):
            load_data("digits", target=None, features="images")
        message = r"^digit: no file or bundled data set 'digit' \(did you mean 'digits'\?\); there are "
        with pytest.raises(DataError, match=message + ", ".join(map(repr, BUNDLED))):
            load_data("digit", target=None)


class TestCsv:
    @pytest.mark.parametrize(
        ("name", "pack"),
        [
            ("some.data.csv", bytes),
            ("some.data.CSV", lambda data: b"\xef\xbb\xbf" + data),
            ("some.data.csv", lambda data: data.replace(b"\n", b"\r\n")),
            ("some.data.tsv", lambda data: data.replace(b",", b"\t")),
            ("some.data.csv.gz", gzip.compress),
            ("some.data.tsv.bz2", lambda data: bz2.compress(data.replace(b",", b"\t"))),
        ],
    )
    def test_all_forms(self, tmp_path, name, pack):
        (tmp_path / name).write_bytes(pack(TEXT))
        data = load_data(tmp_path / name, target="y")
        assert data.name == "some.data"
        assert data.features.equals(TABLE)
        assert data.target.tolist() == ["u", "v", "u"]

    def test_zip(self, tmp_path):
        write_zip(tmp_path / "a.csv.zip", {"folder/": b"", "folder/b.csv": TEXT})
        data = load_data(str(tmp_path / "a.csv.zip"), target="y")
        assert data.name == "a"
        assert data.features.equals(TABLE)

    def test_without_target_all_columns_are_features(self, tmp_path):
        (tmp_path / "a.csv").write_bytes(TEXT)
        data = load_data(tmp_path / "a.csv", target=None)
        assert data.features.column_names == ["y", "n", "c"]
        assert data.target is None
        assert data.target_name is None

    def test_known_categories_stay_text(self, tmp_path):
        (tmp_path / "a.csv").write_bytes(TEXT)
        data = load_data(tmp_path / "a.csv", target="y", known=KnownColumns(frozenset({"c", "absent"})))
        assert data.features["c"].to_pylist() == ["02139", "00001", None]

    def test_quoted_newlines_and_types(self, tmp_path):
        text = b'y,q,d,t,b\n1,"two\n""lines""",2020-01-31,2020-01-31T10:00:00Z,true\n'
        text += b'2,"a,b",2021-01-01,2021-01-31T10:00:00Z,false\n'
        (tmp_path / "a.csv").write_bytes(text)
        data = load_data(tmp_path / "a.csv", target="y")
        assert data.features["q"].to_pylist() == ['two\n"lines"', "a,b"]
        assert data.features["d"].to_pylist() == [dt.date(2020, 1, 31), dt.date(2021, 1, 1)]
        assert data.features["t"].type == pa.timestamp("s", "UTC")
        assert data.features["b"].type == pa.bool_()

    def test_missing_values(self, tmp_path):
        (tmp_path / "a.csv").write_bytes(b'y,n,s\n1,NA,NA\n1,,""\n1,3,x\n')
        data = load_data(tmp_path / "a.csv", target="y")
        assert data.features.to_pydict() == {"n": [None, None, 3], "s": [None, None, "x"]}

    def test_a_quote_within_a_field_is_text(self, tmp_path):
        (tmp_path / "a.csv").write_bytes(b'y,s\n1,5" pipe\n2,z\n')
        assert load_data(tmp_path / "a.csv", target="y").features["s"].to_pylist() == ['5" pipe', "z"]

    def test_long_rows(self, tmp_path):
        (tmp_path / "a.csv").write_bytes(b"y,s\n1," + b"x" * 3_000_000 + b"\n2,z\n")
        assert load_data(tmp_path / "a.csv", target="y").target.tolist() == [1, 2]

    @settings(deadline=None)
    @given(
        rows=st.lists(
            st.lists(st.text(st.sampled_from('ab,"\n\r é'), max_size=4), min_size=2, max_size=2), min_size=1, max_size=6
        ),
        blanks=st.lists(st.booleans(), min_size=6, max_size=6),
        quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    )
    def test_rows_are_where_they_are_said_to_be(self, rows, blanks, quoting):
        file = io.StringIO(newline="")
        writer = csv.writer(file, quoting=quoting, lineterminator="\r\n")  # also makes it quote both
        writer.writerow(["p", "q"])
        lines = []
        for row, blank in zip(rows, blanks, strict=False):
            file.write("\n" * blank)
            lines.append(len(io.StringIO(file.getvalue(), newline=None).readlines()) + 1)
            writer.writerow(row)
        table, place = read_csv(file.getvalue().encode(), ",", ["p", "q"])
        assert table["p"].to_pylist() == [p or None for p, _ in rows]
        assert [place(i) for i in range(len(rows))] == [f"row {i + 1} (line {line})" for i, line in enumerate(lines)]


class TestCsvFaults:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"", "is empty"),
            (b"\xef\xbb\xbf\n\r\n", "is empty"),
            (b"y,a", "has a header but no rows"),
            (b"y,a\n\n\n", "has a header but no rows"),
            (b"y,a,b\n1,2,3\n1,2\n1,2,3\n", "row 2 (line 3): expected 3 fields as in the header, found 2"),
            (b"y,a,b\n1,2,3\n\n1,2,3\n1,2,3,4\n", "row 3 (line 5): expected 3 fields as in the header, found 4"),
            (b'y,a\n1,"2\n3"\n"4\n', "row 2 (line 4): a quote is opened and never closed"),
            (b'y,a\n1,"x"\n2,"tru', "row 2 (line 3): a quote is opened and never closed"),
            (b'y,a\n1,2\n"', "row 2 (line 3): a quote is opened and never closed"),
            (b"y,a\n1,2\n1,caf\xe9\n", "row 2 (line 3), column 'a': is not UTF-8 text"),
            (b"y,\xff\n1,2\n", "the header: is not UTF-8 text"),
            ("y,a\n1,2\n".encode("utf-16"), "is UTF-16 text; accepted is UTF-8"),
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is not a text file: it contains zero bytes"),
            (b"y,a,b,a\n1,2,3,4\n", "more than one column is named 'a'"),
            (b"y\n1\n2\n", "has no column beside the target 'y'"),
            (b"label,a\n1,2\n", "no column 'y'; there are 'label', 'a'"),
        ],
    )
    def test_message(self, tmp_path, text, message):
        assert fault(tmp_path / "a.csv", text) == message

    def test_a_quote_that_swallows_a_large_file(self, tmp_path):
        text = b'y,a\n1,"2\n' + b"1,2\n" * 5_000_000
        assert fault(tmp_path / "a.csv", text) == "row 1 (line 2): a quote is opened and never closed"

    def test_ragged_far_down_and_after_a_quoted_newline(self, tmp_path):
        text = b'y,a\n1,"\n"\n' + b"1,2\n" * 100_000 + b"1\n" + b"1,2\n" * 9
        message = "row 100002 (line 100004): expected 2 fields as in the header, found 1"
        assert fault(tmp_path / "a.csv", text) == message

    def test_every_truncation_is_a_fault_or_whole_rows(self, tmp_path):
        text = b'y,a,b\n1,"p\nq",3\n2,"r,s",44\n'
        whole = [(1, "p\nq"), (2, "r,s")]
        for length in range(len(text)):
            try:
                (tmp_path / "a.csv").write_bytes(text[:length])
                data = load_data(tmp_path / "a.csv", target="y")
            except DataError:
                continue
            rows = list(zip(data.target.tolist(), data.features["a"].to_pylist(), strict=True))
            assert rows == whole[: len(rows)]

    def test_names_alike(self, tmp_path):
        message = fault(tmp_path / "a.csv", b"label,weight\n1,2\n", target="lable")
        assert message == "no column 'lable' (did you mean 'label'?); there are 'label', 'weight'"
        many = ",".join(f"c{k}" for k in range(30)).encode()
        assert fault(tmp_path / "a.csv", many + b"\n" + many).endswith("'c18', 'c19' and 10 more")

    def test_features_cannot_be_named(self, tmp_path):
        assert fault(tmp_path / "a.csv", TEXT, features="n") == "features can be named only for .npz files; found 'n'"


class TestPacking:
    @pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zip"])
    def test_damage(self, tmp_path, suffix):
        path = tmp_path / f"a.csv{suffix}"
        text = b"y,a\n" + os.urandom(3000).hex().encode() + b",1\n"
        if suffix == ".zip":
            write_zip(path, {"a.csv": text})
        else:
            path.write_bytes({".gz": gzip.compress, ".bz2": bz2.compress}[suffix](text))
        packed = path.read_bytes()
        start = f"is truncated, damaged or not a {suffix} file ("
        for data in (packed[: len(packed) // 2], packed[:-3], TEXT, packed[:1000] + b"#" + packed[1001:]):
            assert fault(path, data).startswith(start)

    def test_empty(self, tmp_path):
        assert fault(tmp_path / "a.csv.gz", gzip.compress(b"")) == "is empty"
        assert fault(tmp_path / "a.csv.gz", b"") == "is empty"

    @pytest.mark.parametrize("members", [{}, {"a.csv": TEXT, "b.csv": TEXT}])
    def test_zip_of_another_number_of_files(self, tmp_path, members):
        write_zip(tmp_path / "a.csv.zip", members)
        assert fault(tmp_path / "a.csv.zip") == f"holds {len(members)} files; accepted are archives of one"


class TestFiles:
    def test_no_such_file(self, tmp_path):
        assert fault(tmp_path / "a.csv") == "no such file"

    def test_folder(self, tmp_path):
        (tmp_path / "a.csv").mkdir()
        assert fault(tmp_path / "a.csv").startswith("is a folder; accepted are files: .csv, .tsv and .jsonl")

    @pytest.mark.parametrize("name", ["a.xlsx", "a.gz", "a.parquet.gz", "csv"])
    def test_unknown_suffix(self, tmp_path, name):
        suffix = (tmp_path / name).suffix
        accepted = ".csv, .tsv and .jsonl (also with .gz, .bz2 or .zip after it), .parquet and .npz"
        assert fault(tmp_path / name, TEXT) == f"has the unknown suffix {suffix!r}; accepted are {accepted}"

    @pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.npz"])
    def test_what_the_system_refuses(self, tmp_path, name, monkeypatch):
        (tmp_path / name).write_bytes(TEXT)

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pathlib.Path.open", refuse)
        monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
        assert fault(tmp_path / name) == "cannot be read: Permission denied"


class TestLabels:
    @pytest.mark.parametrize(
        ("column", "labels", "dtype"),
        [
            (pa.array([3, -1, 3], pa.int8()), [3, -1, 3], np.int64),
            (pa.array([0, 2**63 - 1], pa.uint64()), [0, 2**63 - 1], np.int64),
            (pa.array([3.0, -1.0]), [3, -1], np.int64),
            (pa.array([Decimal("3.00"), Decimal("4.00")]), [3, 4], np.int64),
            (pa.array([True, False]), [True, False], np.bool_),
            (pa.array(["", "é", "<script>"]), ["", "é", "<script>"], np.object_),
            (pa.array(["a", "b"], pa.large_string()), ["a", "b"], np.object_),
            (pa.array(["b", "a", "b"]).dictionary_encode(), ["b", "a", "b"], np.object_),
            (pa.array([7, 8, 7]).dictionary_encode(), [7, 8, 7], np.int64),
        ],
    )
    def test_types(self, tmp_path, column, labels, dtype):
        parquet.write_table(pa.table({"x": pa.array(range(len(column))), "y": column}), tmp_path / "a.parquet")
        data = load_data(tmp_path / "a.parquet", target="y")
        assert data.target.dtype == dtype
        assert data.target.tolist() == labels
        assert data.features.column_names == ["x"]

    def test_missing(self, tmp_path):
        text = b'y,a\n1,"\n"\n2,3\n,4\nNA,5\n'
        message = "target 'y' has missing labels: 2 of 4 rows, the first row 3 (line 5)"
        assert fault(tmp_path / "a.csv", text) == message
        for cell, spelling in [("NA", "NA"), ("null", "null"), ('"N/A"', "N/A")]:
            message = f"the first row 2 (line 3), where {spelling!r} stands for a missing value"
            assert fault(tmp_path / "a.csv", f"a,y\n1,x\n2,{cell}\n3,\n".encode()).endswith(message)
        parquet.write_table(pa.table({"x": [1, 2, 3], "y": [1.0, float("nan"), 2.0]}), tmp_path / "a.parquet")
        message = "target 'y' has missing labels: 1 of 3 rows, the first row 2"
        assert fault(tmp_path / "a.parquet") == message
        np.savez(tmp_path / "a.npz", x=np.eye(3), y=[1.0, np.nan, np.nan])
        assert fault(tmp_path / "a.npz") == "target 'y' has missing labels: 2 of 3 rows, the first row 2"

    def test_continuous(self, tmp_path):
        text = b"y,a\n1,2\n2.5,3\n"
        message = "target 'y', row 2 (line 3): found 2.5, which is not a whole number; accepted as labels are strings, "
        assert fault(tmp_path / "a.csv", text) == message + "whole numbers and bools"
        for value in (np.inf, 1e19):
            np.savez(tmp_path / "a.npz", x=np.eye(2), y=[1.0, value])
            assert fault(tmp_path / "a.npz").startswith(f"target 'y', row 2: found {value}, which is not a whole")

    @pytest.mark.parametrize(
        ("column", "kind"),
        [
            (pa.array([dt.datetime(2020, 1, 1)]), "timestamp[us]"),
            (pa.array([dt.date(2020, 1, 1)]), "date32[day]"),
            (pa.array([[1]]), "list<element: int64>"),
            (pa.array([b"x"]), "binary"),
        ],
    )
    def test_types_without_use(self, tmp_path, column, kind):
        parquet.write_table(pa.table({"x": [1], "y": column}), tmp_path / "a.parquet")
        message = f"target 'y' is of type {kind}; accepted as labels are strings, whole numbers and bools"
        assert fault(tmp_path / "a.parquet") == message

    @pytest.mark.parametrize(
        ("cells", "kind", "labels"),
        [
            (["007", "1"], "string", ["007", "1"]),
            (["true", "no"], "string", ["true", "no"]),
            (["7", "1.0"], "int", [7, 1]),
            (["1", "0"], "bool", [True, False]),
            (["True", "false"], "bool", [True, False]),
            (["true", "false"], "int", [1, 0]),
        ],
    )
    def test_known_kind(self, tmp_path, cells, kind, labels):
        (tmp_path / "a.csv").write_text("y,a\n" + "".join(f"{cell},1\n" for cell in cells))
        data = load_data(tmp_path / "a.csv", target="y", known=KnownColumns(target_kind=kind))
        assert data.target.tolist() == labels
        assert data.target.dtype == {"string": object, "int": np.int64, "bool": np.bool_}[kind]

    @pytest.mark.parametrize(
        ("cell", "kind", "found"),
        [("x", "int", "'x'"), ("2", "bool", "2"), ("x", "bool", "'1'"), ("9" * 30, "int", None)],
    )
    def test_not_of_the_known_kind(self, tmp_path, cell, kind, found):
        message = fault(tmp_path / "a.csv", f"y,a\n1,1\n{cell},1\n".encode(), known=KnownColumns(target_kind=kind))
        row = "row 1 (line 2)" if found == "'1'" else "row 2 (line 3)"
        if found is None:
            assert message.startswith(f"target 'y', {row}: found 1e+30, which is not a whole number")
        else:
            assert message == f"target 'y', {row}: expected a label of type {kind}, found {found}"

    def test_numbers_of_a_parquet_file_as_known_strings(self, tmp_path):
        parquet.write_table(pa.table({"x": [1, 2], "y": [5, 6]}), tmp_path / "a.parquet")
        data = load_data(tmp_path / "a.parquet", target="y", known=KnownColumns(target_kind="string"))
        assert data.target.tolist() == ["5", "6"]


class TestParquet:
    def test_types_are_kept(self, tmp_path):
        table = pa.table({"y": ["a", "b"], "t": [dt.datetime(2020, 1, 1), None], "c": ["007", "1"], "i": [1, None]})
        parquet.write_table(table, tmp_path / "k=1.parquet")
        data = load_data(tmp_path / "k=1.parquet", target="y", known=KnownColumns(frozenset({"i"})))
        assert data.features.equals(table.drop_columns(["y"]))
        assert data.name == "k=1"

    def test_damage(self, tmp_path):
        path = tmp_path / "a.parquet"
        parquet.write_table(pa.table({"x": np.random.default_rng(0).random(1000), "y": [1] * 1000}), path)
        whole = path.read_bytes()
        for data in (b"", b"PAR1", whole[:-1], whole[: len(whole) // 2], whole[:-5] + b"!PAR1", TEXT):
            assert fault(path, data).startswith("is truncated, damaged or not a .parquet file (")

    def test_no_rows(self, tmp_path):
        parquet.write_table(
            pa.table({"y": pa.array([], pa.int64()), "x": pa.array([], pa.int64())}), tmp_path / "a.parquet"
        )
        assert fault(tmp_path / "a.parquet") == "has no rows"


class TestNpz:
    IMAGES = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)

    def save(self, path, **arrays):
        np.savez_compressed(path / "a.npz", **arrays)
        return path / "a.npz"

    def test_the_only_array_as_long_as_the_target(self, tmp_path):
        path = self.save(tmp_path, x=self.IMAGES, y=np.arange(5), x_test=self.IMAGES[:2], scale=np.float64(1))
        data = load_data(path, target="y")
        assert_array_equal(data.features, self.IMAGES)
        assert data.features.dtype == np.uint8
        assert (data.name, data.target_name, data.features_name, data.n_rows) == ("a", "y", "x", 5)
        assert data.target.dtype == np.int64

    def test_named(self, tmp_path):
        path = self.save(tmp_path, x=self.IMAGES, z=self.IMAGES[:, 0], y=np.array(["a", "bc", "", "d", "e"]))
        data = load_data(path, target="y", features="z")
        assert_array_equal(data.features, self.IMAGES[:, 0])
        assert data.target.tolist() == ["a", "bc", "", "d", "e"]
        assert {type(label) for label in data.target} == {str}

    def test_without_target(self, tmp_path):
        path = self.save(tmp_path, x=self.IMAGES, y=np.arange(5))
        data = load_data(path, target=None)
        assert (data.features_name, data.target) == ("x", None)

    def test_ambiguous(self, tmp_path):
        path = self.save(tmp_path, p=self.IMAGES, q=self.IMAGES, y=np.arange(5))
        message = "so the features must be named; there are 'p', 'q', 'y'"
        assert fault(path) == f"2 arrays are as long as the target 'y', {message}"
        assert fault(path, target=None) == f"2 arrays are of two or more dimensions, {message}"
        path = self.save(tmp_path, p=self.IMAGES[:2], y=np.arange(5))
        assert fault(path).startswith("no arrays are as long as the target 'y'")

    @pytest.mark.parametrize(
        ("arrays", "options", "message"),
        [
            ({"x": IMAGES, "labels": np.arange(5)}, {}, "no array 'y'; there are 'x', 'labels'"),
            ({"x": IMAGES, "y": np.arange(5)}, {"features": "X"}, "no array 'X'; there are 'x', 'y'"),
            ({"x": IMAGES, "y": np.arange(4)}, {"features": "x"}, "array 'x' has 5 rows, but target 'y' has 4"),
            ({"x": IMAGES, "y": np.eye(5)}, {}, "target 'y' is of shape (5, 5); accepted is one dimension"),
            (
                {"x": np.arange(5), "y": np.arange(5)},
                {},
                "array 'x' is of type int64 and shape (5,); accepted as features are numbers and bools of two or more "
                "dimensions",
            ),
            ({"x": IMAGES[:, :0], "y": np.arange(5)}, {}, "array 'x' is of shape (5, 0, 3); it is empty"),
            (
                {"x": IMAGES, "y": np.arange(5) * 1j},
                {},
                "target 'y' is of type complex128; accepted as labels are strings, whole numbers and bools",
            ),
            (
                {"x": IMAGES, "y": np.full(5, 2**63, dtype=np.uint64)},
                {},
                "target 'y' is of type uint64, and not all of it fits into int64",
            ),
        ],
    )
    def test_faults(self, tmp_path, arrays, options, message):
        assert fault(self.save(tmp_path, **arrays), **options) == message

    def test_python_objects_are_not_loaded(self, tmp_path):
        path = self.save(tmp_path, x=self.IMAGES, y=np.array([1, "a", None, 2, 3], dtype=object))
        assert fault(path) == "array 'y' holds Python objects, which are not loaded"

    def test_damage(self, tmp_path):
        path = self.save(tmp_path, x=np.random.default_rng(0).random((40, 50)), y=np.arange(40))
        whole = path.read_bytes()
        for data in (b"", whole[: len(whole) // 2], TEXT, np.eye(2).tobytes()):
            assert fault(path, data).startswith("is truncated, damaged or not a .npz file (")
        flipped = bytearray(whole)
        flipped[len(whole) // 3] ^= 1
        assert fault(path, bytes(flipped)).startswith("array 'x' is truncated, damaged or not a .npy file (")

    def test_random_damage_is_a_fault_or_harmless(self, tmp_path):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, 30)
        path = self.save(tmp_path, x=rng.integers(0, 9, (30, 5)), y=labels)
        whole = path.read_bytes()
        outcomes = set()
        for _ in range(300):
            damaged = bytearray(whole)
            damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            try:
                assert_array_equal(load_data(path, target="y").target, labels)
                outcomes.add("harmless")
            except DataError:
                outcomes.add("fault")
        assert outcomes == {"harmless", "fault"}
