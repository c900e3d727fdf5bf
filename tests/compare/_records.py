"""Comparisons made up by hand, for what reads them."""

from __future__ import annotations

from linnat.compare.methods import METHODS
from linnat.compare.plan import Plan
from linnat.compare.results import Record, Search
from linnat.compare.summary import Curve, Reported

RATES = {"sgd": 0.3, "nesterov": 0.6, "adam": 0.8, "kfac": 1.5}


def curve(method: str, seed: int, status: str = "finished", rate: float = 1.0, steps: int = 20) -> Curve:
    """Return a run whose loss is 1 + 100/(1 + rate·k)² (1 + seed/10) at evaluation k: 50 k updates, k/2 seconds."""
    points = []
    for k in range(steps + 1):
        loss = 1 + 100 / (1 + rate * k) ** 2 * (1 + seed / 10)
        points.append(Reported(50 * k, 5000 * k, 0.5 * k, loss, loss / 5, 1.1 * loss, 1.1 * loss / 5, False))
    message = "" if status == "finished" else f"it has <{status}> & stopped"
    return Curve(method, seed, status, message, tuple(points) if status in ("finished", "diverged") else ())


def record(methods: dict[str, float] | None = None, seeds: int = 3, extra: tuple[Curve, ...] = ()) -> Record:
    """Return a comparison of methods with the given rates."""
    rates = RATES if methods is None else methods
    plan = Plan("digits", "ab" * 32, "digits", tuple(rates), None, 10.0, seeds, 3, None, 2.0)
    curves = [curve(name, seed, rate=rate) for name, rate in rates.items() for seed in range(seeds)]
    kept = [c for c in curves if (c.method, c.seed) not in {(e.method, e.seed) for e in extra}]
    searches = []
    for name in rates:
        settings = dict(METHODS[name].defaults)
        losses = (3.0, None, 2.0)
        trials = tuple(
            {
                "number": k,
                "settings": settings,
                "loss": loss,
                "status": "finished" if loss is not None else "diverged",
            }
            for k, loss in enumerate(losses)
        )
        searches.append(Search(name, settings, 2, trials))
    machine = {"processor": "one of them", "BLAS of numpy": "OpenBLAS, <kernel>"}
    return Record(plan, "64-8-64, a network in words", (*kept, *extra), tuple(searches), (machine,))
