"""Is the table in the documentation the one of the picture's data?"""

from __future__ import annotations

import numpy as np
import pytest

from figures._common import HERE, OUT
from figures._quality import PLACES, SHOWN, markdown


@pytest.mark.statement("O2")
def test_the_documented_table_is_that_of_the_data() -> None:
    text = (HERE.parent / "docs" / "nonlinear.md").read_text(encoding="utf-8")
    shown = text.split("<!-- quality table: begin -->\n")[1].split("\n<!-- quality table: end -->")[0]
    with np.load(OUT / "o2_quality_of_approximations.npz") as data:
        wanted = markdown(data["decrease"], data["moved"])
        # "the loss rises at four of the five points", "by up to ten times"
        assert (np.median(data["reduction"][:, :, 0, 0], axis=0) < 0).sum() == 4
        ratios = np.median(data["moved"] / data["foretold"], axis=0)[:, 0, 0]
        assert 9 < ratios.max() < 13
    assert shown == wanted
    assert len(shown.splitlines()) == 2 + len(SHOWN)
    assert shown.splitlines()[0].count("|") == 2 + len(PLACES)
