"""What runs in a process of its own? `python -m linnat.compare.worker`: one order a line in, what happens a line out.

An order is {"folder", "task", "checkpoint_every", "wait"}; answers are {"kind": "progress", "share", "update",
, at its end, {"kind": "end", "status", "message"}. The process that started this one sets
the number of threads in its environment, before NumPy is imported here. Whatever else is printed goes to stderr. When
nobody reads any longer, the run is saved and the process ends.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from linnat._checks import InputError
from linnat.compare.locks import Busy
from linnat.compare.run import Outcome, execute, note_failure
from linnat.compare.tasks import Problem, Task, load_problem
from linnat.nonlinear.record import Row

Say = Callable[[dict[str, Any]], None]


def main() -> int:
    """Serve orders until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    # An interruption is for the process that gives the orders; it tells this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(sys.stdin, answers)
    return 0


def serve(orders: IO[str], answers: IO[str]) -> None:
    """Read orders, write answers."""
    known: dict[tuple[str, str, str, bool], Problem] = {}

    def say(answer: dict[str, Any]) -> None:
        try:
            answers.write(json.dumps(answer, ensure_ascii=False) + "\n")
            answers.flush()
        except OSError:
            # Nobody listens: the training loop saves and stops.
            os.kill(os.getpid(), signal.SIGTERM)

    for line in orders:
        outcome = obey(json.loads(line), known, say)
        say({"kind": "end", **outcome._asdict()})
        if outcome.status == "interrupted":
            return


def obey(order: dict[str, Any], known: dict[tuple[str, str, str, bool], Problem], say: Say) -> Outcome:
    """Do what one order says; whatever goes wrong is an outcome."""
    folder = Path(order["folder"])
    try:
        task = Task.from_json(order["task"])
        key = (task.data, task.model, task.dtype, task.validation)
        if key not in known:
            known.clear()
            known[key] = load_problem(*key[:3], validation=task.validation)

        def told(share: float, row: Row) -> None:
            say({"kind": "progress", "share": share, **_numbers(row)})

        every, wait = float(order["checkpoint_every"]), float(order["wait"])
        return execute(folder, task, known[key], told, checkpoint_every=every, wait=wait)
    except Busy as error:
        return Outcome("failed", str(error))  # it is not ours to write into
    except InputError as error:
        return _failed(folder, " ".join(str(error).split()))
    except Exception as error:
        traceback.print_exc()
        return _failed(folder, f"{type(error).__name__}: {error}")


def _failed(folder: Path, message: str) -> Outcome:
    try:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        note_failure(folder, message)
    except InputError as error:
        # Where nothing can be written no further run is worth starting.
        return Outcome("unwritable", f"{' '.join(str(error).split())} Before: {message}")
    return Outcome("failed", message)


def _numbers(row: Row) -> dict[str, float | None]:
    losses = {"loss": row.batch_loss, "train_loss": row.train_loss}
    known = {name: loss if math.isfinite(loss) else None for name, loss in losses.items()}
    return {"update": row.update, "seconds": row.seconds, **known}


if __name__ == "__main__":
    sys.exit(main())
