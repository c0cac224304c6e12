"""The softmax head of a classifier: exact, fused, trained to the optimum.

Public names are imported from here, whatever file defines them. They are loaded on first use, so that
``import softhead`` costs hardly more than ``import numpy``.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from softhead._version import __version__

if TYPE_CHECKING:  # what type checkers and editors read; tests hold it equal to _HOME below
    from softhead.calibration import TemperatureScaler as TemperatureScaler
    from softhead.calibration import calibrate as calibrate
    from softhead.cross_validation import SoftmaxClassifierCV as SoftmaxClassifierCV
    from softhead.derivatives import log_softmax_vjp as log_softmax_vjp
    from softhead.derivatives import softmax_jacobian as softmax_jacobian
    from softhead.derivatives import softmax_jvp as softmax_jvp
    from softhead.derivatives import softmax_vjp as softmax_vjp
    from softhead.displays.path import RegularizationPathDisplay as RegularizationPathDisplay
    from softhead.displays.reliability import ReliabilityDisplay as ReliabilityDisplay
    from softhead.displays.risk import RiskCoverageDisplay as RiskCoverageDisplay
    from softhead.divergences import distillation_loss as distillation_loss
    from softhead.divergences import entropy as entropy
    from softhead.divergences import kl_divergence as kl_divergence
    from softhead.estimator import SoftmaxClassifier as SoftmaxClassifier
    from softhead.export import to_onnx as to_onnx
    from softhead.export import to_sklearn as to_sklearn
    from softhead.functional import hardmax as hardmax
    from softhead.functional import log_softmax as log_softmax
    from softhead.functional import logsumexp as logsumexp
    from softhead.functional import normalize as normalize
    from softhead.functional import softmax as softmax
    from softhead.fused import LinearGradients as LinearGradients
    from softhead.fused import linear_cross_entropy as linear_cross_entropy
    from softhead.fused import linear_cross_entropy_hvp as linear_cross_entropy_hvp
    from softhead.fused import linear_cross_entropy_value_and_grad as linear_cross_entropy_value_and_grad
    from softhead.kernels.threads import num_threads as num_threads
    from softhead.likelihood import binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
    from softhead.likelihood import nll_loss as nll_loss
    from softhead.losses import cross_entropy as cross_entropy
    from softhead.losses import cross_entropy_hvp as cross_entropy_hvp
    from softhead.losses import cross_entropy_value_and_grad as cross_entropy_value_and_grad
    from softhead.metrics import brier_score as brier_score
    from softhead.metrics import calibration_error as calibration_error
    from softhead.metrics import ks_calibration_error as ks_calibration_error
    from softhead.metrics import log_loss as log_loss
    from softhead.metrics import out_of_scope_score as out_of_scope_score
    from softhead.metrics import reliability_table as reliability_table
    from softhead.metrics import risk_coverage as risk_coverage
    from softhead.model_file import load as load
    from softhead.model_file import save as save
    from softhead.paths import SoftmaxPath as SoftmaxPath
    from softhead.paths import softmax_path as softmax_path
    from softhead.rows.files import open_rows as open_rows
    from softhead.rows.source import RowSource as RowSource
    from softhead.sampling import arsm_gradient as arsm_gradient
    from softhead.sampling import gumbel_softmax as gumbel_softmax
    from softhead.tables import TableEncoder as TableEncoder
    from softhead.text import TextEncoder as TextEncoder

_HOME = {
    "LinearGradients": "fused",
    "RegularizationPathDisplay": "displays.path",
    "ReliabilityDisplay": "displays.reliability",
    "RiskCoverageDisplay": "displays.risk",
    "RowSource": "rows.source",
    "SoftmaxClassifier": "estimator",
    "SoftmaxClassifierCV": "cross_validation",
    "SoftmaxPath": "paths",
    "TableEncoder": "tables",
    "TemperatureScaler": "calibration",
    "TextEncoder": "text",
    "arsm_gradient": "sampling",
    "binary_cross_entropy_with_logits": "likelihood",
    "brier_score": "metrics",
    "calibrate": "calibration",
    "calibration_error": "metrics",
    "cross_entropy": "losses",
    "cross_entropy_hvp": "losses",
    "cross_entropy_value_and_grad": "losses",
    "distillation_loss": "divergences",
    "entropy": "divergences",
    "gumbel_softmax": "sampling",
    "hardmax": "functional",
    "kl_divergence": "divergences",
    "ks_calibration_error": "metrics",
    "linear_cross_entropy": "fused",
    "linear_cross_entropy_hvp": "fused",
    "linear_cross_entropy_value_and_grad": "fused",
    "load": "model_file",
    "log_loss": "metrics",
    "log_softmax": "functional",
    "log_softmax_vjp": "derivatives",
    "logsumexp": "functional",
    "nll_loss": "likelihood",
    "normalize": "functional",
    "num_threads": "kernels.threads",
    "open_rows": "rows.files",
    "out_of_scope_score": "metrics",
    "reliability_table": "metrics",
    "risk_coverage": "metrics",
    "save": "model_file",
    "softmax": "functional",
    "softmax_jacobian": "derivatives",
    "softmax_jvp": "derivatives",
    "softmax_path": "paths",
    "softmax_vjp": "derivatives",
    "to_onnx": "export",
    "to_sklearn": "export",
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
