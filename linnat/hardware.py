"""On which kernels does the arithmetic run, and which could it run on? Processor, BLAS libraries, threads; measured.

OpenBLAS picks its kernels by the name of the processor. A processor that it does not know gets older, slower kernels,
although it could run newer ones; the environment variable OPENBLAS_CORETYPE, read when the library is loaded, names
others. Results differ in their last bits between kernels, so that whoever records results records the kernel. A kernel
whose instructions the processor lacks is never tried: every measurement needs the flags, and runs in a child process.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from linnat._checks import as_count, as_scalar, fail

VARIABLE = "OPENBLAS_CORETYPE"
SPEEDUP = 1.15  # a kernel is recommended if it is faster by more than this
TIMEOUT = 20.0  # of one child
BUDGET = 2.5  # seconds after which `facts` starts no further child
LIBRARIES = ("numpy", "scipy")

# What the compiler may use where a kernel is built, not only its inner loops: x86-64, slowest first.
_AVX2 = frozenset({"sse4_2", "popcnt", "avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "movbe"})
_AVX512 = _AVX2 | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl", "adx", "clflushopt", "clwb"}
KERNELS: Mapping[str, frozenset[str]] = {
    "Nehalem": frozenset({"sse4_2", "popcnt"}),
    "Sandybridge": frozenset({"sse4_2", "popcnt", "avx"}),
    "Haswell": _AVX2,
    "Zen": _AVX2,
    "SkylakeX": _AVX512,
    "Cooperlake": _AVX512 | {"avx512_vnni", "avx512_bf16"},
    "SapphireRapids": _AVX512
    | {"avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8"},
}

_CHILD = """
import json, sys, time
import numpy as np
from scipy.linalg import blas
found = {"kernels": []}
try:
    import threadpoolctl
    found["kernels"] = [p.get("architecture") for p in threadpoolctl.threadpool_info() if p.get("architecture")]
except ImportError:
    pass
size, known = int(sys.argv[1]), json.loads(sys.argv[2])
for kind in ("float64", "float32") if found["kernels"] not in known else ():
    a = np.ones((size, size), kind) + np.arange(size, dtype=kind) / size
    f = np.asfortranarray(a)
    gemm = blas.dgemm if kind == "float64" else blas.sgemm
    for name, call in (("numpy", lambda: a @ a), ("scipy", lambda: gemm(1.0, f, f))):
        call()
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            call()
            best = min(best, time.perf_counter() - start)
        found[name + " " + kind] = 2e-9 * size**3 / best
print(json.dumps(found))
"""


class Library(NamedTuple):
    """The BLAS behind one package.

    Attributes
    ----------
    package : str
        "numpy" or "scipy".
    name, version : str
        From the package's own configuration.
    kernels, threads : str, int or None
        What was loaded; None without threadpoolctl, or where it cannot tell.
    """

    package: str
    name: str
    version: str
    kernels: str | None
    threads: int | None


class Timing(NamedTuple):
    """How fast one kernel multiplies matrices.

    Attributes
    ----------
    kernel : str
        Value of OPENBLAS_CORETYPE; "" for what the library picks itself.
    loaded : tuple of str
        What the libraries say that they loaded; empty without threadpoolctl.
    speeds : dict
        "numpy float64" and so on: 10⁹ flops per second; empty where the child process failed.
    """

    kernel: str
    loaded: tuple[str, ...]
    speeds: dict[str, float]


def processor() -> dict[str, Any]:
    """Return the processor's name and its flags (lower case; none where the system does not say).

    Examples
    --------
    >>> sorted(processor())
    ['cores', 'flags', 'name']
    """
    name, flags = platform.processor() or platform.machine(), frozenset[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "model name":
            name = value
        elif key in ("flags", "Features"):
            flags = frozenset(value.lower().split())
            break
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return {"name": name, "cores": cores, "flags": flags}


def libraries() -> tuple[Library, ...]:
    """Return the BLAS of NumPy and that of SciPy: two libraries with a pool of threads each, in wheels.

    Examples
    --------
    >>> [library.package for library in libraries()]
    ['numpy', 'scipy']
    """
    importlib.import_module("scipy.linalg")
    pools = _pools()
    found = []
    for package in LIBRARIES:
        config = _configuration(package)
        pool = _pool_of(package, pools)
        kernels, threads = pool.get("architecture"), pool.get("num_threads")
        found.append(Library(package, config.get("name", "?"), config.get("version", "?"), kernels, threads))
    return tuple(found)


def supported_kernels(flags: Iterable[str] | None = None) -> tuple[str, ...]:
    """Return the OpenBLAS kernels that a processor with these flags can run, slowest first.

    Parameters
    ----------
    flags : iterable of str, optional
        As in /proc/cpuinfo; those of this processor by default.

    Returns
    -------
    tuple of str
        Values for OPENBLAS_CORETYPE; empty where flags or the architecture are unknown.

    Examples
    --------
    >>> supported_kernels({"sse4_2", "popcnt", "avx"})
    ('Nehalem', 'Sandybridge')
    """
    own = processor()["flags"] if flags is None else frozenset(flags)
    return tuple(name for name, needed in KERNELS.items() if needed <= own)


def supported(name: str) -> str:
    """Return the kernel's name as OpenBLAS writes it, if this processor has its instructions.

    Parameters
    ----------
    name : str
        Upper or lower case.

    Returns
    -------
    str

    Raises
    ------
    InputError
        For a kernel that does not exist or whose instructions the processor lacks.

    Examples
    --------
    >>> try:
    ...     supported("Fast")
    ... except ValueError as error:
    ...     print(str(error)[:16])
    kernel: expected
    """
    known = {kernel.lower(): kernel for kernel in KERNELS}
    if not isinstance(name, str) or name.lower() not in known:
        fail("kernel", "one of auto, " + ", ".join(KERNELS), repr(name))
    kernel = known[name.lower()]
    flags = processor()["flags"]
    if not KERNELS[kernel] <= flags:
        lacking = " ".join(sorted(KERNELS[kernel] - flags)) if flags else "flags unknown"
        there = ", ".join(supported_kernels()) or "none known"
        fail(
            "kernel",
            "one that this processor supports",
            f"{kernel} (lacking: {lacking})",
            f"There are: {there}.",
        )
    return kernel


def measure(
    kernels: Iterable[str] | None = None, size: int = 640, budget: float | None = None
) -> tuple[Timing, ...]:
    """Time GEMM in child processes: with the kernels that the libraries pick, and with others that are supported.

    Parameters
    ----------
    kernels : iterable of str, optional
        By default the three newest supported ones.
    size : int
        Of the square matrices.
    budget : float, optional
        Seconds after which no further child is started.

    Returns
    -------
    tuple of Timing
        The library's own choice first. Each child takes half a second and inherits the numbers of threads. It
        multiplies nothing where it loads kernels that were timed already: a library holds only some of those that it
        can name. A child that crashes, hangs or prints something else has no speeds.

    Raises
    ------
    InputError
        For a kernel whose instructions this processor lacks: it is not started.
    """
    count = as_count(size, "size")
    seconds = math.inf if budget is None else as_scalar(budget, "budget", low=0.0)
    chosen = [supported(name) for name in kernels] if kernels is not None else supported_kernels()[-3:]
    start = time.monotonic()
    timings = [_time("", count, [])]
    for name in chosen if _is_openblas() else ():
        if time.monotonic() - start < seconds:
            timings.append(_time(name, count, [t.loaded for t in timings if t.loaded]))
    return tuple(timings)


def recommended(timings: Iterable[Timing]) -> str | None:
    """Return the kernel that beats the library's own choice by 15 % (median over libraries and types), or None.

    Examples
    --------
    >>> own, other = Timing("", (), {"numpy float64": 50.0}), Timing("SkylakeX", (), {"numpy float64": 90.0})
    >>> recommended([own, other])
    'SkylakeX'
    """
    own, *others = timings
    best, gain = None, SPEEDUP
    for timing in others:
        ratios = _gains(own, timing)
        if not ratios or (timing.loaded and timing.loaded == own.loaded):
            continue
        # Never at the price of another library or type.
        if min(ratios) > 1 / SPEEDUP and median(ratios) > gain:
            best, gain = timing.kernel, median(ratios)
    return best


def facts(*, measured: bool = False) -> dict[str, str]:
    """Return what a manifest or a reader needs to know, as text; with `measured` also the speeds of other kernels.

    Examples
    --------
    >>> "BLAS of numpy" in facts()
    True
    """
    chip = processor()
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_tile", "sve") if flag in chip["flags"]]
    told = {"processor": f"{chip['name']}, {chip['cores']} cores" + (f", {' '.join(wide)}" if wide else "")}
    for library in libraries():
        kernels = library.kernels or "kernels unknown (install threadpoolctl)"
        threads = f", {library.threads} threads" if library.threads else ""
        told[f"BLAS of {library.package}"] = f"{library.name} {library.version}, {kernels}{threads}"
    for name in (VARIABLE, "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        told[name] = os.environ.get(name, "not set")
    told["kernels that the processor supports"] = " ".join(supported_kernels()) or "unknown"
    if measured:
        told |= _describe(measure(budget=BUDGET))
    return told


def _describe(timings: tuple[Timing, ...]) -> dict[str, str]:
    """Return measured speeds and what follows from them, as text."""
    told = {}
    for timing in timings:
        speeds = ", ".join(f"{key} {speed:.0f}" for key, speed in timing.speeds.items())
        if not speeds:
            speeds = "the same kernels" if timing.loaded else "did not run"
        loaded = f" ({' '.join(dict.fromkeys(timing.loaded))})" if timing.loaded else ""
        told[f"GEMM, {timing.kernel or 'as picked'}{loaded}, GF/s"] = speeds
    return told | {"advice": _advice(timings)}


def _advice(timings: tuple[Timing, ...]) -> str:
    best, present = recommended(timings), os.environ.get(VARIABLE)
    if best is not None:
        gain = median(_gains(timings[0], next(t for t in timings if t.kernel == best)))
        verb = "keep" if present and present.lower() == best.lower() else "set"
        return f"{verb} {VARIABLE}={best}, before Python starts: {gain:.2f} times as fast as picked"
    if not timings[0].speeds:
        return "none: the measurement did not run"
    if present:
        return f"unset {VARIABLE}: no kernel is faster than the one picked without it"
    return "none: no other kernel is faster by 15 per cent"


def _gains(own: Timing, other: Timing) -> list[float]:
    return [other.speeds[key] / speed for key, speed in own.speeds.items() if key in other.speeds]


def with_kernel(kernel: str | None, *, restart: bool = True) -> None:
    """Go on with other OpenBLAS kernels: start this program again with OPENBLAS_CORETYPE set, if that is needed.

    Parameters
    ----------
    kernel : None, "auto" or str
        None changes nothing. "auto" measures, unless the variable is set already (then to a kernel whose
        instructions the processor has, or it raises), and changes nothing where no supported kernel is clearly faster.
        Otherwise a value of OPENBLAS_CORETYPE.
    restart : bool
        False where the program is not ours to start again: then a change that is needed raises.

    Raises
    ------
    InputError
        For a kernel that does not exist or whose instructions the processor lacks; where a restart is needed and not
        allowed.

    Notes
    -----
    The process is replaced (`os.execve`, with the interpreter's original arguments), elsewhere than on POSIX a child
    is waited for and its status handed on. The variable is then set, so that there is no second restart.

    Examples
    --------
    >>> with_kernel(None)
    """
    if kernel is None:
        return
    if kernel == "auto" and VARIABLE in os.environ:
        _refuse_lacking(os.environ[VARIABLE])
        return
    wanted = recommended(measure()) if kernel == "auto" else supported(kernel)
    if wanted is None or os.environ.get(VARIABLE, "").lower() == wanted.lower():
        return
    if not restart:
        remedy = f"Set {VARIABLE}={wanted} before Python starts."
        fail("kernel", "the kernels that are loaded already", repr(wanted), remedy)
    environment = {**os.environ, VARIABLE: wanted}
    command = [sys.executable, *sys.orig_argv[1:]]
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "posix":
        os.execve(sys.executable, command, environment)
    sys.exit(subprocess.run(command, env=environment, check=False).returncode)


def _refuse_lacking(name: str) -> None:
    """Raise for a kernel that is known to need instructions which the processor, if known, is known to lack."""
    needed = {kernel.lower(): flags for kernel, flags in KERNELS.items()}.get(name.lower(), frozenset())
    lacking = " ".join(sorted(needed - processor()["flags"]))
    if lacking and processor()["flags"]:
        found = f"{name} (lacking: {lacking})"
        fail(
            VARIABLE,
            "a kernel that this processor supports",
            found,
            "Unset it: it stops at the first product.",
        )


def _time(kernel: str, size: int, known: list[tuple[str, ...]]) -> Timing:
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    if kernel:
        environment[VARIABLE] = kernel
    try:
        run = subprocess.run(
            [sys.executable, "-c", _CHILD, str(size), json.dumps(known)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=True,
        )
        found = json.loads(run.stdout.splitlines()[-1])  # whatever else start-up files print comes before
        loaded = tuple(map(str, found.pop("kernels")))
        return Timing(kernel, loaded, {str(key): float(speed) for key, speed in found.items()})
    except (subprocess.SubprocessError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return Timing(kernel, (), {})


def _is_openblas() -> bool:
    return any("openblas" in library.name.lower() for library in libraries())


def _configuration(package: str) -> dict[str, str]:
    """Return name and version of the BLAS that a package was built with."""
    try:
        content = importlib.import_module(package).show_config(mode="dicts")
        return dict(content["Build Dependencies"]["blas"])
    except (TypeError, KeyError, AttributeError):
        return {}


def _pools() -> list[dict[str, Any]]:
    if importlib.util.find_spec("threadpoolctl") is None:
        return []
    content = importlib.import_module("threadpoolctl").threadpool_info()
    return [pool for pool in content if pool.get("user_api") == "blas"]


def _pool_of(package: str, pools: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the pool of the library beside a package (`numpy.libs/`); the only one where they share it."""
    own = [pool for pool in pools if f"{package}.libs" in str(pool.get("filepath"))]
    if not own and len(pools) == 1:
        return pools[0]
    return own[0] if own else {}


@cache
def blas_threads() -> Any | None:
    """Return threadpoolctl's control of the BLAS of NumPy (`num_threads`, `set_num_threads`), None where there is none.

    Examples
    --------
    >>> control = blas_threads()
    >>> control is None or control.num_threads >= 1
    True
    """
    if importlib.util.find_spec("threadpoolctl") is None:
        return None
    found = importlib.import_module("threadpoolctl").ThreadpoolController().lib_controllers
    own = [c for c in found if c.user_api == "blas"]
    beside = [c for c in own if "numpy.libs" in str(c.filepath)]
    if not beside and len(own) == 1:
        return own[0]
    return beside[0] if beside else None
