import os
import signal
import sys

import pytest

# scikit-learn's estimator checks pass over array-API input where SciPy was not told of it before its import.
os.environ["SCIPY_ARRAY_API"] = "1"

# Without a GPU, Triton's kernels run in its interpreter, which must be asked for before Triton is imported.
if not os.path.exists("/dev/nvidia0"):
    os.environ["TRITON_INTERPRET"] = "1"

# A shell that starts the tests in the background has SIGINT ignored, and tests of Ctrl-C would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _one_thread_of_pytorch() -> None:
    # Its threads wait for each other in every product, however small: beside other work the sample inputs of PyTorch
    # and the examples took 35 s with two threads and 10 s with one.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
