"""Is the design kept? Who imports whom, what is never called, sizes: read from the syntax trees.

Every rule is a function from source text to complaints; each has a negative control, a source that it must reject.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("linnat", "derivations", "figures", "benchmarks", "tools")
MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 45

# The stages of linnat.exact: a module may import what stands to the left of it.
STAGES = (
    *(
        "network",
        "moments",
        "streaming",
        "distributed",
        "task",
        "perturbation",
        "chains",
        "loss",
        "jacobian",
        "cells",
        "fisher",
        "operators",
        "spectrum",
        "rank_report",
        "masks",
        "staircase",
        "thin_staircase",
        "kernel",
        "null_space",
        "balanced",
        "remainder",
        "minimum_norm",
        "damping",
        "factored",
        "factored_series",
    ),
    *(
        "natural",
        "conditions",
        "ratio",
        "roots",
        "breakdown",
        "flow",
        "imbalance",
        "observed",
        "completion",
        "invariance",
        "empirical",
        "low_rank",
        "bottleneck",
        "programs",
        "separable",
        "tilted",
        "geodesics",
        "mode_integrals",
        "modes",
        "replicates",
        "online_runs",
        "online_moments",
        "online_depth",
        "online",
        "noise",
        "descent",
        "convolution",
    ),
)
LOW = ("_checks", "_files", "linalg", "families")
PLAIN_FIELDS = {"total", "before", "after", "input_factor", "augmented_factor", "layers", "maps"}

# folder of linnat: the first parts of linnat that it may import (itself is always allowed, see `allowed`).
MAY_IMPORT = {
    "_checks": (),
    "_files": ("_checks",),
    "linalg": ("_checks",),
    "families": ("_checks", "linalg"),
    "exact": LOW,
    "dense": ("_checks", "families", "exact.network", "exact.task"),
    "nonlinear": (*LOW, "data", "hardware"),
    "data": ("_checks", "_files"),
    "hardware": ("_checks",),
    "compare": ("_checks", "_files", "families", "nonlinear", "data", "hardware", "__version__"),
}
NEVER = {
    "": {"sympy", "matplotlib", "hypothesis", "pytest", "mpmath", "sklearn"},  # linnat, when imported
    "derivations": {"linnat", "scipy"},
    "figures": {"tests", "benchmarks", "derivations"},
    "benchmarks": {"tests", "figures", "derivations"},
}
FORBIDDEN_CALLS = {"inv", "sqrtm", "fractional_matrix_power"}
LEGACY_RANDOM = {
    "seed",
    "rand",
    "randn",
    "random",
    "normal",
    "uniform",
    "randint",
    "choice",
    "shuffle",
    "RandomState",
}


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, module: str, package: bool) -> Iterator[tuple[str, bool]]:
    """Yield (dotted name, whether it happens when the module is imported), relative names resolved."""
    lazy = {
        id(n)
        for f in ast.walk(tree)
        if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))
        for n in ast.walk(f)
    }
    lazy |= {
        id(n)
        for f in ast.walk(tree)
        if isinstance(f, ast.If) and "TYPE_CHECKING" in ast.unparse(f.test)
        for n in ast.walk(f)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + package]
                base = ".".join([*parts, base]) if base else ".".join(parts)
            yield from ((f"{base}.{alias.name}", id(node) not in lazy) for alias in node.names)


def import_complaints(text: str, module: str, package: bool = False) -> list[str]:
    """Return the imports that the table of the design forbids to this module."""
    tree = ast.parse(text)
    top, _, inner = module.partition(".")
    complaints = []
    for name, at_import in imports(tree, module, package):
        outside = name.split(".")[0]
        if top == "linnat" and outside != "linnat":
            if outside in NEVER[""] and (at_import or inner.split(".")[0] not in ("data", "claims", "cli")):
                complaints.append(f"{module} imports {name}")
        elif top == "linnat":
            if not allowed(inner, name.removeprefix("linnat.")):
                complaints.append(f"{module} imports {name}")
        elif outside in NEVER.get(top, ()) or private_to_linnat(top, name):
            complaints.append(f"{module} imports {name}")
    return complaints


def allowed(inner: str, target: str) -> bool:
    """Return whether linnat.<inner> may import linnat.<target>."""
    folder = inner.split(".")[0]
    if folder not in MAY_IMPORT:
        return True
    if folder == "exact" and target.split(".")[0] == "exact":
        return earlier_stage(inner, target)
    if target.split(".")[0] == folder:
        return True
    return any(f"{target}.".startswith(f"{prefix}.") for prefix in MAY_IMPORT[folder])


def earlier_stage(inner: str, target: str) -> bool:
    if inner == "exact":
        return True
    own, other = inner.split(".")[1], target.split(".")[1]
    return own == other or (own in STAGES and other in STAGES and STAGES.index(other) < STAGES.index(own))


def private_to_linnat(top: str, name: str) -> bool:
    is_private = name.startswith("linnat.") and any(part.startswith("_") for part in name.split("."))
    return top in ("figures", "benchmarks") and is_private


def attribute_complaints(text: str, module: str) -> list[str]:
    """Return the attributes that a dense oracle, a figure or a benchmark may not look at."""
    tree = ast.parse(text)
    complaints = []
    aliases = {
        a.asname or a.name
        for n in ast.walk(tree)
        if isinstance(n, ast.Import)
        for a in n.names
        if a.name == "linnat"
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        if module.startswith("linnat.dense") and node.attr in PLAIN_FIELDS:
            complaints.append(f"{module}:{node.lineno} uses .{node.attr}")
        if (
            module.split(".")[0] in ("figures", "benchmarks")
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
        ):
            root = ast.unparse(node).split(".")[0]
            if root in aliases:
                complaints.append(f"{module}:{node.lineno} uses {ast.unparse(node)}")
    return complaints


def call_complaints(text: str, module: str) -> list[str]:
    """Return explicit inverses, matrix roots by Schur, asserts and global random state."""
    complaints = []
    for node in ast.walk(ast.parse(text)):
        line = f"{module}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Assert):
            complaints.append(f"{line} validates by assert")
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS
        ):
            complaints.append(f"{line} calls {node.func.id}")
        elif isinstance(node, ast.Attribute):
            if node.attr in FORBIDDEN_CALLS:
                complaints.append(f"{line} uses {ast.unparse(node)}")
            if ast.unparse(node) in {f"{np}.random.{f}" for np in ("np", "numpy") for f in LEGACY_RANDOM}:
                complaints.append(f"{line} uses the global random state: {ast.unparse(node)}")
        elif isinstance(node, ast.alias) and node.name.split(".")[-1] in FORBIDDEN_CALLS:
            complaints.append(f"{line} imports {node.name}")
    return complaints


def code_lines(text: str) -> set[int]:
    """Return the numbers of the lines that hold code, docstrings not counted."""
    skip = (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    )
    tokens = tokenize.generate_tokens(StringIO(text).readline)
    code = {line for t in tokens if t.type not in skip for line in range(t.start[0], t.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if documented and ast.get_docstring(node) is not None:
            code -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return code


def size_complaints(text: str, module: str) -> list[str]:
    """Return modules and functions that are too long; blank lines, comments and docstrings do not count."""
    complaints = []
    tree, code = ast.parse(text), code_lines(text)
    if len(code) > MAX_MODULE_LINES:
        complaints.append(f"{module}: {len(code)} lines, at most {MAX_MODULE_LINES}")
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = len([n for n in range(node.body[0].lineno, (node.end_lineno or 0) + 1) if n in code])
            if length > MAX_FUNCTION_LINES:
                complaints.append(
                    f"{module}:{node.lineno} {node.name}: {length} lines, at most {MAX_FUNCTION_LINES}"
                )
    return complaints


@pytest.mark.parametrize("path", sources(*FOLDERS), ids=module_name)
def test_every_module_keeps_the_design(path: Path) -> None:
    text, module = path.read_text(encoding="utf-8"), module_name(path)
    complaints = import_complaints(text, module, path.name == "__init__.py")
    complaints += attribute_complaints(text, module) + size_complaints(text, module)
    if module.split(".")[0] == "linnat":
        complaints += call_complaints(text, module)
    assert not complaints, "\n".join(complaints)


def test_every_stage_of_exact_has_a_place() -> None:
    found = {path.stem for path in sources("linnat/exact")} - {"__init__"}
    assert found <= set(STAGES), f"give a place in STAGES to {sorted(found - set(STAGES))}"


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("linnat._checks", "from linnat.linalg import rank"),
        ("linnat.linalg.rank", "from linnat.exact.network import LinearNetwork"),
        ("linnat.linalg.rank", "import sympy"),
        ("linnat.exact.network", "from linnat.exact.natural import natural_gradient"),
        ("linnat.exact.fisher", "from .natural import natural_gradient"),
        ("linnat.exact.flow", "from linnat import dense"),
        ("linnat.exact.flow", "import linnat.claims"),
        ("linnat.exact.flow", "def f():\n    import sympy"),
        ("linnat.dense.fisher", "from linnat.exact.fisher import fisher"),
        ("linnat.dense.fisher", "from linnat.exact import fisher"),
        ("linnat.dense.fisher", "from linnat.linalg.vec import vec"),
        ("linnat.dense.fisher", "from ..linalg import vec"),
        ("linnat.nonlinear.kfac", "from linnat.exact.fisher import fisher"),
        ("linnat.claims.natural", "import matplotlib.pyplot as plt"),
        ("linnat.compare.pictures", "import matplotlib.pyplot as plt"),
        ("linnat.compare.run", "from linnat.exact.network import LinearNetwork"),
        ("linnat.nonlinear.training", "from linnat.compare.run import execute"),
        ("linnat.claims.natural", "if True:\n    import sympy"),
        ("linnat.data.sets", "import sklearn.datasets"),
        ("linnat.data.sets", "from linnat.exact.task import Task"),
        ("derivations.n2_staircase", "def f():\n    import linnat"),
        ("figures.n5_masks", "from linnat._checks import fail"),
        ("figures.n5_masks", "from tests.strategies import problem"),
    ],
)
def test_a_forbidden_import_is_found(module: str, text: str) -> None:
    assert import_complaints(text, module)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (
            "linnat.exact.natural",
            "from linnat.exact.network import LinearNetwork\nfrom linnat.linalg import chain",
        ),
        ("linnat.dense.fisher", "from linnat.exact.task import Task\nimport scipy.linalg"),
        ("linnat.data.sets", "def digits():\n    import sklearn.datasets"),
        ("linnat.claims.natural", "from linnat.dense import fisher"),
        ("derivations.n2_staircase", "import sympy\nfrom derivations._core import Derivation"),
        ("figures.n5_masks", "import linnat as ln\nimport matplotlib"),
    ],
)
def test_an_allowed_import_is_not(module: str, text: str) -> None:
    assert not import_complaints(text, module)


def test_a_relative_import_is_resolved_in_packages_too() -> None:
    assert import_complaints("from ..exact import fisher", "linnat.dense", package=False) == []
    assert import_complaints("from ..linalg import vec", "linnat.dense.x", package=False)
    assert import_complaints("from ..exact.fisher import fisher", "linnat.dense.sub", package=True) == []
    assert import_complaints("from .exact.fisher import fisher", "linnat", package=True) == []


@pytest.mark.parametrize("attribute", sorted(PLAIN_FIELDS))
def test_an_oracle_that_borrows_a_product_is_found(attribute: str) -> None:
    assert attribute_complaints(f"x = net.{attribute}", "linnat.dense.fisher")
    assert not attribute_complaints(f"x = net.{attribute}", "linnat.exact.fisher")


def test_a_figure_that_uses_a_private_name_is_found() -> None:
    assert attribute_complaints("import linnat as ln\nln.exact._sweep()", "figures.n5_masks")
    assert not attribute_complaints("import linnat as ln\nln.exact.sweep()\nax._left", "figures.n5_masks")


@pytest.mark.parametrize(
    "text",
    [
        "np.linalg.inv(a)",
        "from numpy.linalg import inv",
        "scipy.linalg.sqrtm(a)",
        "fractional_matrix_power(a, 0.5)",
        "assert a",
        "np.random.seed(0)",
        "x = numpy.random.normal()",
    ],
)
def test_a_forbidden_call_is_found(text: str) -> None:
    assert call_complaints(text, "linnat.exact.natural")


def test_words_that_only_look_forbidden_are_not() -> None:
    assert not call_complaints(
        "pinv(a)\nfor inv in inverses: inv @ a\nnp.random.default_rng(0)\n'inv( assert'",
        "linnat.exact.natural",
    )


def test_long_modules_and_functions_are_found() -> None:
    assert size_complaints("x = 1\n" * (MAX_MODULE_LINES + 1), "m")
    body = "    x = 1\n"
    assert size_complaints("def f():\n" + body * (MAX_FUNCTION_LINES + 1), "m")
    assert not size_complaints("def f():\n    '''" + "\n" * 99 + "'''\n" + body * MAX_FUNCTION_LINES, "m")
    assert not size_complaints(
        "def f():\n" + body * MAX_FUNCTION_LINES + "    # why\n\n" * 9 + "    return x\n" * 0, "m"
    )


def test_importing_linnat_needs_numpy_and_scipy_alone(record_property: pytest.RecordProperty) -> None:
    script = (
        "import sys, time, scipy.linalg, scipy.special, scipy.sparse.linalg, scipy.integrate\n"
        "t = time.perf_counter()\nimport linnat\n"
        "print(time.perf_counter() - t)\nprint(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, modules = run.stdout.splitlines()
    record_property("import_seconds_beyond_scipy", float(seconds))
    heavy = {"sympy", "matplotlib", "sklearn", "mpmath", "hypothesis", "pytest", "dask", "torch"}
    heavy |= {"requests", "tqdm", "filelock"}
    assert "scipy" in modules.split()
    assert not heavy & set(modules.split())
