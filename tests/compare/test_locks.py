"""Does one process at a time have a folder, and nobody after it is gone?"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from linnat import InputError
from linnat.compare.locks import Busy, locked

HOLD = """
import sys, time
from pathlib import Path
from linnat.compare.locks import locked
with locked(Path(sys.argv[1]), "run"):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_held_folder_is_refused_until_its_process_is_killed(tmp_path: Path) -> None:
    process = hold(tmp_path / "run")
    try:
        with pytest.raises(Busy, match=f"in use by process {process.pid} "), locked(tmp_path / "run", "run"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with locked(tmp_path / "run", "run"):
            pass
    finally:
        process.kill()
        process.communicate()


def test_one_may_wait_for_it(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        begin = time.monotonic()
        with pytest.raises(Busy), locked(tmp_path, "run", wait=0.5):
            pass
        assert 0.5 <= time.monotonic() - begin < 5
        process.kill()
        with locked(tmp_path, "run", wait=20.0):
            pass
    finally:
        process.kill()
        process.communicate()


def test_it_is_held_against_this_process_too_and_let_go_after_an_error(tmp_path: Path) -> None:
    with locked(tmp_path, "run"), pytest.raises(Busy), locked(tmp_path, "run"):
        pass
    with pytest.raises(ZeroDivisionError), locked(tmp_path, "run"):
        raise ZeroDivisionError
    with locked(tmp_path, "run"):
        pass


def test_what_an_old_lock_says_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("1 on another machine, a long time ago\n")
    with locked(tmp_path, "run"):
        pass


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="a folder that can be written"),
        locked(tmp_path / "file" / "x", "--out"),
    ):
        pass
