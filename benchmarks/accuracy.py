"""The largest error of every function with a stated bound, beside torch, SciPy and JAX, on rows meant to hurt.

    python benchmarks/accuracy.py [--write docs/numerics.md] [--lengths 3 10 1000 50000 131072]

Needs torch and jax. Truth is long double arithmetic of at least 64 bits, which is first held against mpmath on short
rows; where long double is narrower, truth is mpmath itself, and lengths beyond 1,000 take hours. Peers run at their
default settings, JAX with 64 bits enabled. A cell is in units in the last place (ulp) or a fraction of the bound, the
largest over all rows; where a result beyond the bound is NaN, infinite or 0, it says so instead.

The exit status is 1 where softhead exceeds a bound. A new function is one more entry in CASES.
"""

import argparse
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import mpmath
import numpy as np
import scipy.special
import torch
import torch.nn.functional as torch_functional

import softhead

jax.config.update("jax_enable_x64", True)

LENGTHS = (3, 10, 1_000, 50_000, 131_072)
DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
BLOCK_SIZE = 2**19  # entries measured at a time, which bounds memory
OPTIONS = {"label_smoothing": 0.1, "temperature": 0.5, "z_loss": 0.01}  # to divide by a power of two is exact
BEGIN, END = "<!-- begin: written by benchmarks/accuracy.py -->", "<!-- end -->"


class Arithmetic(NamedTuple):
    """Functions of arrays whose numbers are wider than float64."""

    wide: Callable[[Any], Any]
    exp: Callable[[Any], Any]
    log: Callable[[Any], Any]
    log1p: Callable[[Any], Any]


def elementwise(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return np.frompyfunc(function, 1, 1)


MPMATH = Arithmetic(*map(elementwise, (lambda x: mpmath.mpf(float(x)), mpmath.exp, mpmath.log, mpmath.log1p)))
LONG_DOUBLE = Arithmetic(lambda x: np.asarray(x).astype(np.longdouble), np.exp, np.log, np.log1p)
# The range of the exponent counts as much as the digits: exp(-1e4) must not underflow.
ARITHMETIC = LONG_DOUBLE if np.finfo(np.longdouble).maxexp >= 2**14 else MPMATH


class Rows(NamedTuple):
    """What functions are given: logits, a class, a distribution, probabilities and a vector for every row."""

    x: Any
    labels: Any
    q: Any
    p: Any
    c: Any
    weight: Any  # one for every class


class Truth(NamedTuple):
    """An exact result, what its bound is a multiple of, and what it may be off by in any case."""

    value: Any
    terms: Any = None
    slack: Any = 0.0


class Ulps(NamedTuple):
    """A bound in units in the last place of the result, 1 in the half types; those are the units of an error."""

    float32: int
    float64: int

    def unit(self, truth: Truth, dtype: np.dtype) -> Any:
        """Return what errors are measured in."""
        return spacing(truth.value, dtype)

    def limit(self, dtype: np.dtype) -> int:
        """Return how many units are allowed."""
        return {2: 1, 4: self.float32, 8: self.float64}[dtype.itemsize]

    def __str__(self) -> str:
        return f"In ulp; the bound is {self.float32} in float32, {self.float64} in float64, 1 in the half types."


class Terms(NamedTuple):
    """A bound of so many u times the terms; it is itself the unit of an error.

    Results of the half types are rounded once, from an arithmetic that may be off by `half` u of float32.
    """

    float32: int
    float64: int
    half: int
    terms: str

    def unit(self, truth: Truth, dtype: np.dtype) -> Any:
        """Return what errors are measured in."""
        if dtype.itemsize == 2:
            return spacing(truth.value, dtype) + self.half * 2.0**-24 * truth.terms
        factor, u = {4: (self.float32, 2.0**-24), 8: (self.float64, 2.0**-53)}[dtype.itemsize]
        return factor * u * truth.terms + float(ml_dtypes.finfo(dtype).smallest_subnormal)

    def limit(self, dtype: np.dtype) -> int:
        """Return how many units are allowed."""
        return 1

    def __str__(self) -> str:
        half = f" and {self.half} u of float32 times the same" if self.half else ""
        return (
            f"As a fraction of the bound: {self.float32} u in float32 and {self.float64} u in float64 times "
            f"{self.terms}; 1 ulp{half} in the half types."
        )


def spacing(exact: Any, dtype: np.dtype) -> np.ndarray:
    """Return the distance from exact numbers, rounded to a dtype, to their neighbours away from zero."""
    info = ml_dtypes.finfo(dtype)
    rounded = exact.astype(np.float64).astype(dtype).astype(np.float64)
    exponent = np.where(rounded == 0.0, info.minexp, np.frexp(rounded)[1] - 1)
    return np.ldexp(1.0, np.maximum(exponent, info.minexp) - info.nmant)


class Exact:
    """The exact results for rows, in forms without cancellation, so that wide arithmetic keeps its digits.

    With m the largest logit, d = (x - m) / temperature as a pair, and rest the sum of exp(d) without that of m.
    """

    def __init__(self, rows: Rows, arithmetic: Arithmetic, temperature: float = 1.0) -> None:
        self.rows, self.arithmetic = rows, arithmetic
        index, top = np.arange(len(rows.x)), rows.x.argmax(axis=1)
        at_top, self.at_label = (index, top), (index, rows.labels)
        z = arithmetic.wide(rows.x)
        m = z[at_top][:, np.newaxis]
        d = z - m  # its rounding error is kept, too (Knuth, The Art of Computer Programming 2, section 4.2.2)
        part = d - z
        d_lo = ((z - (d - part)) - (m + part)) / temperature
        self.d = d / temperature
        e = arithmetic.exp(self.d) * (1 + d_lo)
        e[at_top] = 0
        self.rest = e.sum(axis=1, keepdims=True)
        self.others = self.rest - e[self.at_label][:, np.newaxis] + (top != rows.labels)[:, np.newaxis]
        e[at_top] = 1
        self.p = e / (1 + self.rest)
        self.log_sum = arithmetic.log1p(self.rest)
        self.log_p = (self.d - self.log_sum) + d_lo
        self.m = m / temperature
        info = ml_dtypes.finfo(rows.x.dtype)
        underflows = (self.rest < float(info.smallest_normal)) & (rows.x.dtype.itemsize > 2)
        self.slack = underflows * (rows.x.shape[1] * float(info.smallest_subnormal))

    def logsumexp(self) -> Truth:
        """Return m + log1p(rest)."""
        return Truth(*(each[:, 0] for each in (self.m + self.log_sum, abs(self.m) + self.log_sum, self.slack)))

    def gradient(self) -> Truth:
        """Return p_j, and for the label minus the share of all others."""
        value = self.p.copy()
        value[self.at_label] = -(self.others / (1 + self.rest))[:, 0]
        return Truth(value, slack=self.slack)

    def gradient_of_distributions(self) -> Truth:
        """Return p_j sum q - q_j."""
        q = self.arithmetic.wide(self.rows.q)
        pulled = self.p * q.sum(axis=1, keepdims=True)
        return Truth(pulled - q, pulled + q)

    def gradient_with_options(self) -> Truth:
        """Return (p_j sum w q - w_j q_j + 2 z lse p_j) / T, where q is the smoothed label."""
        wide, rows = self.arithmetic.wide, self.rows
        tempered = Exact(rows, self.arithmetic, OPTIONS["temperature"])
        smoothing, z_loss, weight = (wide(v) for v in (OPTIONS["label_smoothing"], OPTIONS["z_loss"], rows.weight))
        wanted = np.tile(smoothing / len(weight) * weight, (len(rows.x), 1))
        wanted[self.at_label] += (1 - smoothing) * weight[rows.labels]
        pulled = tempered.p * wanted.sum(axis=1, keepdims=True)
        lse = 2 * z_loss * (tempered.m + tempered.log_sum) * tempered.p
        value, terms = pulled - wanted + lse, pulled + wanted + abs(lse)
        return Truth(value / OPTIONS["temperature"], terms / OPTIONS["temperature"])

    def entropy(self) -> Truth:
        """Return log1p(rest) - sum p d, of which no term is negative."""
        return Truth((self.log_sum - (self.p * self.d).sum(axis=1, keepdims=True))[:, 0], slack=self.slack[:, 0])

    def kl_divergence(self) -> Truth:
        """Return sum q (log q - log p), and 0 where it is negative: there, q was rounded to a sum below 1."""
        q = self.arithmetic.wide(self.rows.q)
        log_q = self.arithmetic.log(np.where(q == 0, 1, q))
        value, terms = q * (log_q - self.log_p), q * (abs(log_q) + abs(self.log_p))
        return Truth(np.maximum(value.sum(axis=1), 0), terms.sum(axis=1), self.slack[:, 0])

    def softmax_product(self) -> Truth:
        """Return p_j (c_j - sum p c)."""
        p, c = self.arithmetic.wide(self.rows.p), self.arithmetic.wide(self.rows.c)
        mean, size = ((p * factor).sum(axis=1, keepdims=True) for factor in (c, abs(c)))
        return Truth(p * (c - mean), p * (abs(c) + size))

    def log_softmax_product(self) -> Truth:
        """Return c_j - p_j sum c."""
        p, c = self.arithmetic.wide(self.rows.p), self.arithmetic.wide(self.rows.c)
        return Truth(c - p * c.sum(axis=1, keepdims=True), abs(c) + p * abs(c).sum(axis=1, keepdims=True))


def torch_gradient(x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor | None:
    x = x.clone().requires_grad_()
    torch_functional.cross_entropy(x, targets, reduction="sum").backward()
    return x.grad


def jax_cross_entropy(x: jax.Array, labels: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(x), labels[:, jnp.newaxis], axis=1)[:, 0]


class Case(NamedTuple):
    """A function: its bound, its truth, and what computes it in each library that has it."""

    name: str
    bound: Ulps | Terms
    truth: Callable[[Exact], Truth]
    softhead: Callable[[Rows], Any]
    torch: Callable[[Rows], Any] | None = None
    scipy: Callable[[Rows], Any] | None = None
    jax: Callable[[Rows], Any] | None = None


CASES = [
    Case(
        "softmax",
        Ulps(2, 2),
        lambda e: Truth(e.p),
        softhead=lambda r: softhead.softmax(r.x),
        torch=lambda r: torch.softmax(r.x, -1),
        scipy=lambda r: scipy.special.softmax(r.x, axis=-1),
        jax=lambda r: jax.nn.softmax(r.x),
    ),
    Case(
        "log_softmax",
        Ulps(4, 8),
        lambda e: Truth(e.log_p, slack=e.slack),
        softhead=lambda r: softhead.log_softmax(r.x),
        torch=lambda r: torch.log_softmax(r.x, -1),
        scipy=lambda r: scipy.special.log_softmax(r.x, axis=-1),
        jax=lambda r: jax.nn.log_softmax(r.x),
    ),
    Case(
        "logsumexp",
        Terms(4, 8, 0, "abs(m) + log1p(rest)"),
        Exact.logsumexp,
        softhead=lambda r: softhead.logsumexp(r.x),
        torch=lambda r: torch.logsumexp(r.x, -1),
        scipy=lambda r: scipy.special.logsumexp(r.x, axis=-1),
        jax=lambda r: jax.nn.logsumexp(r.x, axis=-1),
    ),
    Case(
        "cross_entropy",
        Ulps(4, 8),
        lambda e: Truth(-e.log_p[e.at_label], slack=e.slack[:, 0]),
        softhead=lambda r: softhead.cross_entropy(r.x, r.labels, reduction="none"),
        torch=lambda r: torch_functional.cross_entropy(r.x, r.labels, reduction="none"),
        jax=lambda r: jax_cross_entropy(r.x, r.labels),
    ),
    Case(
        "gradient of cross_entropy",
        Ulps(4, 8),
        Exact.gradient,
        softhead=lambda r: softhead.cross_entropy_value_and_grad(r.x, r.labels, reduction="none")[1],
        torch=lambda r: torch_gradient(r.x, r.labels),
        jax=lambda r: jax.grad(lambda x: jax_cross_entropy(x, r.labels).sum())(r.x),
    ),
    Case(
        "gradient of cross_entropy, targets that are probabilities",
        Terms(4, 8, 4, "p_j sum q + q_j"),
        Exact.gradient_of_distributions,
        softhead=lambda r: softhead.cross_entropy_value_and_grad(r.x, r.q, reduction="none")[1],
        torch=lambda r: torch_gradient(r.x, r.q),
        jax=lambda r: jax.grad(lambda x: -(r.q * jax.nn.log_softmax(x)).sum())(r.x),
    ),
    Case(
        "gradient of cross_entropy, every option",
        Terms(4, 8, 4, "(p_j sum w q + w_j q_j + 2 z abs(lse) p_j) / T"),
        Exact.gradient_with_options,
        softhead=lambda r: softhead.cross_entropy_value_and_grad(
            r.x, r.labels, weight=r.weight, reduction="none", **OPTIONS
        )[1],
    ),
    Case(
        "entropy",
        Ulps(4, 8),
        Exact.entropy,
        softhead=lambda r: softhead.entropy(r.x),
        torch=lambda r: torch.distributions.Categorical(logits=r.x, validate_args=False).entropy(),
    ),
    Case(
        "kl_divergence",
        Terms(8, 8, 8, "sum q (abs(log q) + abs(log p))"),
        Exact.kl_divergence,
        softhead=lambda r: softhead.kl_divergence(r.x, r.q, reduction="none"),
        torch=lambda r: torch_functional.kl_div(torch.log_softmax(r.x, -1), r.q, reduction="none").sum(-1),
    ),
    Case(
        "softmax_vjp",
        Terms(8, 8, 8, "p_j (abs(c_j) + sum p abs(c))"),
        Exact.softmax_product,
        softhead=lambda r: softhead.softmax_vjp(r.p, r.c),
        torch=lambda r: torch.ops.aten._softmax_backward_data(r.c, r.p, -1, r.x.dtype),  # what autograd calls
    ),
    Case(
        "softmax_jvp",
        Terms(8, 8, 8, "p_j (abs(t_j) + sum p abs(t))"),
        Exact.softmax_product,
        softhead=lambda r: softhead.softmax_jvp(r.p, r.c),
    ),
    Case(
        "log_softmax_vjp",
        Terms(8, 8, 8, "abs(c_j) + p_j sum abs(c)"),
        Exact.log_softmax_product,
        softhead=lambda r: softhead.log_softmax_vjp(r.p, r.c),
    ),
]


class Library(NamedTuple):
    """What a library is called, and how arrays go in and come out."""

    title: str
    take: Callable[[np.ndarray], Any]
    give: Callable[[Any], np.ndarray]
    dtypes: tuple[str, ...] = tuple(DTYPES)


def to_torch(array: np.ndarray) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


LIBRARIES = {
    "softhead": Library("softhead", np.asarray, lambda result: result.astype(np.float64)),
    "torch": Library("torch", to_torch, lambda result: result.double().numpy()),
    "scipy": Library("SciPy", np.asarray, lambda result: result.astype(np.float64), ("float32", "float64", "float16")),
    "jax": Library("JAX", jnp.asarray, lambda result: np.asarray(result).astype(np.float64)),
}


def logits(length: int, dtype: np.dtype) -> Iterator[tuple[np.ndarray, int]]:
    """Yield rows where floating-point softmax goes wrong, as float64, each with a class."""
    rng = np.random.default_rng(length)
    info = ml_dtypes.finfo(dtype)
    limit, eps = float(info.max), float(info.eps)
    for scale in (1e-3, 1.0, 30.0, 1e4):
        yield rng.standard_normal(length) * scale, 1
    for offset in (1e8, -1e8, limit, -limit):
        yield rng.standard_normal(length) * max(20.0, 4 * eps * abs(offset)) + offset, 1
    for gap in (17.0, 40.0, 88.0, 100.0, 700.0, 740.0, 1e3, 1e4, limit):
        row = rng.uniform(-1.0, 0.0, length)
        row[0] = gap
        yield row, 0  # confident and right
        yield row[::-1], 0  # confident and wrong
    yield rng.uniform(1.1 * np.log(float(info.smallest_subnormal)), 0.0, length), 1  # down to subnormal results
    yield np.log(rng.dirichlet(np.ones(length))), 1  # the maximum and the logarithm of the sum cancel
    yield np.full(length, 0.3), 1
    row = np.zeros(length)
    row[-2:] = 5.1
    yield row, length - 1
    row = rng.standard_normal(length)
    row[:2] = limit, -limit
    yield row, 0


def blocks(length: int, dtype: np.dtype) -> Iterator[Rows]:
    """Yield rows of all kinds, a block at a time."""
    limit = float(ml_dtypes.finfo(dtype).max)
    rows, classes = zip(*logits(length, dtype), strict=True)
    x, labels = np.clip(rows, -limit, limit).astype(dtype), np.array(classes)
    rng = np.random.default_rng(0)
    p = scipy.special.softmax(x.astype(np.float64), axis=1).astype(dtype)
    q = rng.dirichlet(np.full(length, 0.3), len(x)).astype(dtype)
    q[::3] = p[::3]  # there, a divergence is all but zero
    c = (rng.standard_normal(x.shape) * 10.0 ** rng.uniform(-2.0, 2.0, x.shape)).astype(dtype)
    weight = rng.uniform(0.0, 3.0, length)
    size = max(1, BLOCK_SIZE // length)
    for start in range(0, len(x), size):
        yield Rows(*(rows[start : start + size] for rows in (x, labels, q, p, c)), weight)


# How bad a result is: a kind, of which the largest counts, and a size within the kind.
NUMBER, ZERO, INFINITE, NAN = range(4)
Error = tuple[int, float]


def error(computed: np.ndarray, truth: Truth, bound: Ulps | Terms, dtype: np.dtype) -> Error:
    """Return the largest error of float64 numbers in units of a bound, or what they wrongly are instead of numbers."""
    exact = truth.value.astype(np.float64)
    difference = abs(ARITHMETIC.wide(computed) - truth.value)
    errors = (np.maximum(difference - truth.slack, 0) / bound.unit(truth, dtype)).astype(np.float64)
    errors[np.isnan(computed)] = np.nan  # which an array of objects does not tell
    errors[np.isinf(computed) & (exact.astype(dtype).astype(np.float64) == computed)] = 0.0
    wrong = ~(errors <= bound.limit(dtype))
    if np.isnan(computed[wrong]).any():
        return NAN, np.nan
    if np.isinf(computed[wrong]).any():
        return INFINITE, np.inf
    # 0 may also be a small error of a difference: it is a loss where the truth is many times the bound.
    lost = np.abs(exact[(errors > 10 * bound.limit(dtype)) & (computed == 0.0)])
    return (ZERO, lost.max()) if lost.size else (NUMBER, errors.max())


def measure(length: int, dtype: np.dtype) -> dict[tuple[str, str], Error]:
    """Return the largest error of every function and library that takes a dtype."""
    errors: dict[tuple[str, str], Error] = {}
    for rows in blocks(length, dtype):
        exact = Exact(rows, ARITHMETIC)
        taken = {
            name: (library, Rows(*map(library.take, rows)))
            for name, library in LIBRARIES.items()
            if dtype.name in library.dtypes
        }
        for case in CASES:
            truth = case.truth(exact)
            for name, (library, arrays) in taken.items():
                function = getattr(case, name)
                if function is not None:
                    found = error(library.give(function(arrays)), truth, case.bound, dtype)
                    errors[case.name, name] = max(found, errors.get((case.name, name), found))
    return errors


def doubt(length: int, dtype: np.dtype) -> float:
    """Return by how much the two wide arithmetics differ on short rows, in units of the bounds."""
    to_long_double = elementwise(lambda v: np.longdouble(mpmath.nstr(v, 25)))
    largest = 0.0
    for rows in blocks(length, dtype):
        ours, theirs = Exact(rows, LONG_DOUBLE), Exact(rows, MPMATH)
        for case in CASES:
            truth = case.truth(ours)
            expected = to_long_double(case.truth(theirs).value).astype(np.longdouble)
            difference = np.abs(truth.value - expected) / case.bound.unit(truth, dtype)
            largest = max(largest, float(difference[np.isfinite(truth.value.astype(dtype))].max()))
    return largest


def shown(found: Error, limit: int) -> str:
    """Return a cell of a table, bold where it is beyond the bound."""
    kind, size = found
    number = f"{size:.2f}" if size < 10 else f"{size:,.0f}" if size < 1e6 else f"{size:.0e}"
    text = {NUMBER: number, ZERO: f"0 for {size:.0e}", INFINITE: "inf", NAN: "NaN"}[kind]
    return text if kind == NUMBER and size <= limit else f"**{text}**"


def processor() -> str:
    """Return the name of the machine's processor, where the system tells."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return [*names, platform.processor() or platform.machine()][0]


def report(lengths: list[int]) -> tuple[str, bool]:
    """Return the tables as text, and whether softhead keeps every bound."""
    versions = ", ".join(f"{module.__name__} {module.__version__}" for module in (softhead, torch, scipy, jax, np))
    machine = f"{processor()}, {platform.system()} {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    text = [f"{versions}; Python {platform.python_version()}; {machine}.", ""]
    if ARITHMETIC is LONG_DOUBLE:
        largest = max(doubt(length, np.dtype(dtype)) for length in (3, 10) for dtype in DTYPES.values())
        if largest > 0.02:
            sys.exit(f"long double and mpmath differ by {largest:.2g} units")
        text[0] += f" Long double and mpmath (200 bits) differ by at most {largest:.1g} of a unit on rows of 3 and 10."
    found = {(name, length): measure(length, np.dtype(dtype)) for length in lengths for name, dtype in DTYPES.items()}
    kept = True
    for case in CASES:
        text += [f"### {case.name}", "", str(case.bound), ""]
        text += [
            f"| dtype | library | {' | '.join(f'{n:,}' for n in lengths)} |",
            "|---|---" + "|---:" * len(lengths) + "|",
        ]
        for name, dtype in DTYPES.items():
            limit = case.bound.limit(np.dtype(dtype))
            for library, (title, *_) in LIBRARIES.items():
                errors = [found[name, length].get((case.name, library)) for length in lengths]
                if errors[0] is not None:
                    cells = [shown(each, limit) for each in errors]
                    text.append(f"| {name} | {title} | {' | '.join(cells)} |")
                    kept &= library != "softhead" or not any("*" in cell for cell in cells)
        text.append("")
    return "\n".join(text), kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="a page whose tables are replaced")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="of rows, 3 or more")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with np.errstate(all="ignore"), mpmath.workprec(200):
        text, kept = report(options.lengths)
    if options.write is None:
        print(text)
    else:
        before, begin, rest = options.write.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not end:
            sys.exit(f"{options.write} has no place for the tables, between {BEGIN} and {END}")
        options.write.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")
    sys.exit(0 if kept else "softhead exceeds a bound")


if __name__ == "__main__":
    main()
