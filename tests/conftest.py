"""Hypothesis profiles and the data fixtures that every test may use.

The profile is chosen by the environment variable LINNAT_HYPOTHESIS: `dev` (few examples, random; the default),
`ci` (deterministic), `nightly` (many examples, random).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

# Before NumPy is imported: on small matrices pools of busy-waiting threads take most of the time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# In the background of a shell without job control Ctrl-C is ignored, and would be by the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.strategies import Problem, make_problem

COMMON = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
WITHOUT_DATABASE = tuple(phase for phase in Phase if phase is not Phase.reuse)
settings.register_profile("dev", max_examples=10, **COMMON)
settings.register_profile(
    "ci", max_examples=60, derandomize=True, database=None, phases=WITHOUT_DATABASE, **COMMON
)
settings.register_profile("nightly", max_examples=1000, **COMMON)
PROFILE = os.environ.get("LINNAT_HYPOTHESIS", "dev")
settings.load_profile(PROFILE)

REPOSITORY = Path(__file__).resolve().parent.parent
DATA_VARIABLE = "LINNAT_DATA"


def pytest_report_header() -> str:
    """Name the profile in the header of a run."""
    return f"hypothesis profile of linnat: {PROFILE} (environment variable LINNAT_HYPOTHESIS)"


def data_folders() -> list[Path]:
    """Return where data sets are looked for: LINNAT_DATA, then ../shared beside the repository."""
    named = os.environ.get(DATA_VARIABLE)
    return ([Path(named)] if named else []) + [REPOSITORY.parent / "shared"]


@pytest.fixture(scope="session")
def find_data() -> Callable[[str], Path]:
    """Return a function that finds a data set's folder by name, or skips the test and says why."""

    def find(name: str) -> Path:
        for folder in data_folders():
            if (folder / name).is_dir():
                return folder / name
        pytest.skip(f"no folder {name!r} in {DATA_VARIABLE} or ../shared beside the repository")

    return find


@pytest.fixture(scope="session")
def mnist_folder(find_data: Callable[[str], Path]) -> Path:
    """Return the folder with the four IDX files of MNIST."""
    return find_data("mnist")


@pytest.fixture(scope="session")
def fashion_mnist_folder(find_data: Callable[[str], Path]) -> Path:
    """Return the folder with the four IDX files of Fashion-MNIST."""
    return find_data("fashion-mnist")


@pytest.fixture
def rng() -> np.random.Generator:
    """Return the same generator for every test."""
    return np.random.default_rng(20240607)


@pytest.fixture(params=["tame", "ill-conditioned", "bottleneck", "rank-deficient", "singular", "biases"])
def rung(request: pytest.FixtureRequest) -> str:
    """Return each rung of the ladder in turn."""
    return str(request.param)


@pytest.fixture
def problem(rung: str) -> Problem:
    """Return one fixed problem of each rung."""
    return make_problem(rung, seed=1)
