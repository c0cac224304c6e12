"""Tasks on several threads: all of them are done, also where no thread can be had, and a failure is the caller's."""

import subprocess
import sys
import threading

import pytest

import softhead
from softhead.kernels import threads


@pytest.fixture
def no_pool(monkeypatch):
    monkeypatch.setattr(threads, "_pool", None)
    monkeypatch.setattr(threads, "_pool_size", 0)


@pytest.mark.parametrize("granted", [0, 1])
def test_the_caller_does_what_no_thread_is_granted_for(no_pool, monkeypatch, granted):
    start, started, done = threading.Thread.start, [], []

    def start_few(thread):
        if len(started) == granted:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_few)
    with softhead.num_threads(4):
        threads.in_parallel(done.append, 100)
    assert sorted(done) == list(range(100))
    assert len(started) == granted


def test_a_failure_of_any_thread_is_raised():
    failed = threading.Event()

    def fail_elsewhere(task):
        if threading.current_thread() is threading.main_thread():
            failed.wait(10)
            return
        failed.set()
        raise LookupError(task)

    with softhead.num_threads(3), pytest.raises(LookupError):
        threads.in_parallel(fail_elsewhere, 100)


AFTER_THE_MAIN_THREAD = """
import atexit, threading
import numpy as np, softhead
x = np.zeros((300, 1000), np.float32)
def compute():
    print(softhead.softmax(x).sum())
def outlive():
    threading.main_thread().join()
    compute()
with softhead.num_threads(2):
    {before}
threading.Thread(target=outlive).start()
atexit.register(compute)
"""


@pytest.mark.parametrize("before", ["compute()", "pass"])
def test_calls_after_the_main_thread_has_ended(before):
    code = AFTER_THE_MAIN_THREAD.format(before=before)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert run.stderr == ""
    assert run.stdout.splitlines() == ["300.0"] * (3 if before == "compute()" else 2)
