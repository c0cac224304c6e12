"""The softmax head of a classifier: exact, fused, trained to the optimum.

Public names are imported from here, whatever file defines them. They are loaded on first use, so that
``import softhead`` costs hardly more than ``import numpy``.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from softhead._version import __version__

if TYPE_CHECKING:  # what type checkers and editors read; tests hold it equal to _HOME below
    from softhead.estimator import SoftmaxClassifier as SoftmaxClassifier
    from softhead.functional import log_softmax as log_softmax
    from softhead.functional import logsumexp as logsumexp
    from softhead.functional import softmax as softmax
    from softhead.fused import LinearGradients as LinearGradients
    from softhead.fused import linear_cross_entropy as linear_cross_entropy
    from softhead.fused import linear_cross_entropy_value_and_grad as linear_cross_entropy_value_and_grad
    from softhead.losses import cross_entropy as cross_entropy
    from softhead.losses import cross_entropy_value_and_grad as cross_entropy_value_and_grad
    from softhead.model_file import load as load
    from softhead.model_file import save as save
    from softhead.tables import TableEncoder as TableEncoder

_HOME = {
    "LinearGradients": "fused",
    "SoftmaxClassifier": "estimator",
    "TableEncoder": "tables",
    "cross_entropy": "losses",
    "cross_entropy_value_and_grad": "losses",
    "linear_cross_entropy": "fused",
    "linear_cross_entropy_value_and_grad": "fused",
    "load": "model_file",
    "log_softmax": "functional",
    "logsumexp": "functional",
    "save": "model_file",
    "softmax": "functional",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'softhead' has no attribute {name!r}")
    value = getattr(import_module(f"softhead.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
