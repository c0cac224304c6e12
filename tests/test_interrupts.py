"""Ctrl-C in the middle of a long call: it is answered soon, and nothing is written once it has been."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends a signal to one process")

# Arrays that need no memory: every entry of a row, and every row, is the same number.
CALLS = {
    "many rows": """
        out = repeated(np.empty(500, np.float32), (10**8, 500))
        call = lambda: softhead.softmax(np.broadcast_to(np.float32(1), out.shape), out=out)""",
    "one row": """
        out = repeated(np.empty(1, np.float32), (1, 10**11))
        call = lambda: softhead.softmax(np.broadcast_to(np.float32(1), out.shape), out=out)""",
    "many rows of float16": """
        out = repeated(np.empty(500, np.float16), (10**8, 500))
        call = lambda: softhead.log_softmax(np.broadcast_to(np.float16(1), out.shape), temperature=2.0, out=out)""",
    "fused": """
        out = np.empty(1)
        x, weight = np.ones((200_000, 64), np.float32), np.ones((20_000, 64), np.float32)
        call = lambda: softhead.linear_cross_entropy_value_and_grad(x, weight, np.zeros(len(x), int))""",
    "fit": """
        out = np.empty(1)
        X, y = np.random.default_rng(0).standard_normal((20_000, 200)), np.arange(20_000) % 50
        call = lambda: softhead.SoftmaxClassifier(C=1e6, tol=1e-15, max_iter=10**6).fit(X, y)""",
}

CHILD = """
import textwrap, time
import numpy as np, softhead

def repeated(row, shape):
    return np.lib.stride_tricks.as_strided(row, shape, (0, row.itemsize if row.size > 1 else 0))

exec(textwrap.dedent({code!r}))
for shape in ((10, 500), (1, 300_000)):  # compiled, or loaded, before the clock runs
    softhead.softmax(np.ones(shape, np.float32))
softhead.log_softmax(np.ones(500, np.float16), temperature=2.0)
softhead.linear_cross_entropy_value_and_grad(np.ones((2, 4), np.float32), np.ones((30, 4), np.float32), [0, 1])
print("ready", flush=True)
try:
    call()
except KeyboardInterrupt:
    answered = time.monotonic()
    base = out
    while base.base is not None:
        base = base.base if isinstance(base.base, np.ndarray) else base.base.base
    base[...] = -1
    time.sleep(0.05)
    print(answered, bool((base == -1).all()), flush=True)
"""


@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c_is_answered(name):
    command = [sys.executable, "-c", CHILD.format(code=CALLS[name])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.5)  # into the call
            sent = time.monotonic()
            child.send_signal(signal.SIGINT)
            answered, untouched = child.communicate(timeout=30)[0].split()
        finally:
            child.kill()
    assert float(answered) - sent < 1.0
    assert untouched == "True"
