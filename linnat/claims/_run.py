"""How are claims run? Problem by problem, claim by claim; a verdict from measures, and nothing else decides one."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np

from linnat._checks import RankWarning, RngLike, as_rng, fail
from linnat.claims._conditions import geometry
from linnat.claims._core import Case, Claim, Measures, Report, Row, Verdict, worst
from linnat.claims._registry import registry
from linnat.claims.ladder import Problem, ladder
from linnat.claims.real import describe, own_problem, real_problems
from linnat.data import DataSet, MissingExtra, load_data
from linnat.exact.network import LinearNetwork, as_network
from linnat.exact.task import Task, as_task

Progress = Callable[[int, int, str], None]
OWN_SECONDS = 18.0
LARGE = 256  # width from which a second BLAS thread pays


def verify(
    claims: Iterable[str] | str | None = None,
    network: LinearNetwork | None = None,
    task: Task | None = None,
    rng: RngLike = 0,
    data: DataSet | str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check statements on random problems and real data, or on one network of your own.

    Parameters
    ----------
    claims : identifiers, optional
        Such as ["N2", "C1"]; all by default.
    network : LinearNetwork, optional
        Only this network is checked; needs `task` or `data`.
    task : Task, optional
        What the network is to learn.
    rng : Generator or int
        Random problems, directions and samples.
    data : DataSet, name or path, optional
        "digits" (the default without a network), "mnist", "fashion-mnist", a folder, an IDX or an `.npz` file.
    progress : callable(done, total, what), optional

    Returns
    -------
    Report
        `str(report)` is a table, `report.passed` the outcome. A claim whose conditions a network does not meet is
        "not applicable", which is no failure.

    Raises
    ------
    InputError
        For unknown identifiers, unreadable data, networks and tasks that do not fit.

    Notes
    -----
    About half a minute for everything on one core; at most 20 s for one network: beyond that the remaining claims are
    skipped.

    Examples
    --------
    >>> net = LinearNetwork.random((4, 2, 4), rng=0)
    >>> verify("N2", net, Task(np.eye(4))).passed
    True
    """
    began = time.perf_counter()
    chosen = _choose(claims)
    seed = int(rng) if isinstance(rng, (int, np.integer)) and not isinstance(rng, (bool, np.bool_)) else None
    drawn = int(as_rng(rng).integers(2**32))
    entropy = drawn if seed is None else seed
    problems, notes = _problems(network, task, data, entropy)
    with _few_threads(problems):
        rows, caught = _run(chosen, problems, entropy, network, progress, began)
    order = {claim.identifier: c for c, claim in enumerate(chosen)}
    rows.sort(key=lambda row: order[row.identifier])
    return Report(tuple(chosen), tuple(rows), tuple(caught), tuple(notes), seed, time.perf_counter() - began)


def _few_threads(problems: Sequence[Problem]) -> AbstractContextManager[object]:
    """Keep BLAS to one thread on small matrices, where pools of waiting threads take most of the time."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    large = any(max(problem.net.widths) > LARGE for problem in problems)
    return nullcontext() if large else threadpool_limits(1)


def _run(
    chosen: list[Claim],
    problems: list[Problem],
    entropy: int,
    network: LinearNetwork | None,
    progress: Progress | None,
    began: float,
) -> tuple[list[Row], list[Row]]:
    """Return the rows of all problems, and of the counter-examples."""
    limit = np.inf if network is None else began + OWN_SECONDS
    rows: list[Row] = []
    total = len(problems) * len(chosen) + len(chosen)
    for k, problem in enumerate(problems):
        for c, claim in enumerate(chosen):
            if progress is not None:
                progress(len(rows), total, f"{claim.identifier}  {problem.rung} {problem.name}")
            if not claim.about_networks and network is None:
                continue
            late = time.perf_counter() > limit
            rows.append(_skipped(claim, problem) if late else check(claim, problem, [entropy, k, c]))
    if network is None:
        rows += [
            _ensemble(claim, problems[0], [entropy, c])
            for c, claim in enumerate(chosen)
            if not claim.about_networks
        ]
    # Of a network of one's own only the checks that it underwent need to prove that they can fail.
    measured = {
        row.identifier for row in rows if network is None or row.verdict in ("holds", "fails", "undecided")
    }
    caught = []
    for c, claim in enumerate(chosen):
        if claim.identifier not in measured or time.perf_counter() > limit:
            continue
        if progress is not None:
            progress(len(rows) + c, total, f"{claim.identifier}  counter-example")
        caught.append(_counterexample(claim, [entropy, c]))
    return rows, caught


def _ensemble(claim: Claim, problem: Problem, entropy: Sequence[int]) -> Row:
    """Run a claim that is about random networks: once, on none in particular."""
    anywhere = replace(claim, applicable=lambda net, task: None)
    return check(anywhere, problem._replace(name="random pairs", rung="ensemble"), entropy)


def check(claim: Claim, problem: Problem, entropy: Sequence[int]) -> Row:
    """Run one claim on one problem."""
    head = (claim.identifier, problem.name, problem.rung)
    began = time.perf_counter()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", RankWarning)
        try:
            unmet = claim.applicable(problem.net, problem.task)
            if unmet is not None:
                return Row(*head, "not applicable", note=unmet, seconds=time.perf_counter() - began)
            case = Case(problem.net, problem.task, np.random.default_rng(entropy), problem.samples)
            measures = claim.check(case)
        except Exception as error:  # a claim that cannot be computed has failed; the others are still told
            return Row(*head, "fails", note=_words(error), seconds=time.perf_counter() - began)
        doubt = geometry(problem.net, problem.task).undetermined
    seconds = time.perf_counter() - began
    key = worst(measures)
    verdict, note = _verdict(measures, doubt)
    return Row(*head, verdict, key.quantity, key.error, key.bound, seconds, note)


def _verdict(measures: Measures, doubt: str) -> tuple[Verdict, str]:
    # Where a bound leaves no digit, an overflow tells nothing either.
    telling = [m for m in measures if m.decisive or math.isfinite(m.error)]
    key = worst(telling or measures)
    if not telling:
        return "undecided", f"the bound {key.bound:.2g} leaves no digit at this condition"
    if doubt and key.ratio > 1:
        return "undecided", doubt
    if key.ratio > 1:
        return "fails", f"{key.quantity}: {key.error:.2g} exceeds {key.bound:.2g}"
    if not any(m.decisive for m in measures):
        return "undecided", f"the bound {key.bound:.2g} leaves no digit at this condition"
    return "holds", ""


def _counterexample(claim: Claim, entropy: Sequence[int]) -> Row:
    """Run the check on what it must refuse; only a bound that leaves digits can be exceeded in earnest."""
    head = (claim.identifier, claim.broken, "counter-example")
    began = time.perf_counter()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            measures = claim.counterexample(np.random.default_rng(entropy))
        except Exception as error:  # an error is not a failed check
            return Row(*head, "missed", note=_words(error), seconds=time.perf_counter() - began)
    key = max(measures, key=lambda m: (m.decisive, m.ratio))
    verdict: Verdict = "caught" if key.ratio > 1 and key.decisive else "missed"
    note = "" if verdict == "caught" else "the check did not fail"
    return Row(*head, verdict, key.quantity, key.error, key.bound, time.perf_counter() - began, note)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _skipped(claim: Claim, problem: Problem) -> Row:
    note = f"more than {OWN_SECONDS:.0f} s have passed: ask for it alone"
    return Row(claim.identifier, problem.name, problem.rung, "skipped", note=note)


def _choose(claims: Iterable[str] | str | None) -> list[Claim]:
    known = {claim.identifier: claim for claim in registry()}
    if claims is None:
        return list(known.values())
    if not isinstance(claims, Iterable):
        fail("claims", "identifiers among " + " ".join(known), type(claims).__name__)
    names = [claims] if isinstance(claims, str) else list(claims)
    wanted = []
    for name in names:
        if not isinstance(name, str) or name.upper() not in known:
            fail("claims", "identifiers among " + " ".join(known), repr(name))
        wanted.append(name.upper())
    if not wanted:
        fail("claims", "at least one identifier", "none")
    return [claim for identifier, claim in known.items() if identifier in wanted]


def _problems(
    network: LinearNetwork | None, task: Task | None, data: DataSet | str | os.PathLike[str] | None, seed: int
) -> tuple[list[Problem], list[str]]:
    if network is not None:
        return _own(as_network(network, "network"), task, data)
    if task is not None:
        fail("network", "a LinearNetwork beside the task", "none")
    problems, notes = list(ladder(np.random.default_rng([seed, 0]))), []
    try:
        loaded = data if isinstance(data, DataSet) else load_data("digits" if data is None else data)
        real = real_problems(loaded, np.random.default_rng([seed, 1]))
        seen: list[Task] = []
        for problem in real:
            if (
                problem.rung == loaded.name
                and not problem.name.startswith("part")
                and problem.task not in seen
            ):
                seen.append(problem.task)
                ends = f"{problem.net.widths[0]} → {problem.net.widths[-1]}"
                notes.append(describe(f"{loaded.name} {ends}", problem.task))
        problems += real
    except MissingExtra as missing:
        notes.append(f"digits: skipped: {missing}")
    return problems, notes


def _own(
    network: LinearNetwork, task: Task | None, data: DataSet | str | os.PathLike[str] | None
) -> tuple[list[Problem], list[str]]:
    if network.batch_shape:
        fail("network", "a single network", f"leading axes {network.batch_shape}", "Verify them one by one.")
    if (task is None) == (data is None):
        fail("task, data", "exactly one of them beside a network", "both" if data is not None else "neither")
    loaded = None
    if data is not None:
        loaded = data if isinstance(data, DataSet) else load_data(data)
        if loaded.x.shape[1] != network.widths[0]:
            fail(
                "network",
                f"{loaded.x.shape[1]} inputs, to fit the data {loaded.name}",
                f"{network.widths[0]}",
            )
        task = Task.from_data(loaded.x, loaded.targets(network.widths[-1]))
    checked = as_task(task)
    if checked.batch_shape:
        fail("task", "a single task", f"leading axes {checked.batch_shape}", "Verify them one by one.")
    if (checked.n_inputs, checked.n_outputs) != (network.widths[0], network.widths[-1]):
        widths = f"{network.widths[0]} inputs and {network.widths[-1]} outputs"
        fail("task", f"{widths}, like the network", f"{checked.n_inputs} and {checked.n_outputs}")
    notes = [describe("yours" if loaded is None else loaded.name, checked, network.has_biases)]
    return [own_problem(network, checked, loaded)], notes
