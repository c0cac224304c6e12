"""Fits on dask collections: the in-memory optimum, the same bits from run to run, errors that name the chunk."""

import asyncio
import json
import os
import signal

import numpy as np
import pytest
from scipy import sparse
from sklearn.pipeline import make_pipeline

from softhead import SoftmaxClassifier, SoftmaxClassifierCV, TableEncoder

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")
pd = pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def client():
    """One small cluster in this process."""
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture(params=["threads", "cluster"])
def scheduler(request, client):
    with dask.config.set(scheduler="threads" if request.param == "threads" else client):
        yield request.param


def problem(n=2000, d=9, n_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * np.geomspace(0.1, 10.0, d) + 1.0
    logits = X @ rng.normal(size=(d, n_classes)) / np.geomspace(1.0, 10.0, d).sum() * 3.0
    return X, np.array(["a", "b", "c", "d"])[:n_classes][(logits + rng.gumbel(size=logits.shape)).argmax(axis=1)]


def in_chunks(sizes, *arrays):
    return [da.from_array(array, chunks=(sizes, *((n,) for n in array.shape[1:]))) for array in arrays]


@pytest.mark.parametrize("sizes", [(2000,), (1000, 1000), (1, 700, 13, 286, 500, 0, 500)], ids=len)
def test_the_optimum_is_that_in_memory_and_its_bits_are_the_same_again(scheduler, sizes):
    X, y = problem()
    expected = SoftmaxClassifier(tol=1e-10).fit(X, y)
    first, second = (SoftmaxClassifier(tol=1e-10).fit(*in_chunks(sizes, X, y)) for _ in range(2))
    assert first.status_ == "converged"
    assert abs(first.objective_ / expected.objective_ - 1.0) < 1e-9
    np.testing.assert_allclose(first.coef_, expected.coef_, rtol=0.0, atol=1e-5)
    np.testing.assert_allclose(first.intercept_, expected.intercept_, rtol=0.0, atol=1e-5)
    assert first.classes_.tolist() == ["a", "b", "c", "d"]
    assert np.array_equal(first.coef_, second.coef_)
    assert np.array_equal(first.intercept_, second.intercept_)
    assert (first.gap_, first.n_iter_) == (second.gap_, second.n_iter_)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_weights_of_rows_and_classes(n_classes):
    X, y = problem(n_classes=n_classes)
    weight = np.random.default_rng(1).exponential(size=len(y)) * (np.arange(len(y)) % 7 > 0)
    options = {"class_weight": "balanced", "tol": 1e-10, "C": 0.3}
    expected = SoftmaxClassifier(**options).fit(X, y, weight)
    chunked = SoftmaxClassifier(**options).fit(*in_chunks((500,) * 4, X, y, weight))
    np.testing.assert_allclose(chunked.coef_, expected.coef_, rtol=0.0, atol=1e-6)
    assert chunked.objective_ == pytest.approx(expected.objective_, rel=1e-10)


@pytest.mark.parametrize("width", [30, 3000])  # expanded in a pass, and not
def test_sparse_chunks(width):
    rng = np.random.default_rng(2)
    X = sparse.random_array((600, width), density=0.02, rng=rng, dtype=np.float32, format="csr")
    y = (np.asarray(X[:, :5].sum(axis=1)).ravel() > 0).astype(int) + (np.arange(600) % 3 == 0)
    chunks = [dask.delayed(X[k : k + 200].tocoo()) for k in range(0, 600, 200)]
    meta = sparse.coo_array((0, width), dtype=np.float32)
    rows = da.concatenate([da.from_delayed(chunk, (200, width), np.float32, meta=meta) for chunk in chunks])
    model = SoftmaxClassifier(tol=1e-6).fit(rows, y)
    expected = SoftmaxClassifier(tol=1e-6).fit(X, y)
    assert model.coef_.dtype == np.float32
    assert model.objective_ == pytest.approx(expected.objective_, rel=2e-6)


def test_a_data_frame_of_unknown_chunk_sizes(scheduler):
    X, y = problem(d=3)
    table = pd.DataFrame(X, columns=["p", "q", "r"]).astype({"q": "float32"})
    table["of"] = pd.Categorical(y, categories=["d", "c", "b", "a", "never"])
    table = table.drop(index=range(300, 500))
    lazy = dd.from_pandas(pd.DataFrame(table), npartitions=3)
    features = lazy[["p", "q", "r"]]
    model = SoftmaxClassifier(tol=1e-8).fit(features, lazy["of"])
    expected = SoftmaxClassifier(tol=1e-8).fit(table[["p", "q", "r"]], table["of"])
    assert model.feature_names_in_.tolist() == ["p", "q", "r"]
    assert model.classes_.tolist() == expected.classes_.tolist() == ["a", "b", "c", "d"]
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-5)
    assert np.array_equal(model.predict(features).compute(), model.predict(table[["p", "q", "r"]]))
    assert model.score(features, lazy["of"]) == pytest.approx(expected.score(table[["p", "q", "r"]], table["of"]))
    strange = lazy["of"].map_partitions(lambda part: pd.Series("x", index=part.index), meta=("of", str))
    with pytest.raises(ValueError, match=r"y: chunk [012] has the label .*'x'.* in row 0, which is not among the 4"):
        model.score(features, strange)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(features.rename(columns={"p": "s"}))
    with pytest.raises(ValueError, match=r"'of' is of the dtype category.*TableEncoder"):
        SoftmaxClassifier().fit(lazy, lazy["of"])


@pytest.mark.parametrize("n_classes", [2, 4])
def test_predictions_are_lazy_and_those_in_memory(scheduler, n_classes):
    X, y = problem(n_classes=n_classes)
    model = SoftmaxClassifier().fit(X, y)
    (rows,) = in_chunks((700, 300, 1000), X)
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        expected, lazy = getattr(model, method)(X), getattr(model, method)(rows.rechunk({1: 4}))
        assert isinstance(lazy, da.Array)
        assert (lazy.shape, lazy.dtype) == (expected.shape, expected.dtype)
        if method == "predict":
            assert np.array_equal(lazy.compute(), expected)
        else:
            np.testing.assert_allclose(lazy.compute(), expected, rtol=1e-11, atol=1e-13)


def damaged(array, row, value):
    array = array.copy()
    array[row] = value
    return array


def test_what_is_wrong_in_a_chunk_is_named(scheduler):
    X, y = problem(n=100)
    sizes = (40, 40, 20)
    fit = SoftmaxClassifier().fit
    rows, labels = in_chunks(sizes, X, y)
    with pytest.raises(ValueError, match="X: chunk 1 has a NaN or an infinite number in row 7"):
        fit(in_chunks(sizes, damaged(X, 47, np.nan))[0], labels)
    with pytest.raises(ValueError, match="X: chunk 2 has a NaN or an infinite number in row 1"):
        fit(in_chunks(sizes, damaged(X, 81, np.inf))[0].map_blocks(sparse.csr_array), labels)
    with pytest.raises(ValueError, match="sample_weight: chunk 0 has a weight that is negative or not finite in row 3"):
        fit(rows, labels, damaged(np.ones(100), 3, -1.0))
    narrow = [dask.delayed(X[:40]), dask.delayed(X[40:80, :5]), dask.delayed(X[80:])]
    narrow = da.concatenate([da.from_delayed(part, (n, 9), float) for part, n in zip(narrow, sizes, strict=True)])
    with pytest.raises(ValueError, match="X: chunk 1 has 5 columns, from its row 0 on; chunk 0 has 9"):
        fit(narrow, labels)
    with pytest.raises(ValueError, match="y: chunk 1 has no label in row 2"):
        fit(rows, in_chunks(sizes, damaged(y.astype(object), 42, None))[0])
    with pytest.raises(ValueError, match="y: 90 rows; X has 100"):
        fit(rows, y[:90])
    with pytest.raises(ValueError, match="y: 2 chunks; X has 3"):
        fit(dd.from_pandas(pd.DataFrame(X), npartitions=3), dd.from_pandas(pd.Series(y), npartitions=2))
    with pytest.raises(ValueError, match="at least 2 classes"):
        fit(rows, np.full(100, "a"))


def test_what_no_fit_can_take_is_refused_before_it():
    X, y = problem(n=100)
    rows, labels = in_chunks((60, 40), X, y)
    fit = SoftmaxClassifier().fit
    with pytest.raises(ValueError, match=r"sample_weight: the single value 2\.0; one for each row is needed"):
        fit(rows, labels, sample_weight=2.0)
    with pytest.raises(ValueError, match="X: chunk 0 has no columns"):
        fit(da.zeros((100, 0), chunks=(100, 1)), y)
    with pytest.raises(ValueError, match="y: chunk 1 has an infinite label in row 3"):
        fit(rows, in_chunks((60, 40), damaged(np.arange(100) % 2.0, 63, np.inf))[0])
    with pytest.raises(ValueError, match="squares of its entries overflow"):
        fit(in_chunks((60, 40), np.abs(X) * 1e306)[0], labels)
    with pytest.raises(TypeError, match="X: a Array; accepted for probabilities are rows in memory"):
        SoftmaxClassifier().fit_proba(rows, np.full((100, 2), 0.5))


@pytest.mark.parametrize("n_classes", [2, 4])
def test_a_chunk_without_rows_is_predicted(n_classes):
    X, y = problem(n=100, n_classes=n_classes)
    model = SoftmaxClassifier().fit(X, y)
    frame = dd.from_pandas(pd.DataFrame(X), npartitions=2)
    bare = SoftmaxClassifier().fit(pd.DataFrame(X).to_numpy(), y)
    kept = frame[frame[0] > frame[0].max() - 1e-9]  # one row, in one of the chunks
    for method in ("predict", "predict_proba", "decision_function"):
        expected = getattr(bare, method)(X[[X[:, 0].argmax()]])
        (rows,) = in_chunks((0, 100), X)
        assert len(getattr(model, method)(rows).compute()) == 100
        found = getattr(model, method)(kept).compute()
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        if method == "predict":
            assert found.tolist() == expected.tolist()
        else:
            np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_worker_that_goes_while_its_result_is_fetched_leaves_no_fit_waiting(client):
    from softhead.linear.dask import ClusterError, Runner

    class Stuck:
        """A client whose result is on a worker that is gone, as all others are."""

        loop = client.loop

        async def gather(self, future, asynchronous):
            await asyncio.sleep(60.0)

        def nthreads(self):
            return {}

    runner = Runner()
    runner._client = Stuck()
    with dask.config.set({"softhead.no-workers-timeout": 0.1}), pytest.raises(ClusterError, match=r"for 0\.1 s"):
        runner._watched(client.submit(int, 3))


def test_an_error_of_a_task_is_raised_as_it_is(client):
    from softhead.linear.dask import Runner

    def late():
        raise TimeoutError("the disk does not answer")

    with dask.config.set(scheduler=client):
        runner = Runner()
        with pytest.raises(TimeoutError, match="the disk does not answer"):
            runner.result(runner.task(late))


def test_a_label_that_was_not_there_before_is_named():
    """A chunk that is made again, as after the loss of a worker, may have become another."""
    from softhead.linear.chunks import encode, read

    X, y = problem(n=10)
    chunk = read(5, X, damaged(y, 3, "e"), None)
    with pytest.raises(ValueError, match=r"y: chunk 5 has the label.*'e'.* in row 3, which is not among the 4 classes"):
        encode(chunk, np.array(["a", "b", "c", "d"]), np.ones(4), "<f8")


@pytest.mark.parametrize(("scoring", "class_weight"), [("neg_log_loss", "balanced"), (None, None)])
def test_cross_validation_is_that_in_memory_on_the_same_folds(scoring, class_weight):
    X, y = problem(n=600)
    weight = np.random.default_rng(1).exponential(size=600)
    options = {"Cs": [1e-2, 10.0], "scoring": scoring, "class_weight": class_weight, "tol": 1e-8}
    in_turn = [(np.flatnonzero(np.arange(600) % 2 != k), np.arange(k, 600, 2)) for k in range(2)]
    expected = SoftmaxClassifierCV(cv=in_turn, **options).fit(X, y, weight)
    search = SoftmaxClassifierCV(cv=2, **options).fit(*in_chunks((101, 1, 498), X, y, weight))
    np.testing.assert_allclose(search.scores_, expected.scores_, atol=1e-5)
    assert search.C_ == expected.C_
    np.testing.assert_allclose(search.coef_, expected.coef_, atol=1e-4)
    (rows,) = in_chunks((300, 300), X)
    assert np.array_equal(search.predict(rows).compute(), search.predict(X))


def test_folds_and_scores_that_dask_has_not_are_refused():
    X, y = in_chunks((50, 50), *problem(n=100))
    with pytest.raises(ValueError, match=r"cv: 1; accepted .* is a number of folds"):
        SoftmaxClassifierCV(cv=1).fit(X, y)
    with pytest.raises(ValueError, match=r"scoring: 'f1_macro'; accepted for dask collections are"):
        SoftmaxClassifierCV(scoring="f1_macro").fit(X, y)


def mixed_table(n):
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"number": rng.normal(size=n), "of": rng.choice(list("pqrstuvwxyz"), size=n)})
    table["day"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 400, n), unit="D")
    table.loc[::7, "number"] = np.nan
    y = np.where(table["of"].isin(list("pqr")) ^ (table["number"] > 1.0), "yes", "no")
    return table, pd.Series(y)


def test_a_mixed_data_frame_goes_through_a_table_encoder(scheduler):
    table, y = mixed_table(600)
    lazy, labels = (dd.from_pandas(part, npartitions=3) for part in (table, y))
    expected = make_pipeline(TableEncoder(), SoftmaxClassifier(tol=1e-7)).fit(table, y)
    model = make_pipeline(TableEncoder(), SoftmaxClassifier(tol=1e-7)).fit(lazy, labels)
    assert model[0].get_feature_names_out().tolist() == expected[0].get_feature_names_out().tolist()
    assert model[1].objective_ == pytest.approx(expected[1].objective_, rel=1e-6)
    assert np.array_equal(model.predict(lazy).compute(), expected.predict(table))


def test_an_encoder_learns_from_some_rows_of_a_large_data_frame(monkeypatch):
    table, _ = mixed_table(600)
    monkeypatch.setattr("softhead.tables._LEARNED_ROWS", 200)
    encoder = TableEncoder().fit(dd.from_pandas(table, npartitions=2))
    chosen = pd.concat([table.iloc[:300:3], table.iloc[300::3]])
    assert encoder.get_feature_names_out().tolist() == TableEncoder().fit(chosen).get_feature_names_out().tolist()
    expected = TableEncoder().fit(chosen).transform(table)
    assert np.array_equal(encoder.transform(table), expected)
    with pytest.raises(TypeError, match="data frames are accepted"):
        TableEncoder().fit(da.ones((3, 2)))


def test_the_command_line_trains_on_the_workers_of_a_scheduler(client, tmp_path):
    runner = pytest.importorskip("typer.testing").CliRunner()
    app = pytest.importorskip("softhead.app.cli").app
    out = str(tmp_path / "digits.safetensors")
    command = ["train", "digits", "--tol", "1e-6", "--json", "--out", out]
    expected, result = (runner.invoke(app, command + more) for more in ([], ["--scheduler", client.scheduler.address]))
    assert result.exit_code == 0, result.output
    on_workers, alone = json.loads(result.stdout), json.loads(expected.stdout)
    assert on_workers["objective"] == pytest.approx(alone["objective"], rel=2e-6)
    assert on_workers["accuracy"] == alone["accuracy"]


class After:
    """A callback that does something once a fit has made so many passes."""

    def __init__(self, n_passes, action):
        self.n_passes, self.action = n_passes, action

    def setup(self, estimator, context): ...

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context): ...

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if self.action and fitted_estimator.n_passes_ >= self.n_passes:
            action, self.action = self.action, None
            action()


def test_a_killed_worker_changes_no_bit_and_a_fit_without_workers_ends_and_resumes(tmp_path):
    X, y = problem(n=600)
    rows, labels = in_chunks((100,) * 6, X, y)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        expected = SoftmaxClassifier(tol=1e-10).fit(rows, labels)
        for nanny in cluster.workers.values():
            nanny.close_gracefully()  # only that it starts no other worker in place of one that is gone
        first, second = client.run(os.getpid).values()
        killer = After(4, lambda: os.kill(first, signal.SIGKILL))
        model = SoftmaxClassifier(tol=1e-10).set_callbacks(killer).fit(rows, labels)
        assert killer.action is None
        assert list(client.run(os.getpid).values()) == [second]
        assert np.array_equal(model.coef_, expected.coef_)
        assert np.array_equal(model.intercept_, expected.intercept_)
        assert model.gap_ == expected.gap_

        killer = After(4, lambda: os.kill(second, signal.SIGKILL))
        stopped = SoftmaxClassifier(tol=1e-10, checkpoint=tmp_path / "state").set_callbacks(killer)
        alone = r"no worker has been there for 0\.5 s; a fit with a checkpoint goes on"
        with dask.config.set({"softhead.no-workers-timeout": 0.5}), pytest.raises(ConnectionError, match=alone):
            stopped.fit(rows, labels)
        assert killer.action is None
        assert (tmp_path / "state").exists()
    with dask.config.set(scheduler="threads"):
        model = SoftmaxClassifier(tol=1e-10, checkpoint=tmp_path / "state").fit(rows, labels)
    assert np.array_equal(model.coef_, expected.coef_)
    assert np.array_equal(model.intercept_, expected.intercept_)
    assert not (tmp_path / "state").exists()
