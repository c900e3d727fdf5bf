"""What does the command line offer? `linnat --help` lists the commands; `python -m linnat` is the same.

Exit status: 0 if all is well, 1 if a claim fails, 2 for bad input (one line on stderr, no traceback).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from linnat import hardware
from linnat._checks import InputError, fail

FOLDER = Path(__file__).resolve().parent / "claims"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        sys.argv[1:] by default.

    Returns
    -------
    int
        0, 1 if a claim fails, 2 for bad input, 130 if interrupted.

    Examples
    --------
    >>> main(["show", "Z9"])
    2
    """
    _prepare_streams()
    try:
        options = _parser().parse_args(arguments)
        run: Callable[[argparse.Namespace], int] = options.run
        hardware.with_kernel(getattr(options, "blas_kernel", None), restart=arguments is None)
        status = run(options)
        sys.stdout.flush()
        return status
    except InputError as error:
        print(f"linnat: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nlinnat: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def verify(options: argparse.Namespace) -> int:
    """Run `linnat verify`."""
    from linnat.claims import verify as run
    from linnat.claims.report import render
    from linnat.exact.network import LinearNetwork

    network = None
    if options.weights is not None:
        if options.data is None:
            fail(
                "--data",
                "a file or data set beside --weights",
                "none",
                "Give the data that the network is to learn.",
            )
        network = LinearNetwork.load(options.weights)
    progress = _progress() if sys.stderr.isatty() else None
    try:
        report = run(options.claims or None, network, rng=options.seed, data=options.data, progress=progress)
    finally:
        if progress is not None:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
    print(report.to_json() if options.json else render(report, _style(options)))
    return 0 if report.passed else 1


def claims(options: argparse.Namespace) -> int:
    """Run `linnat claims`."""
    from linnat.claims import registry
    from linnat.claims.listing import describe_all, list_claims

    coverage = read_package_data("coverage.json")
    if options.json:
        print(json.dumps(describe_all(registry(), coverage), indent=2, ensure_ascii=False))
    else:
        print(list_claims(registry(), coverage, _style(options)))
    return 0


def show(options: argparse.Namespace) -> int:
    """Run `linnat show`."""
    from linnat.claims import registry
    from linnat.claims.listing import show_claim

    known = {claim.identifier: claim for claim in registry()}
    name = options.claim.upper()
    if name not in known:
        fail("claim", "one of " + " ".join(known), repr(options.claim))
    print(
        show_claim(known[name], read_package_data("derivations.json"), _style(options), latex=options.latex)
    )
    return 0


def info(options: argparse.Namespace) -> int:
    """Run `linnat info`."""
    from linnat.claims.listing import environment

    facts = environment(measured=options.measured)
    if options.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        width = max(len(key) for key in facts)
        print("\n".join(f"{key:<{width}}  {value}" for key, value in facts.items()))
    return 0


def cite(options: argparse.Namespace) -> int:
    """Run `linnat cite`."""
    from linnat.claims.citations import bibtex

    print(bibtex())
    return 0


def read_package_data(name: str) -> dict[str, Any]:
    """Return a generated JSON file, or an empty one (what lacks is said where it is shown)."""
    try:
        content = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors, too, are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"linnat: {' '.join(message.split())}. See {self.prog} --help.\n")


def _parser() -> argparse.ArgumentParser:
    from linnat import __version__

    parser = _Parser(
        prog="linnat",
        description="The exact natural gradient in deep linear networks, verified.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"linnat {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = _command(
        commands, "verify", verify, "check statements on random problems and data, or on your network"
    )
    command.add_argument("claims", nargs="*", metavar="ID", help="statements such as N2 C1 (all by default)")
    command.add_argument(
        "--weights", metavar="NET.npz", help="your network: arrays W1 … WL (and b1 … bL); needs --data"
    )
    command.add_argument(
        "--data", metavar="DATA", help="digits (default), mnist, fashion-mnist, a folder, IDX or .npz file"
    )
    command.add_argument("--seed", type=_seed, default=0, metavar="N", help="of random problems (default 0)")
    command.add_argument("--verbose", action="store_true", help="one line per problem below each statement")
    command.add_argument(
        "--blas-kernel",
        metavar="NAME",
        help="OpenBLAS kernels to run with, or auto: the fastest that is supported",
    )
    _looks(command)
    command = _command(
        commands, "claims", claims, "list the statements with formula, source, conditions, coverage"
    )
    _looks(command)
    command = _command(commands, "show", show, "print one statement with the steps of its derivation")
    command.add_argument("claim", metavar="ID")
    command.add_argument("--latex", action="store_true", help="formulas in LaTeX")
    _looks(command, as_json=False)
    command = _command(
        commands, "info", info, "print versions, BLAS libraries, kernels, threads, their speeds"
    )
    hint = "do not time the kernels that this processor supports (2 s)"
    command.add_argument("--quick", "--no-measure", dest="measured", action="store_false", help=hint)
    command.add_argument("--json", action="store_true", help="as JSON")
    _add_practice(commands)
    _command(commands, "cite", cite, "print BibTeX of the package and of the papers behind it")
    return parser


def _add_practice(commands: Any) -> None:
    """Add the commands about multilayer networks and their data."""
    from linnat import compare_command, curvature_command, data_command

    words = "compare optimisers: tuned alike, over seeds, on the clock, with a report"
    compare_command.add_arguments(_command(commands, "compare", compare_command.run, words))
    words = "measure preconditioners on a multilayer network against the exact natural gradient"
    curvature_command.add_arguments(_command(commands, "compare-curvature", curvature_command.run, words))
    words = "list data sets, say where they are looked for, fetch MNIST and Fashion-MNIST"
    data_command.add_arguments(_command(commands, "data", data_command.list_sets, words))


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], words: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=words, description=words.capitalize() + ".", allow_abbrev=False
    )
    command.set_defaults(run=run)
    return command


def _looks(command: argparse.ArgumentParser, *, as_json: bool = True) -> None:
    if as_json:
        command.add_argument("--json", action="store_true", help="as JSON")
    command.add_argument(
        "--colour", "--color", choices=("auto", "always", "never"), default="auto", help="default: auto"
    )


def _seed(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a non-negative integer, found {text!r}")
    return value


def _style(options: argparse.Namespace) -> Any:
    from linnat.claims.report import Style

    terminal = sys.stdout.isatty()
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    colour = options.colour == "always" or (options.colour == "auto" and terminal and not plain)
    width = shutil.get_terminal_size((100, 24)).columns
    return Style(width, colour, bool(getattr(options, "verbose", False)))


def _progress() -> Callable[[int, int, str], None]:
    """Return a function that redraws one line on stderr."""
    from linnat.claims.report import pad

    def draw(done: int, total: int, what: str) -> None:
        width = shutil.get_terminal_size((80, 24)).columns
        filled = round(20 * done / max(total, 1))
        bar = "█" * filled + "░" * (20 - filled)
        print("\r" + pad(f" {bar} {done:>4}/{total}  {what}", width - 1), end="", file=sys.stderr, flush=True)

    return draw


def _prepare_streams() -> None:
    """Print what the terminal's encoding cannot show as '?', rather than stop."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
