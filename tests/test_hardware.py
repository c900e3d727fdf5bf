"""Is it said on which kernels the arithmetic runs, and is none tried that the processor lacks?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linnat import hardware
from linnat._checks import InputError
from linnat.hardware import Timing

ROOT = Path(__file__).resolve().parent.parent
SKYLAKE = hardware.KERNELS["SkylakeX"]


def pretend(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    chip = {"name": "a processor", "cores": 2, "flags": frozenset(flags)}
    monkeypatch.setattr(hardware, "processor", lambda: chip)


def forbid_children(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("a child process was started")

    monkeypatch.setattr(hardware.subprocess, "run", start)
    monkeypatch.setattr(hardware.os, "execve", start)


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != hardware.VARIABLE} | variables
    return subprocess.run(
        [sys.executable, "-c", code, "an argument"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_facts_are_words() -> None:
    facts = hardware.facts()
    assert {
        "processor",
        "BLAS of numpy",
        "BLAS of scipy",
        "OPENBLAS_CORETYPE",
        "OPENBLAS_NUM_THREADS",
    } <= set(facts)
    assert all(isinstance(value, str) and value for value in facts.values())
    config: Any = np.show_config(mode="dicts")
    assert facts["BLAS of numpy"].startswith(config["Build Dependencies"]["blas"]["name"])


def test_threads_and_kernels_are_those_of_threadpoolctl() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        found = hardware.libraries()
    assert [library.package for library in found] == ["numpy", "scipy"]
    assert {library.threads for library in found} <= {1, None}


def test_without_threadpoolctl_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: None)
    assert all(library.kernels is None and library.threads is None for library in hardware.libraries())
    assert "install threadpoolctl" in hardware.facts()["BLAS of numpy"]


def test_kernels_need_every_flag() -> None:
    assert hardware.supported_kernels([]) == ()
    assert hardware.supported_kernels(SKYLAKE)[-1] == "SkylakeX"
    for flag in SKYLAKE:
        assert "SkylakeX" not in hardware.supported_kernels(SKYLAKE - {flag})
    # AVX-512 without AMX is not the newest kernel.
    assert "SapphireRapids" not in hardware.supported_kernels(SKYLAKE | {"avx512_bf16", "avx512_vnni"})


@pytest.mark.parametrize("name", ["SkylakeX", "skylakex", "Cooperlake"])
def test_a_kernel_that_the_processor_lacks_is_never_started(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, "sse4_2", "popcnt", "avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "movbe")
    forbid_children(monkeypatch)
    with pytest.raises(
        InputError, match=r"^kernel: expected one that this processor supports.*lacking: .*avx512f"
    ):
        hardware.measure([name])
    with pytest.raises(InputError, match=r"There are: Nehalem, Sandybridge, Haswell, Zen\."):
        hardware.with_kernel(name)


def test_a_variable_that_names_a_kernel_that_the_processor_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forbid_children(monkeypatch)
    monkeypatch.setenv(hardware.VARIABLE, "skylakex")
    pretend(monkeypatch, "sse4_2", "popcnt", "avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "movbe")
    with pytest.raises(
        InputError, match=r"^OPENBLAS_CORETYPE: expected a kernel .*, found skylakex \(lacking: .*avx512f"
    ):
        hardware.with_kernel("auto")
    for name in ("Haswell", "NeoverseN1"):  # supported; not one of those that are known
        monkeypatch.setenv(hardware.VARIABLE, name)
        hardware.with_kernel("auto")
    pretend(monkeypatch)  # flags are unknown
    monkeypatch.setenv(hardware.VARIABLE, "SkylakeX")
    hardware.with_kernel("auto")


def test_an_unknown_processor_supports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    forbid_children(monkeypatch)
    with pytest.raises(InputError, match=r"Haswell \(lacking: flags unknown\)"):
        hardware.with_kernel("Haswell")
    with pytest.raises(InputError, match="^kernel: expected one of auto, Nehalem"):
        hardware.with_kernel("Fast")


def test_a_faster_kernel_is_recommended() -> None:
    def timing(kernel: str, *speeds: float, loaded: tuple[str, ...] = ()) -> Timing:
        keys = ("numpy float64", "numpy float32", "scipy float64", "scipy float32")
        return Timing(kernel, loaded, dict(zip(keys, speeds, strict=False)))

    own = timing("", 50, 100, 50, 100, loaded=("Haswell",))
    assert hardware.recommended([own]) is None
    assert hardware.recommended([own, timing("SkylakeX", 95, 190, 96, 200)]) == "SkylakeX"
    assert (
        hardware.recommended([own, timing("Zen", 70, 120, 70, 140), timing("SkylakeX", 95, 190, 96, 200)])
        == "SkylakeX"
    )
    # One lucky measurement, a loss elsewhere, the same kernels under another name, a child that failed: no advice.
    assert hardware.recommended([own, timing("Zen", 50, 160, 51, 101)]) is None
    assert hardware.recommended([own, timing("Zen", 95, 190, 96, 50)]) is None
    assert hardware.recommended([own, timing("Zen", 95, 190, 96, 200, loaded=("Haswell",))]) is None
    assert hardware.recommended([own, timing("Zen")]) is None


def test_a_child_that_fails_is_reported_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_CHILD", "import os; os.abort()")
    found = hardware.measure([])
    assert found == (Timing("", (), {}),)
    monkeypatch.setattr(hardware, "measure", lambda **_: found)
    facts = hardware.facts(measured=True)
    assert facts["advice"] == "none: the measurement did not run"
    assert facts["GEMM, as picked, GF/s"] == "did not run"


@pytest.mark.parametrize(
    "code",
    [
        "print('[1, 2]')",
        "print('{}')",
        "pass",
        "print(chr(123))",
        """print('{"kernels": 3}')""",
        """print('{"kernels": [], "numpy float64": null}')""",
        "import time; time.sleep(60)",
    ],
)
def test_a_child_that_answers_something_else_or_nothing_has_no_speeds(
    code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_CHILD", code)
    monkeypatch.setattr(hardware, "TIMEOUT", 1.0)
    assert hardware.measure([]) == (Timing("", (), {}),)


def test_a_child_that_talks_before_it_answers_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_CHILD", """print('hello\\n{"kernels": ["A"], "numpy float64": 2}')""")
    assert hardware.measure([]) == (Timing("", ("A",), {"numpy float64": 2.0}),)


def test_another_library_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_is_openblas", lambda: False)
    monkeypatch.setattr(hardware, "_CHILD", """print('{"kernels": [], "numpy float64": 2}')""")
    assert [timing.kernel for timing in hardware.measure()] == [""]
    pretend(monkeypatch)  # a processor that is not x86-64: no kernels are known
    facts = hardware.facts(measured=True)
    assert facts["kernels that the processor supports"] == "unknown"
    assert facts["GEMM, as picked, GF/s"] == "numpy float64 2"


def test_no_child_is_started_once_the_time_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_CHILD", """print('{"kernels": []}')""")
    monkeypatch.setattr(hardware, "_is_openblas", lambda: True)
    pretend(monkeypatch, *SKYLAKE)
    assert len(hardware.measure()) == 4
    assert len(hardware.measure(budget=0.0)) == 1
    with pytest.raises(InputError, match="^budget: expected a finite number"):
        hardware.measure(budget=-1.0)


def test_the_advice_knows_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Timing("", ("Haswell",), {"numpy float64": 50.0})
    fast = Timing("SkylakeX", ("SkylakeX",), {"numpy float64": 90.0})
    same = Timing("Zen", ("Haswell",), {})
    for found, value, words in (
        ((own, same, fast), None, "set OPENBLAS_CORETYPE=SkylakeX, before Python starts: 1.80 times"),
        ((own, fast), "skylakex", "keep OPENBLAS_CORETYPE=SkylakeX"),
        ((own, same), "Nehalem", "unset OPENBLAS_CORETYPE"),
        ((own, same), None, "none: no other kernel is faster by 15 per cent"),
    ):
        if value is None:
            monkeypatch.delenv(hardware.VARIABLE, raising=False)
        else:
            monkeypatch.setenv(hardware.VARIABLE, value)
        monkeypatch.setattr(hardware, "measure", lambda found=found, **_: found)
        facts = hardware.facts(measured=True)
        assert facts["advice"].startswith(words)
    assert facts["GEMM, Zen (Haswell), GF/s"] == "the same kernels"


@pytest.mark.skipif(not hardware.supported_kernels(), reason="no kernels are known for this processor")
@pytest.mark.skipif(not hardware._is_openblas(), reason="the BLAS is not OpenBLAS")
def test_measurements_run_with_the_kernels_that_they_name() -> None:
    pytest.importorskip("threadpoolctl")
    own, other = hardware.measure(["Nehalem"], size=96)
    assert (
        set(own.speeds)
        == set(other.speeds)
        == {f"{p} float{b}" for p in ("numpy", "scipy") for b in (32, 64)}
    )
    assert min(*own.speeds.values(), *other.speeds.values()) > 0
    assert set(other.loaded) == {"Nehalem"} != set(own.loaded)


@pytest.mark.skipif("Nehalem" not in hardware.supported_kernels(), reason="not an x86-64 processor")
def test_the_program_starts_again_with_the_variable_set() -> None:
    code = (
        "import os, sys\nfrom linnat import hardware\nprint('once')\nhardware.with_kernel('nehalem')\n"
        "print(os.environ['OPENBLAS_CORETYPE'], sys.argv[1])\nsys.exit(3)"
    )
    done = run(code)
    assert done.stdout.splitlines() == ["once", "once", "Nehalem an argument"]
    assert done.returncode == 3
    # Where it is set already, and where nothing is asked for, nothing happens.
    assert run(code, OPENBLAS_CORETYPE="Nehalem").stdout.splitlines() == ["once", "Nehalem an argument"]
    code = "import sys\nfrom linnat import hardware\nhardware.with_kernel({})\nprint('once')"
    assert run(code.format("None")).stdout == "once\n"
    assert run(code.format("'auto'"), OPENBLAS_CORETYPE="Nehalem").stdout == "once\n"


@pytest.mark.skipif("Nehalem" not in hardware.supported_kernels(), reason="not an x86-64 processor")
def test_somebody_elses_program_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_children(monkeypatch)
    monkeypatch.delenv(hardware.VARIABLE, raising=False)
    with pytest.raises(InputError, match="Set OPENBLAS_CORETYPE=Nehalem before Python starts"):
        hardware.with_kernel("Nehalem", restart=False)
    monkeypatch.setattr(hardware, "measure", lambda: (Timing("", (), {}),))
    hardware.with_kernel("auto")


def test_bad_sizes() -> None:
    with pytest.raises(InputError, match="^size: expected an integer"):
        hardware.measure([], size=0)
