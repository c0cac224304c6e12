import copy
import datetime as dt
import math
import pickle
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from softhead import TableEncoder

UTC = dt.UTC
LIBRARIES = {"pyarrow": lambda table: table, "pandas": pa.Table.to_pandas, "polars": pl.from_arrow}


def dense(matrix):
    return matrix.toarray() if isinstance(matrix, csr_array) else matrix


def encode(table, **parameters):
    encoder = TableEncoder(**parameters)
    return dict(zip_columns(encoder, encoder.fit(table).transform(table)))


def zip_columns(encoder, matrix):
    return zip(encoder.get_feature_names_out().tolist(), dense(matrix).T, strict=True)


def mixed_table(n=200, seed=0):
    """Every kind of column, with missing values in all of them."""
    rng = np.random.default_rng(seed)
    start = dt.datetime(2020, 1, 1)

    def holes(values):
        return [None if rng.random() < 0.1 else value for value in values]

    return pa.table(
        {
            "float": pa.array(holes(rng.normal(5, 3, n).tolist())),
            "int": pa.array(rng.integers(-4, 9, n)),
            "bool": pa.array((rng.random(n) < 0.3).tolist()),
            "decimal": pa.array([Decimal(int(k)) / 4 for k in rng.integers(0, 99, n)]),
            "duration": pa.array(holes([dt.timedelta(seconds=int(k)) for k in rng.integers(0, 9999, n)])),
            "word": pa.array(holes([f"w{k}" for k in rng.integers(0, 30, n) ** 2 // 30])),
            "levels": pa.array(holes(rng.choice(["low", "high"], n).tolist())).dictionary_encode(),
            "date": pa.array(holes([start.date() + dt.timedelta(days=int(k)) for k in rng.integers(0, 999, n)])),
            "moment": pa.array(holes([start + dt.timedelta(seconds=int(k)) for k in rng.integers(0, 10**8, n)])),
            "zoned": pa.array(
                holes([start + dt.timedelta(seconds=int(k)) for k in rng.integers(0, 10**8, n)]),
                pa.timestamp("ns", "America/New_York"),
            ),
            "time": pa.array(holes([dt.time(int(k), 30) for k in rng.integers(0, 24, n)])),
            "nothing": pa.nulls(n),
        }
    )


@parametrize_with_checks([TableEncoder(), TableEncoder(max_categories=2)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


class TestNumbers:
    def test_standardised_on_the_training_rows(self):
        x = np.random.default_rng(0).normal([3, -1e6, 1e-9], [2, 5, 1e-12], size=(5000, 3))
        z = TableEncoder().fit_transform(x).astype(np.float64)
        assert_allclose(z.mean(axis=0), 0, atol=1e-8)
        assert_allclose(z.var(axis=0), 1, rtol=1e-6)

    @pytest.mark.parametrize("offset", [0.0, 1.0, 1e9, -1e15])
    def test_mean_and_deviation_are_exact_to_rounding(self, offset):
        x = offset + np.random.default_rng(1).exponential(size=2000)
        exact = [Fraction(value) for value in x.tolist()]
        mean = sum(exact) / len(exact)
        std = math.sqrt(sum((value - mean) ** 2 for value in exact) / len(exact))
        column = TableEncoder().fit(x[:, None]).to_state()["columns"][0]
        assert_allclose(column["mean"][0], float(mean), rtol=4e-16)
        assert_allclose(column["scale"][0], std, rtol=1e-13)

    @pytest.mark.parametrize("unit", [1e-320, 1e-200, 1e200, 8e307])
    def test_any_unit(self, unit):
        # Neither the sums overflow nor the squares underflow.
        z = TableEncoder().fit_transform(unit * np.array([[-2.0], [-1.0], [1.0], [2.0]]))
        assert_allclose(z[:, 0], np.array([-2, -1, 1, 2]) / math.sqrt(2.5), rtol=1e-3 if unit < 1e-300 else 1e-6)

    @pytest.mark.parametrize("value", [0.0, 0.1, -1e300, 5e-324, 2.0**53 + 2])
    def test_a_constant_column_is_zero(self, value):
        x = np.full((1001, 1), value)
        encoder = TableEncoder().fit(x)
        assert_array_equal(encoder.transform(x), 0)
        assert encoder.to_state()["columns"][0]["scale"].tolist() == [1.0]

    def test_far_beyond_the_training_rows_stays_finite(self):
        encoder = TableEncoder().fit([[-1.0], [1.0]])
        z = encoder.transform([[1e300], [-1.7e308], [2.0]])
        assert z[:, 0].tolist() == [np.finfo(np.float32).max, np.finfo(np.float32).min, 2.0]

    def test_missing_values(self):
        x = np.array([[1.0, 5.0, np.nan], [3.0, np.nan, np.nan], [np.nan, 7.0, np.nan]])
        encoder = TableEncoder().fit(x[:, :])
        assert encoder.get_feature_names_out().tolist() == ["x0", "x1", "x0 missing", "x1 missing"]
        assert_array_equal(encoder.transform(x), [[-1, -1, 0, 0], [1, 0, 0, 1], [0, 1, 1, 0]])

    def test_missing_only_after_fit_is_the_mean(self):
        encoder = TableEncoder().fit([[1.0], [3.0]])
        assert_array_equal(encoder.transform([[np.nan], [3.0]]), [[0], [1]])

    def test_blocks_of_rows_make_no_difference(self):
        x = np.random.default_rng(2).normal(size=(3000, 300)) * np.arange(1, 301)
        x[::7, ::5] = np.nan
        encoder = TableEncoder().fit(x)
        z = encoder.transform(x)
        assert_allclose(z[:, :300], np.nan_to_num((x - np.nanmean(x, 0)) / np.nanstd(x, 0)), rtol=1e-5, atol=1e-6)
        assert_array_equal(z[:, 300:], np.isnan(x[:, ::5]))
        assert_array_equal(encoder.transform(x[123:125]), z[123:125])

    @settings(deadline=None)
    @given(
        x=arrays(np.float64, (6, 2), elements=st.floats(-1e6, 1e6)),
        factor=st.sampled_from([0.25, 2.0, -8.0]),
        shift=st.integers(-8, 8),
    )
    def test_units_do_not_matter(self, x, factor, shift):
        x = np.vstack((np.round(x, 1), [[-1e6, 1e6], [1e6, -1e6]]))
        other = TableEncoder().fit_transform(factor * x + shift)
        assert_allclose(other, np.sign(factor) * TableEncoder().fit_transform(x), atol=1e-4)

    def test_bools_and_durations(self):
        out = encode(pd.DataFrame({"b": [True, False], "d": [pd.Timedelta(1, "D"), pd.Timedelta(3, "D")]}))
        assert_array_equal(list(out.values()), [[1, -1], [-1, 1]])
        assert TableEncoder().fit(pd.DataFrame({"d": [pd.Timedelta(90, "s")]})).to_state()["columns"][0]["mean"] == 90


class TestImages:
    def test_one_scale_and_a_mean_per_pixel(self):
        x = np.random.default_rng(3).integers(0, 255, size=(50, 4, 3, 2), dtype=np.uint8)
        x[:, 0, 0, 0] = 9
        encoder = TableEncoder().fit(x)
        assert encoder.feature_shape_ == (4, 3, 2)
        assert encoder.n_features_in_ == 24
        expected = (x - x.mean(axis=0)) / x.std()
        z = encoder.transform(x)
        assert_allclose(z, expected.reshape(50, 24), rtol=1e-5, atol=1e-6)
        assert_array_equal(encoder.transform(x.reshape(50, 24)), z)

    def test_missing_pixels(self):
        x = np.random.default_rng(4).normal(size=(60, 2, 2))
        x[:5, 1, 1] = np.nan
        x[:, 0, 1] = np.nan
        encoder = TableEncoder().fit(x)
        assert encoder.get_feature_names_out().tolist() == ["x0", "x2", "x3", "x3 missing"]
        expected = (x[:, 1, 0] - x[:, 1, 0].mean()) / np.nanstd(x)
        assert_allclose(encoder.transform(x)[:, 1], expected, rtol=1e-5, atol=1e-6)


class TestCategories:
    def test_one_hot_rows_sum_to_one(self):
        table = pa.table({"c": ["a", None, "b", "a"]})
        encoder = TableEncoder().fit(table)
        assert encoder.get_feature_names_out().tolist() == ["c=a", "c=b", "c missing"]
        assert encoder.categories_ == {"c": ["a", "b"]}
        assert_array_equal(dense(encoder.transform(table)), [[1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]])

    def test_unseen_is_all_zeros_without_rare_values(self):
        encoder = TableEncoder().fit(pa.table({"c": ["a", "b"]}))
        assert_array_equal(dense(encoder.transform(pa.table({"c": ["z", None, "b"]}))), [[0, 0], [0, 0], [0, 1]])

    def test_rare_and_unseen_share_other(self):
        table = pa.table({"c": [*"ccccbbaad", None]})
        encoder = TableEncoder(max_categories=4).fit(table)
        # a and b are as frequent as each other: the smaller value is kept first.
        assert encoder.get_feature_names_out().tolist() == ["c=a", "c=c", "c other", "c missing"]
        encoded = dense(encoder.transform(pa.table({"c": ["a", "b", "c", "d", "unseen", None]})))
        assert encoded.argmax(axis=1).tolist() == [0, 2, 1, 2, 2, 3]
        assert_array_equal(encoded.sum(axis=1), 1)

    @pytest.mark.parametrize("limit", [2, 3, 7, 8, 9])
    @pytest.mark.parametrize("missing", [False, True])
    def test_no_more_columns_than_allowed(self, limit, missing):
        table = pa.table({"c": [str(k) for k in range(8) for _ in range(k + 1)] + [None] * missing})
        encoder = TableEncoder(max_categories=limit).fit(table)
        names = encoder.get_feature_names_out()
        assert len(names) == min(limit, 8 + missing)
        assert ("c other" in names) == (limit < 8 + missing)
        assert_array_equal(dense(encoder.transform(table)).sum(axis=1), 1)

    def test_values_are_compared_as_text(self):
        encoder = TableEncoder().fit(pd.DataFrame({"c": pd.Series([1, "2", True, None], dtype=object)}))
        assert encoder.get_feature_names_out().tolist() == ["c=1", "c=2", "c=True", "c missing"]
        numbers = encoder.transform(pd.DataFrame({"c": [2, 1, 3]}))
        assert_array_equal(dense(numbers), [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
        missing = encoder.transform(pl.DataFrame({"c": [math.nan, None]}))
        assert_array_equal(dense(missing), [[0, 0, 0, 1]] * 2)

    def test_categoricals_of_anything(self):
        cut = pd.cut(pd.Series([1.0, 2.0, 3.0, np.nan]), [0, 1.5, 9])
        assert list(encode(pd.DataFrame({"c": cut}))) == ["c=(0.0, 1.5]", "c=(1.5, 9.0]", "c missing"]
        enum = pl.DataFrame({"c": pl.Series(["x", "y"], dtype=pl.Enum(["y", "x"]))})
        assert list(encode(enum)) == ["c=x", "c=y"]


class TestTimes:
    def test_known_days(self):
        days = [dt.date(2024, 1, 1), dt.date(2024, 7, 2), dt.date(2023, 4, 2), None]
        out = encode(pa.table({"d": days}))
        assert list(out) == ["d days", "d year sin", "d year cos", "d week sin", "d week cos", "d missing"]
        # 2024-01-01 is the first day of a year and a Monday; 2024-07-02 is day 183 of 366 and a Tuesday; 2023-04-02 is
        # day 91 of 365 and a Sunday.
        angles = 2 * np.pi * np.array([[0, 0.5, 91 / 365], [0, 1 / 7, 6 / 7]])
        assert_allclose(out["d year sin"], [*np.sin(angles[0]), 0], atol=1e-7)
        assert_allclose(out["d year cos"], [*np.cos(angles[0]), 0], atol=1e-7)
        assert_allclose(out["d week sin"], [*np.sin(angles[1]), 0], atol=1e-7)
        assert_allclose(out["d week cos"], [*np.cos(angles[1]), 0], atol=1e-7)
        ordinals = np.array([day.toordinal() for day in days[:3]])
        assert_allclose(out["d days"], [*(ordinals - ordinals.mean()) / ordinals.std(), 0], rtol=1e-6)
        assert_array_equal(out["d missing"], [0, 0, 0, 1])

    def test_the_day_of_a_datetime(self):
        out = encode(pa.table({"t": [dt.datetime(1969, 12, 31, 6), dt.datetime(1969, 12, 31, 18)]}))
        assert_allclose(out["t day sin"], [1, -1])
        assert_allclose(out["t day cos"], [0, 0], atol=1e-7)
        midnights = encode(pa.table({"t": [dt.datetime(2000, 1, 1), dt.datetime(2000, 1, 2)]}))
        assert "t day sin" not in midnights

    def test_zones_are_read_as_utc(self):
        naive = pd.DataFrame({"t": pd.to_datetime(["2024-01-01 00:00", "2024-03-05 06:00"])})
        encoder = TableEncoder().fit(naive)
        for zone in ("UTC", "Asia/Kolkata", "America/New_York"):
            zoned = pd.DataFrame({"t": naive["t"].dt.tz_localize("UTC").dt.tz_convert(zone)})
            assert_array_equal(encoder.transform(zoned), encoder.transform(naive))
            assert_array_equal(TableEncoder().fit_transform(zoned), encoder.transform(naive))

    def test_text_in_iso_form(self):
        encoder = TableEncoder().fit(pa.table({"t": [dt.datetime(2024, 1, 1), dt.datetime(2024, 3, 5, 6)]}))
        text = ["2024-01-01", "2024-03-05T06:00:00Z"]
        moments = [dt.datetime(2024, 1, 1, tzinfo=UTC), dt.datetime(2024, 3, 5, 6, tzinfo=UTC)]
        assert_array_equal(encoder.transform(pa.table({"t": text})), encoder.transform(pa.table({"t": moments})))

    def test_times_of_day(self):
        times = [dt.time(0), dt.time(6), dt.time(12, 0, 0, 500_000), None]
        out = encode(pa.table({"t": times}))
        assert list(out) == ["t day sin", "t day cos", "t missing"]
        assert_allclose(out["t day sin"], [0, 1, math.sin(2 * math.pi * 43200.5 / 86400), 0], atol=1e-7)
        assert_allclose(out["t day cos"], [1, 0, math.cos(2 * math.pi * 43200.5 / 86400), 0], atol=1e-7)
        assert_array_equal(out["t missing"], [0, 0, 0, 1])


class TestTables:
    @pytest.mark.parametrize("fitted", LIBRARIES)
    @pytest.mark.parametrize("given", LIBRARIES)
    def test_libraries_agree(self, fitted, given):
        table = mixed_table()
        expected = TableEncoder().fit(table)
        encoder = TableEncoder().fit(LIBRARIES[fitted](table))
        assert_array_equal(encoder.get_feature_names_out(), expected.get_feature_names_out())
        encoded = encoder.transform(LIBRARIES[given](table))
        assert_array_equal(dense(encoded), dense(expected.transform(table)))

    def test_columns_are_found_by_name(self):
        table = mixed_table()
        encoder = TableEncoder().fit(table)
        shuffled = table.select(table.column_names[::-1]).append_column("more", pa.array([[1]] * len(table)))
        assert_array_equal(dense(encoder.transform(shuffled)), dense(encoder.transform(table)))

    def test_columns_without_string_names_are_found_by_position(self):
        x = np.random.default_rng(5).normal(size=(9, 3))
        frame = pd.DataFrame(x, columns=[2, 0, 1])
        encoder = TableEncoder().fit(frame)
        assert not hasattr(encoder, "feature_names_in_")
        assert_array_equal(encoder.get_feature_names_out(), ["x0", "x1", "x2"])
        assert_array_equal(encoder.transform(frame), TableEncoder().fit_transform(x))
        with pytest.raises(ValueError, match="X has 2 features, but TableEncoder is expecting 3 features"):
            encoder.transform(frame.iloc[:, :2])

    def test_rows_are_independent(self):
        table = mixed_table()
        encoder = TableEncoder().fit(table)
        assert_array_equal(dense(encoder.transform(table.slice(17, 5))), dense(encoder.transform(table))[17:22])
        assert encoder.transform(table.slice(0, 0)).shape == (0, len(encoder.get_feature_names_out()))

    def test_columns_without_values_have_no_output(self):
        names = {
            "number": pa.float64(),
            "text": pa.string(),
            "day": pa.date32(),
            "null": pa.null(),
            "l": pa.list_(pa.int8()),
        }
        table = pa.table({**{name: pa.nulls(3, kind) for name, kind in names.items()}, "x": [1.0, 2.0, 3.0]})
        for convert in LIBRARIES.values():
            encoder = TableEncoder().fit(convert(table))
            assert encoder.get_feature_names_out().tolist() == ["x"]
            filled = {name: ["text"] * 3 for name in names}
            assert_array_equal(
                encoder.transform(convert(pa.table({**filled, "x": [1.0, 2.0, 3.0]}))),
                encoder.transform(convert(table)),
            )

    def test_objects_by_their_values(self):
        columns = {
            "number": [1, 2.5, None],
            "decimal": [Decimal("1.5"), None, Decimal(2)],
            "category": ["a", 1, True],
            "day": [dt.date(2020, 1, 1), None, dt.date(2020, 1, 2)],
            "time": [dt.time(1), None, dt.time(2)],
        }
        frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
        kinds = [column["kind"] for column in TableEncoder().fit(frame).to_state()["columns"]]
        assert kinds == ["number", "number", "category", "datetime", "time"]

    def test_sparse_numbers_of_pandas(self):
        frame = pd.DataFrame({"x": pd.arrays.SparseArray([0, 0, 1, 1])})
        assert_array_equal(TableEncoder().fit_transform(frame), [[-1], [-1], [1], [1]])


class TestOutput:
    def table(self, n_values):
        return pa.table({"c": [f"v{k % n_values}" for k in range(60)], "x": [k % 5 for k in range(60)]})

    def test_sparse_where_little_is_filled(self):
        assert isinstance(TableEncoder().fit_transform(self.table(5)), np.ndarray)  # 2 of 6
        assert isinstance(TableEncoder().fit_transform(self.table(6)), csr_array)  # 2 of 7
        wide = np.zeros((9, 50))
        assert isinstance(TableEncoder().fit_transform(wide), np.ndarray)

    def test_the_kind_is_kept(self):
        encoder = TableEncoder().fit(self.table(20))
        assert isinstance(encoder.transform(self.table(2)), csr_array)
        encoder.fit(self.table(2))
        assert isinstance(encoder.transform(self.table(20)), np.ndarray)

    def test_both_kinds_hold_the_same(self):
        table = mixed_table()
        encoder = TableEncoder().fit(table)
        encoder.sparse_output_ = True
        sparse = encoder.transform(table)
        assert isinstance(sparse, csr_array)
        assert sparse.dtype == np.float32
        assert sparse.indices.dtype == sparse.indptr.dtype == np.int32
        assert sparse.has_canonical_format
        assert (sparse.data != 0).all()
        encoder.sparse_output_ = False
        array = encoder.transform(table)
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert_array_equal(array, sparse.toarray())

    def test_inputs_are_left_alone(self):
        x = np.array([[1.0, np.nan], [2.0, 3.0]])
        x.flags.writeable = False
        TableEncoder().fit_transform(x)
        assert_array_equal(x, [[1.0, np.nan], [2.0, 3.0]])


class TestScikitLearn:
    def test_clone_and_pickle(self):
        table = mixed_table()
        encoder = TableEncoder(max_categories=7).fit(table)
        assert clone(encoder).get_params() == {"max_categories": 7}
        copied = pickle.loads(pickle.dumps(encoder))
        assert_array_equal(dense(copied.transform(table)), dense(encoder.transform(table)))

    def test_in_a_grid_search_over_a_frame(self):
        frame = mixed_table().to_pandas()
        y = frame["int"] > frame["int"].median()
        pipeline = make_pipeline(TableEncoder(), LogisticRegression())
        search = GridSearchCV(pipeline, {"tableencoder__max_categories": [2, 30]}, cv=3).fit(frame, y)
        assert search.score(frame, y) > 0.95

    def test_set_output(self):
        frame = pd.DataFrame({"x": [1.0, 3.0]}, index=["r", "s"])
        out = TableEncoder().set_output(transform="pandas").fit_transform(frame)
        pd.testing.assert_frame_equal(out, pd.DataFrame({"x": np.float32([-1, 1])}, index=["r", "s"]))

    def test_fit_forgets_the_previous_fit(self):
        encoder = TableEncoder().fit(pa.table({"c": ["a", "b"]})).fit(np.eye(3))
        assert not hasattr(encoder, "feature_names_in_")
        assert encoder.categories_ == {}
        assert encoder.get_feature_names_out(["p", "q", "r"]).tolist() == ["p", "q", "r"]


class TestErrors:
    NUMBERS = pa.table({"x": [1.0, 2.0, 3.0], "y": [1, 2, 3]})

    @pytest.mark.parametrize(
        ("column", "expected", "message"),
        [
            (["1", "two", "3"], 1.0, r"column 'x', row 2: expected a number, found 'two'"),
            (["1", "2", ""], 1.0, r"column 'x', row 3: expected a number, found ''"),
            ([None, dt.date(2020, 1, 1), None], 1.0, r"column 'x', row 2: expected a number, found datetime.date"),
            ([1.0, 2.0, math.inf], 1.0, r"column 'x', row 3: found inf; accepted are finite numbers"),
            (
                ["2020-01-01", "soon", None],
                dt.date(2020, 1, 1),
                r"column 'x', row 2: expected a date or datetime, found 'soon'",
            ),
            ([5, 6, 7], dt.datetime(2020, 1, 1), r"column 'x', row 1: expected a date or datetime, found 5"),
            (["10:00", "25:00", None], dt.time(1), r"column 'x', row 2: expected a time of day, found '25:00'"),
            ([5, 6, 7], dt.time(1), r"column 'x', row 1: expected a time of day, found 5"),
        ],
    )
    def test_values_of_another_kind(self, column, expected, message):
        encoder = TableEncoder().fit(pa.table({"x": [expected] * 2}))
        for convert in LIBRARIES.values():
            with pytest.raises(ValueError, match=message):
                encoder.transform(convert(pa.table({"x": column})))

    def test_numbers_as_text_are_numbers(self):
        encoder = TableEncoder().fit(self.NUMBERS)
        text = pa.table({"x": ["1", " 2.0", None], "y": ["1", "2", "3e0"]})
        assert_array_equal(encoder.transform(text)[:2], encoder.transform(self.NUMBERS)[:2])

    def test_missing_columns(self):
        with pytest.raises(ValueError, match="X has no column 'x', 'y'; all columns of fit are needed"):
            TableEncoder().fit(self.NUMBERS).transform(pa.table({"z": [1]}))

    def test_array_after_a_table(self):
        with pytest.raises(ValueError, match="X is a ndarray; accepted is a table"):
            TableEncoder().fit(self.NUMBERS).transform(np.ones((2, 2)))

    def test_number_of_features(self):
        with pytest.raises(ValueError, match="X has 3 features, but TableEncoder is expecting 4 features as input"):
            TableEncoder().fit(np.ones((5, 2, 2))).transform(np.ones((5, 3)))

    @pytest.mark.parametrize("method", ["fit", "transform"])
    def test_infinity_in_an_array(self, method):
        encoder = TableEncoder().fit(np.zeros((3, 2)))
        x = np.zeros((200_000, 2), dtype=np.float32)
        x[150_000, 1] = -np.inf
        with pytest.raises(ValueError, match=r"column 'x1', row 150001: found -inf"):
            getattr(encoder, method)(x)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (pa.array([[1], [2]]), r"column 'q' is of type List\(Int64\)"),
            (pa.array([{"a": 1}, {"a": 2}]), r"column 'q' is of type Struct"),
            (pa.array([b"1", b"2"]), r"column 'q' is of type Binary"),
        ],
    )
    def test_types_without_use(self, values, message):
        with pytest.raises(TypeError, match=message):
            TableEncoder().fit(pa.table({"q": values}))
        with pytest.raises(TypeError, match="column 'q' holds objects of type"):
            TableEncoder().fit(pa.table({"q": values}).to_pandas())

    @pytest.mark.parametrize(
        ("values", "names"),
        [(["a", 1.5], "float, str"), ([1 + 2j, 3j], "complex"), ([dt.date(2020, 1, 1), 3], "date, int")],
    )
    def test_objects_of_several_kinds(self, values, names):
        with pytest.raises(TypeError, match=f"column 'q' holds objects of type {names}; accepted are"):
            TableEncoder().fit(pd.DataFrame({"q": pd.Series(values, dtype=object)}))

    def test_columns_of_one_name(self):
        with pytest.raises(ValueError, match="unique column names"):
            TableEncoder().fit(pd.DataFrame([[1, 2]], columns=["a", "a"]))

    @pytest.mark.parametrize("table", [pa.table({"a": pa.array([], pa.int64())}), pd.DataFrame(index=[1, 2])])
    def test_empty_tables(self, table):
        with pytest.raises(ValueError, match="it is empty"):
            TableEncoder().fit(table)

    @pytest.mark.parametrize("x", [np.full((3, 2), np.nan), pa.table({"a": pa.nulls(3)})])
    def test_no_value_at_all(self, x):
        with pytest.raises(ValueError, match="no value at all"):
            TableEncoder().fit(x)

    @pytest.mark.parametrize("value", [1, 0, 2.5, "3", None, True])
    def test_max_categories(self, value):
        with pytest.raises(ValueError, match=r"max_categories is .*; accepted is an integer of at least 2"):
            TableEncoder(max_categories=value).fit([[1.0]])

    def test_unfitted(self):
        for method in (TableEncoder().to_state, TableEncoder().get_feature_names_out):
            with pytest.raises(NotFittedError):
                method()


def images_with_holes():
    x = np.random.default_rng(6).normal(size=(40, 3, 2))
    x[3, 1, 1] = np.nan
    x[:, 2, 0] = np.nan
    return x


FITTED_ON = {
    "mixed": mixed_table(),
    "narrow": pa.table({"c": ["a", "b", None], "x": [1.0, None, 1.0]}),
    "nameless": pd.DataFrame(np.eye(3)),
    "array": np.array([[1.0, np.nan], [2.0, 0.1]]),
    "images": images_with_holes(),
}


def leaves(state, path=()):
    """Yield every key path of a state that leads to a value, containers included."""
    if path:
        yield path
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    for key, value in items:
        yield from leaves(value, (*path, key))


def put(state, path, value):
    changed = copy.deepcopy(state)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return changed


class TestState:
    @pytest.mark.parametrize("name", FITTED_ON)
    def test_round_trip_is_bit_identical(self, name):
        x = FITTED_ON[name]
        encoder = TableEncoder(max_categories=9).fit(x)
        again = TableEncoder.from_state(copy.deepcopy(encoder.to_state()))
        assert again.get_params() == encoder.get_params()
        assert_array_equal(again.get_feature_names_out(), encoder.get_feature_names_out())
        assert again.feature_shape_ == encoder.feature_shape_
        assert again.n_features_in_ == encoder.n_features_in_
        assert again.categories_ == encoder.categories_
        first, second = encoder.transform(x), again.transform(x)
        assert type(first) is type(second)
        assert_array_equal(dense(first), dense(second))
        assert pickle.dumps(again.to_state()) == pickle.dumps(TableEncoder.from_state(again.to_state()).to_state())

    @pytest.mark.parametrize("name", FITTED_ON)
    def test_plain(self, name):
        state = TableEncoder().fit(FITTED_ON[name]).to_state()
        for path in leaves(state):
            value = state
            for key in path:
                value = value[key]
            assert type(value) in (type(None), bool, int, float, str, list, dict, np.ndarray)
            if isinstance(value, np.ndarray):
                assert value.dtype == np.float64 or {type(text) for text in value} <= {str}

    def test_changing_a_state_changes_no_encoder(self):
        x = FITTED_ON["array"]
        encoder = TableEncoder().fit(x)
        before = encoder.transform(x)
        encoder.to_state()["columns"][0]["mean"][:] = 7
        assert_array_equal(encoder.transform(x), before)

    @pytest.mark.parametrize("name", FITTED_ON)
    def test_whatever_is_wrong_is_a_value_error(self, name):
        state = TableEncoder().fit(FITTED_ON[name]).to_state()
        wrong = [None, True, -1, 0, 2.5, math.nan, math.inf, "number", [], [None], [3, 1], {}, {"kind": []}]
        wrong += [np.zeros(2), np.array([-1.0]), np.array(["b", "a"], dtype=object), np.array([1, None], dtype=object)]
        wrong += [np.array(3.0), np.zeros((1, 1)), np.ones(1, dtype=np.float32), np.array(["a"]), 10**400, b"x"]
        changes = [(path, value) for path in leaves(state) for value in wrong]
        errors = [error for path, value in changes if (error := self.error_of(put(state, path, value)))]
        assert {type(error) for error in errors} == {ValueError}
        assert all("not a state as to_state gives it" in str(error) for error in errors)
        assert len(errors) > 0.85 * len(changes)

    @staticmethod
    def error_of(state):
        """Return the error that a state raises; one that is accepted must be usable."""
        try:
            encoder = TableEncoder.from_state(state)
        except Exception as error:
            return error
        assert len(encoder.get_feature_names_out()) > 0
        TableEncoder.from_state(encoder.to_state())
        return None

    @pytest.mark.parametrize("state", [None, [], {}, "state", {"columns": []}])
    def test_no_state_at_all(self, state):
        with pytest.raises(ValueError, match="not a state as to_state gives it"):
            TableEncoder.from_state(state)

    def test_keys(self):
        state = TableEncoder().fit(FITTED_ON["mixed"]).to_state()
        for part, keys in ((state, list(state)), (state["columns"][0], list(state["columns"][0]))):
            for key in keys:
                value = part.pop(key)
                with pytest.raises(ValueError, match="not a state as to_state gives it"):
                    TableEncoder.from_state(state)
                part[key] = value
            part["more"] = 1
            with pytest.raises(ValueError, match="not a state as to_state gives it"):
                TableEncoder.from_state(state)
            del part["more"]
        TableEncoder.from_state(state)


class TestAcrossLibraries:
    """What a column holds is the same whichever library, or missing value, changed its type on the way."""

    def test_categories_of_integers_survive_as_floats(self):
        encoder = TableEncoder().fit(pd.DataFrame({"a": pd.Categorical([1, 2, 1, 2])}))
        expected = [[1, 0], [0, 1], [0, 0]]
        for table in (pd.DataFrame({"a": [1.0, 2.0, None]}), pa.table({"a": pa.array([1.0, 2.0, None])})):
            np.testing.assert_array_equal(encoder.transform(table), expected)

    def test_integers_beyond_float64_are_numbers(self):
        values = [2**53 + 1, 2**62, 5]
        expected = (np.array(values, float) - np.mean(values)) / np.std(values)
        for table in (pa.table({"id": values}), pd.DataFrame({"id": values}), pl.DataFrame({"id": values})):
            np.testing.assert_allclose(TableEncoder().fit_transform(table)[:, 0], expected, rtol=1e-6)

    def test_the_last_day_of_the_year_9999(self):
        days = [dt.date(9999, 12, 31), dt.date(2020, 1, 1), dt.date(2021, 1, 1)]
        for table in (pa.table({"d": days}), pl.DataFrame({"d": days})):
            np.testing.assert_allclose(TableEncoder().fit_transform(table)[0, 0], 2.0**0.5, rtol=1e-6)

    def test_rows_of_another_shape_are_refused(self):
        encoder = TableEncoder().fit(np.arange(120.0).reshape(5, 4, 6))
        with pytest.raises(ValueError, match=r"rows of shape \(6, 4\); accepted is \(4, 6\)"):
            encoder.transform(np.zeros((5, 6, 4)))

    def test_numbers_are_not_spelled_as_in_python(self):
        encoder = TableEncoder().fit(pa.table({"a": [1.0, 2.0]}))
        with pytest.raises(ValueError, match="column 'a', row 1: expected a number, found '1_000'"):
            encoder.transform(pa.table({"a": ["1_000", "2"]}))

    def test_a_lazy_frame_is_refused(self):
        with pytest.raises(TypeError, match="LazyFrame; accepted is what its collect"):
            TableEncoder().fit(pl.DataFrame({"a": [1]}).lazy())


class TestTruthValues:
    """Truth values may be bools in one file and 0 and 1, numbers or text, in another."""

    BOOLS, BITS = [True, False, True, None], [1, 0, 1, None]

    @pytest.mark.parametrize("fitted", [BOOLS, BITS, ["True", "False", "True", None], ["1", "0", "1", None]])
    @pytest.mark.parametrize("given", [BOOLS, BITS, [1.0, 0.0, 1.0, None], ["0", "1", "True", "False"]])
    def test_match(self, fitted, given):
        encoder = TableEncoder().fit(pd.DataFrame({"a": pd.Categorical(fitted)}))
        truth = [None if value is None else str(value) in ("True", "1", "1.0") for value in given]
        expected = [[truth_ is False, truth_ is True, truth_ is None] for truth_ in truth]
        for table in (pd.DataFrame({"a": pd.Categorical(given)}), pd.DataFrame({"a": pd.Series(given, dtype=object)})):
            encoded = encoder.transform(table)
            np.testing.assert_array_equal(encoded, expected)

    def test_nothing_else_does(self):
        encoder = TableEncoder().fit(pd.DataFrame({"a": pd.Categorical(["0", "1", "2"])}))
        np.testing.assert_array_equal(encoder.transform(pd.DataFrame({"a": pd.Categorical([True, False, True])})), 0.0)
