"""Build the documentation: `sphinx-build -W docs docs/_build`.

The API reference is written at build time from the package itself, one page for each module that holds public
names, each name under the path that users type: nothing here lists names by hand.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "linnat"
author = "the linnat developers"
copyright = author

extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "myst_parser", "numpydoc"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "linnat"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the Parameters section says what the shapes are
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

API = Path(__file__).parent / "api"


def setup(app: Sphinx) -> None:
    """Write the API pages once the configuration is read."""
    app.connect("builder-inited", lambda _app: write_api())
    app.connect("autodoc-process-docstring", escape_bars, priority=900)  # after numpydoc


def escape_bars(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Escape the bars of |μ|, in which docutils sees the name of a substitution."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...", "..")):
            lines[i] = re.sub(r"(?<!\\)\|", r"\|", line)


def write_api() -> None:
    """Write `api/index.rst` and one page for each module with public names."""
    API.mkdir(exist_ok=True)
    for old in API.glob("*.rst"):
        old.unlink()
    package = importlib.import_module("linnat")
    # The package's docstring is its map: it names what is public in the order in which data flows.
    exported = {id(getattr(package, name)): mention(package, name) for name in package.__all__}
    first: list[tuple[int, str]] = []
    rest: list[str] = []
    for module in public_modules(package):
        own = own_names(module)
        places = [exported[id(value)] for value in (module, *own.values()) if id(value) in exported]
        page = "errors" if module.__name__.endswith("._checks") else module.__name__
        if page == "errors":
            own = {name: value for name, value in own.items() if id(value) in exported}
        if own:
            (API / f"{page}.rst").write_text(module_page(page, module, own, package), encoding="utf-8")
            first.append((min(places), page)) if places else rest.append(page)
    (API / "index.rst").write_text(index_page([page for _, page in sorted(first)], rest), encoding="utf-8")


def mention(package: ModuleType, name: str) -> int:
    """Return where the package's docstring mentions a public name; beyond its end if it does not."""
    text = package.__doc__ or ""
    place = text.find(f"`{name}`")
    return place if place >= 0 else len(text)


def public_modules(package: ModuleType) -> Iterator[ModuleType]:
    """Yield the modules of a package without a leading underscore, and the one that defines its errors."""
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        path = info.name.split(".")
        if path[-1] == "_checks" or not any(part.startswith("_") for part in path):
            yield importlib.import_module(info.name)


def own_names(module: ModuleType) -> dict[str, object]:
    """Return the public functions and classes that a module defines, in source order."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    }


def index_page(first: list[str], rest: list[str]) -> str:
    """Return the entry page: the package's map, modules with names in `linnat` itself, then the others."""
    lines = ["API reference", "=============", "", ".. automodule:: linnat", "   :no-members:", ""]
    for caption, pages in (("Names of linnat, in pipeline order", first), ("Machinery", rest)):
        lines += [
            ".. toctree::",
            "   :maxdepth: 1",
            f"   :caption: {caption}",
            "",
            *(f"   {p}" for p in pages),
            "",
        ]
    return "\n".join(lines)


def module_page(page: str, module: ModuleType, own: dict[str, object], package: ModuleType) -> str:
    """Return the page of one module: its question, then its names under the paths that users type."""
    typed = {id(getattr(package, name)): f"{package.__name__}.{name}" for name in package.__all__}
    prefix = typed.get(id(module), module.__name__)
    title = "Errors and warnings" if page == "errors" else prefix
    lines = [title, "=" * len(title), ""]
    if page != "errors":
        lines += [f".. automodule:: {module.__name__}", "   :no-members:", ""]
    for name, value in own.items():
        path = typed.get(id(value), f"{prefix}.{name}")
        options = ["   :members:", "   :show-inheritance:"] if inspect.isclass(value) else []
        lines += [f".. {'autoclass' if options else 'autofunction'}:: {path}", *options, ""]
    return "\n".join(lines)
