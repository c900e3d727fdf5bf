"""What is to be cited? BibTeX of the package and of the five papers that it works out."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def bibtex() -> str:
    """Return BibTeX entries: the package first.

    Examples
    --------
    >>> bibtex().splitlines()[0]
    '@software{linnat,'
    """
    return SOFTWARE.format(version=package_version()) + PAPERS


def package_version() -> str:
    """Return the version of the installed package, or of the sources where none is installed."""
    from linnat import __version__

    try:
        return version("linnat")
    except PackageNotFoundError:
        return __version__


SOFTWARE = """@software{{linnat,
  author  = {{{{The linnat developers}}}},
  title   = {{linnat: the exact natural gradient in deep linear networks}},
  version = {{{version}}},
  license = {{BSD-3-Clause}}
}}
"""

PAPERS = r"""
@inproceedings{bernacchia2018exact,
  author    = {Bernacchia, Alberto and Lengyel, M{\'a}t{\'e} and Hennequin, Guillaume},
  title     = {Exact natural gradient in deep linear networks and its application to the nonlinear case},
  booktitle = {Advances in Neural Information Processing Systems 31},
  year      = {2018}
}

@inproceedings{desjardins2015natural,
  author    = {Desjardins, Guillaume and Simonyan, Karen and Pascanu, Razvan and Kavukcuoglu, Koray},
  title     = {Natural neural networks},
  booktitle = {Advances in Neural Information Processing Systems 28},
  year      = {2015},
  note      = {arXiv:1507.00210}
}

@inproceedings{pascanu2014revisiting,
  author    = {Pascanu, Razvan and Bengio, Yoshua},
  title     = {Revisiting natural gradient for deep networks},
  booktitle = {International Conference on Learning Representations},
  year      = {2014},
  note      = {arXiv:1301.3584}
}

@inproceedings{george2018fast,
  author    = {George, Thomas and Laurent, C{\'e}sar and Bouthillier, Xavier and Ballas, Nicolas and Vincent, Pascal},
  title     = {Fast approximate natural gradient descent in a {Kronecker}-factored eigenbasis},
  booktitle = {Advances in Neural Information Processing Systems 31},
  year      = {2018},
  note      = {arXiv:1806.03884}
}

@misc{kerekes2021depth,
  author = {Kerekes, Anna and M{\'e}sz{\'a}ros, Anna and Husz{\'a}r, Ferenc},
  title  = {Depth without the magic: inductive bias of natural gradient descent},
  year   = {2021},
  note   = {arXiv:2111.11542}
}"""
