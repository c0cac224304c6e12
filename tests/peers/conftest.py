import pytest


def pytest_configure(config: pytest.Config) -> None:
    # Marks in SciPy's and scikit-learn's tests, which their own configurations define.
    for name in ("skip_xp_backends", "xfail_xp_backends"):
        config.addinivalue_line("markers", f"{name}: array libraries on which a test of SciPy's cannot run")
    config.addinivalue_line("markers", "thread_unsafe: a test of scikit-learn's that may not run in several threads")
