"""The functions, the fused loss and the classifier on a GPU: errors first, then times beside their peers, in one call.

    python benchmarks/gpu.py [--seconds 100] [--out FOLDER] [--only checks ceilings rows linear probe] [--tune]

The parts, in this order: ``checks`` holds results against extended precision and looks for what a GPU may break;
``ceilings`` measures how fast memory is copied and matrices are multiplied; ``rows`` times the functions of rows;
``linear`` times linear_cross_entropy beside its three matrix products; ``probe`` fits a linear probe of ImageNet's
size. Each part begins no new case after its share of the time, so that the whole call ends within ten minutes. Every
figure is written to a file of JSON lines in --out as soon as it is known, and tables are printed at the end. A part
that fails prints its error, and the others run. What is under way after --limit seconds is broken off, and the tables
are printed all the same.

PyTorch 2.9 or later with CUDA must be there, and NumPy. softhead is imported from this checkout where it is not
installed. Without Triton the formulas are measured, not the kernels. Only ``probe`` needs scikit-learn 1.9 with SciPy;
with SciPy and threadpoolctl alone it takes one fit by the solver. Without Numba all parts run on a GPU: see
`gpu_without_numba.py`. Peers that are missing (Liger, Quack, cut-cross-entropy) are left out.

--tune tries numbers of warps and tiles for the kernels on this device and prints the quickest. With --device cpu --tiny
every part runs on CPU tensors of small sizes, to see that it runs: those times say nothing about a GPU.
"""

import argparse
import os
import sys

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic algorithms ask for: 32 MB, as usual
os.environ.setdefault("SCIPY_ARRAY_API", "1")  # scikit-learn's dispatch asks for it

import datetime
import json
import platform
import re
import signal
import time
import traceback
from importlib import import_module, metadata
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "src"))  # after what is installed

import gpu_without_numba

import softhead

# The module and the function of each; imported when its turn comes, for it may need what is not there.
PARTS = {
    "checks": ("gpu_checks", "run"),
    "ceilings": ("gpu_ceilings", "ceilings"),
    "rows": ("gpu_rows", "run"),
    "linear": ("gpu_linear", "run"),
    "probe": ("gpu_probe", "run"),
    "tune": ("gpu_tune", "run"),
}
SHARE = {"checks": 0.8, "ceilings": 0.2, "rows": 2.0, "linear": 1.0, "probe": 1.2, "tune": 1.2}  # of --seconds


class OutOfTime(BaseException):
    """The call has had its time: no error of a part or of a contestant, which are caught."""


def out_of_time(*_):
    raise OutOfTime


class Session:
    """Where a part runs, how long it may begin new cases, and where its figures go."""

    def __init__(self, device, tiny, seconds, file):
        self.device, self.tiny, self.seconds, self.file = torch.device(device), tiny, seconds, file
        self.on_gpu = self.device.type == "cuda"
        self.ceilings, self.lines, self.part, self.ends = {}, [], "", float("inf")

    def begin(self, part):
        """Begin a part, and its time."""
        self.part, self.ends = part, time.perf_counter() + self.seconds * SHARE[part]

    def expired(self):
        """Return whether the part has had its time."""
        return time.perf_counter() > self.ends

    def record(self, **figures):
        """Write a line of figures."""
        line = {"part": self.part, **figures}
        self.lines.append(line)
        self.file.write(json.dumps(line, default=str) + "\n")
        self.file.flush()
        print(" ".join(f"{key}={_short(value)}" for key, value in line.items()), flush=True)

    def medians(self, calls, *, spend=1.0):
        """Return the median seconds of each call, in turns, and the errors of those that fail when warmed up.

        `spend` is how many seconds the turns take together, with at least 5 and at most 50 of them.
        """
        calls, errors = dict(calls), {}
        for name in list(calls):
            try:
                for _ in range(2):  # compiles and chooses; the second is quick
                    calls[name]()
                self.wait()
            except Exception as error:  # a peer's, or what it lacks
                errors[name] = (
                    f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"
                )
                del calls[name]
                traceback.clear_frames(error.__traceback__)
        if not calls:
            return {}, errors
        start = time.perf_counter()
        for call in calls.values():
            call()
        self.wait()
        turns = 2 if self.tiny else int(min(50, max(5, spend / max(time.perf_counter() - start, 1e-6))))
        times = {name: [] for name in calls}
        for _ in range(turns):
            for name, call in calls.items():
                times[name].append(self._timed(call))
        self.wait()
        return {name: _median([read() for read in of_call]) for name, of_call in times.items()}, errors

    def wait(self):
        """Wait until the device has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def _timed(self, call):
        """Make a call; return what reads its seconds once the device has finished."""
        if not self.on_gpu:
            start = time.perf_counter()
            call()
            took = time.perf_counter() - start
            return lambda: took
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        call()
        last.record()
        return lambda: first.elapsed_time(last) / 1e3


def _median(values):
    values = sorted(values)
    return values[len(values) // 2]


def _short(value):
    return f"{value:.4g}" if isinstance(value, float) else value


def table(lines):
    """Print a part's lines as Markdown, a table for each set of columns."""
    seen = []
    for line in lines:
        columns = tuple(key for key in line if key != "part")
        if columns not in seen:
            seen.append(columns)
    for columns in seen:
        print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
        for line in lines:
            if tuple(key for key in line if key != "part") == columns:
                print("| " + " | ".join(str(_short(line[column])) for column in columns) + " |")
        print()


def machine(device):
    """Return what the figures depend on."""
    found = {"softhead": softhead.__version__, "torch": torch.__version__, "python": platform.python_version()}
    found |= {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    if device != "cuda":
        return found | {"device": platform.machine()}
    properties = torch.cuda.get_device_properties(0)
    found |= {"device": properties.name, "multiprocessors": properties.multi_processor_count}
    found |= {"memory": properties.total_memory, "cache": properties.L2_cache_size, "cuda": torch.version.cuda}
    return found


def versions():
    """Return the versions of what may be missing."""
    found = {}
    for name in ("numpy", "triton", "numba", "scikit-learn", "liger-kernel", "quack-kernels", "cut-cross-entropy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that every part runs")
    parser.add_argument("--seconds", type=float, default=100.0, help="a part's time, on average")
    parser.add_argument("--limit", type=int, default=550, help="seconds after which the call is broken off")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--only", nargs="+", choices=list(PARTS))
    parser.add_argument("--tune", action="store_true", help="also try warps and tiles")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no CUDA device; --device cpu --tiny runs everything on the CPU")
    if options.device == "cuda":
        gpu_without_numba.stand_in()
    found = machine(options.device) | versions()
    options.out.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "-", found["device"]).strip("-").lower()
    parts = options.only or [part for part in PARTS if part != "tune"]
    if options.tune and "tune" not in parts:
        parts.append("tune")
    with (options.out / f"gpu-{found['date'][:10]}-{name}.jsonl").open("a", encoding="utf-8") as file:
        session = Session(options.device, options.tiny, options.seconds, file)
        session.part = "machine"
        session.record(**found)
        before = signal.signal(signal.SIGALRM, out_of_time)
        signal.alarm(options.limit)
        try:
            for part in parts:
                run_part(session, part)
        except OutOfTime:
            session.record(error=f"broken off: the call has had its {options.limit} s")
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        for part in parts:
            print(f"\n## {part}\n")
            table([line for line in session.lines if line["part"] == part and "took" not in line])


def run_part(session, part):
    """Run a part; record its error, if there is one, and its time."""
    session.begin(part)
    start = time.perf_counter()
    try:
        module, function = PARTS[part]
        getattr(import_module(module), function)(session)
    except Exception as error:
        traceback.print_exc()
        session.record(error=f"{type(error).__name__}: {error}"[:500])
    session.record(took=time.perf_counter() - start)
    if session.on_gpu:
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
