"""BLAS has one thread during a run, and its own number again after the last of the runs that overlap."""

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from softhead.linear import blas
from softhead.linear.objective import LinearSoftmaxObjective
from softhead.linear.solver import solve


def threads():
    return {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two_threads():
    with threadpool_limits(2, user_api="blas"):
        yield


def test_a_run_holds_blas_to_one_thread_and_gives_it_back():
    X = np.random.default_rng(0).normal(size=(50, 3))
    objective = LinearSoftmaxObjective(X, np.arange(50) % 3, n_classes=3, l2=0.1)
    seen = []
    solve(objective, np.zeros((3, 4)), tol=1e-6, max_iter=9, callback=lambda *_: seen.append(threads()))
    assert seen
    assert all(found == {1} for found in seen)
    assert threads() == {2}


def test_large_products_have_all_threads_in_between():
    with blas.one_thread():
        with blas.all_threads():
            assert threads() == set(blas._at_first().values())
        assert threads() == {1}


def test_it_is_given_back_after_an_exception():
    with pytest.raises(KeyboardInterrupt), blas.one_thread():
        raise KeyboardInterrupt
    assert threads() == {2}


def test_runs_that_overlap_give_it_back():
    inside, one_out = Barrier(2), Barrier(2)

    def first():
        with blas.one_thread():
            inside.wait(10)
        one_out.wait(10)

    def second():
        with blas.one_thread():
            inside.wait(10)
            one_out.wait(10)

    with ThreadPoolExecutor(2) as pool:
        for run in [pool.submit(first), pool.submit(second)]:
            run.result()
    assert threads() == {2}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_made_in_the_middle_of_a_run_can_run_too():
    with blas.one_thread():
        child = os.fork()
        if child == 0:
            with blas.one_thread():
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
