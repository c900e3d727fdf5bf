"""Symbolic proofs of the statements, one file per family, each running alone and proving itself.

``python -m derivations`` runs all of them, ``python -m derivations n2`` one; ``--latex`` prints LaTeX and
``--json FILE`` writes the steps. Nothing here imports linnat: a proof may not borrow its conclusion.
"""

from __future__ import annotations

from derivations._core import Derivation, DerivationError, Step

__all__ = ["Derivation", "DerivationError", "Step"]
