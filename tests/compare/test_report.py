"""Does the report say what the runs say, need nothing else, and show in a browser?"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from linnat.compare import pictures
from linnat.compare.methods import METHODS
from linnat.compare.report import page, write_report
from tests.compare._records import curve, record

pytest.importorskip("matplotlib", reason="needs linnat[figures]")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Checker(HTMLParser):
    """Counts what is open, and gathers addresses and text."""

    VOID = frozenset({"meta", "br", "link", "img", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.identifiers: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key in ("src", "href", "xlink:href", "action", "data"):
                self.addresses.append(value or "")
            if key == "id":
                self.identifiers.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    extra = (curve("nesterov", 1, "diverged", steps=4), curve("adam", 2, "failed"))
    return write_report(record(extra=extra), tmp_path_factory.mktemp("report"))


def test_the_page_is_whole_and_needs_nothing_else(made: Path) -> None:
    text = made.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert all(address.startswith("#") for address in checker.addresses)
    assert len(set(checker.identifiers)) == len(checker.identifiers)
    targets = {address[1:] for address in checker.addresses} | set(re.findall(r"url\(#([^)]+)\)", text))
    assert targets <= set(checker.identifiers)
    assert not re.search(r"@import|<script|url\((?!#)", text)
    for word in (*(METHODS[name].title for name in ("sgd", "nesterov", "adam", "kfac")), "squared error"):
        assert word in text
    assert {p.name for p in made.parent.iterdir()} == {"report.html", "training.png", "test.png"}


def test_diverged_and_failed_runs_are_shown_and_text_is_escaped(made: Path) -> None:
    text = made.read_text(encoding="utf-8")
    assert "Runs that diverged or failed" in text
    assert "it has &lt;diverged&gt; &amp; stopped" in text
    assert "it has &lt;failed&gt; &amp; stopped" in text
    assert "OpenBLAS, &lt;kernel&gt;" in text
    assert "2 finished, 1 diverged" in text
    assert "1 run has not ended yet" in text


def test_without_pictures_it_says_why() -> None:
    text = page(record(), {}, "expected matplotlib, found none")
    assert "expected matplotlib, found none" in text
    assert "<svg" not in text


def test_nothing_done_yet_is_a_page_too(tmp_path: Path) -> None:
    nothing = tuple(curve(name, seed, "missing") for name in ("sgd", "kfac") for seed in range(3))
    text = write_report(record({"sgd": 1.0, "kfac": 1.0}, extra=nothing), tmp_path).read_text(
        encoding="utf-8"
    )
    assert "No run has finished yet." in text
    assert "<svg" not in text


def test_pictures_are_the_same_at_every_run_and_take_the_pages_colours() -> None:
    first, second = (pictures.as_svg(pictures.draw(record())) for _ in range(2))
    assert first == second
    ElementTree.fromstring(first)
    assert "var(--c0)" in first
    assert "currentColor" in first
    assert not re.search(r"(?:fill|stroke): #(?!fff)", first)


@pytest.mark.parametrize("count", [1, 4, len(METHODS)])
def test_no_label_covers_another_or_leaves_the_picture(count: int) -> None:
    made = record({name: 1.0 + 0.01 * k for k, name in enumerate(list(METHODS)[:count])})
    figure = pictures.draw(made)
    renderer = figure.canvas.get_renderer()
    for ax in figure.axes:
        boxes = [text.get_window_extent(renderer) for text in ax.texts if text.get_text()]
        assert len(boxes) == count
        for k, box in enumerate(boxes):
            assert box.x1 <= figure.bbox.x1
            assert box.y0 >= 0
            assert box.y1 <= figure.bbox.y1
            assert not any(box.overlaps(other) for other in boxes[:k])


def test_curves_are_told_apart_without_colour() -> None:
    looks = [pictures.look(k)[1:] for k in range(len(METHODS))]
    assert len({repr(look) for look in looks}) == len(METHODS)


@pytest.mark.parametrize(("colours", "paper"), [(pictures.LIGHT, 1.0), (pictures.DARK, 0.0080)])
def test_colours_stand_out_from_their_paper(colours: tuple[str, ...], paper: float) -> None:
    """WCAG's contrast of bold labels: 4.5 on white, and on #161616, whose relative luminance is 0.008."""
    for colour in colours:
        parts = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        light, dark = sorted((float(linear @ [0.2126, 0.7152, 0.0722]), paper), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, colour


def test_diverged_runs_end_with_a_cross() -> None:
    made = record(extra=(curve("nesterov", 1, "diverged", steps=4),))
    crosses = [line for ax in pictures.draw(made).axes for line in ax.lines if line.get_marker() == "x"]
    assert [float(line.get_xdata()[0]) for line in crosses] == [200.0, 2.0, 200.0, 2.0]


def test_a_method_that_only_diverged_has_a_label() -> None:
    extra = tuple(curve("nesterov", seed, "diverged", steps=4 + seed) for seed in range(3))
    texts = [t.get_text() for t in pictures.draw(record(extra=extra)).axes[0].texts]
    assert "Nesterov (diverged)" in texts


MEASURE = """
<script>
addEventListener("load", () => {
  const wide = [...document.querySelectorAll("main > *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1);
  const svgs = [...document.querySelectorAll("svg")].map(e => e.getBoundingClientRect());
  const texts = [...document.querySelectorAll("svg text")];
  const probe = document.createElement("pre");
  probe.id = "measured";
  probe.textContent = JSON.stringify({
    page: document.documentElement.scrollWidth, window: innerWidth, wide: wide.map(e => e.outerHTML.slice(0, 60)),
    svgs: svgs.map(r => [r.width, r.height]), texts: texts.map(e => e.getBoundingClientRect().height),
    paper: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
    label: getComputedStyle(texts[0]).fill, rows: document.querySelectorAll("tbody tr").length,
  });
  document.body.append(probe);
});
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium on the path")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (500, False)])
def test_it_shows_in_a_browser(made: Path, tmp_path: Path, width: int, dark: bool) -> None:
    copy = tmp_path / "copy.html"
    copy.write_text(
        made.read_text(encoding="utf-8").replace("</body>", MEASURE + "</body>"), encoding="utf-8"
    )
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    flags += f" disable-component-update disable-sync window-size={width},1000 user-data-dir={tmp_path / 'profile'}"
    flags += " blink-settings=preferredColorScheme=0" if dark else " blink-settings=preferredColorScheme=1"
    command = [str(BROWSER), *(f"--{flag}" for flag in flags.split()), "--dump-dom", copy.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<pre id="measured">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None
    measured = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert measured["window"] == width
    assert measured["page"] <= width
    assert measured["wide"] == []
    assert len(measured["svgs"]) == 2
    assert all(w > 600 and h > 300 for w, h in measured["svgs"])
    assert len(measured["texts"]) > 40
    assert min(measured["texts"]) > 5
    assert measured["paper"] == ("rgb(22, 22, 22)" if dark else "rgb(255, 255, 255)")
    assert measured["label"] == measured["ink"] != measured["paper"]
    assert measured["rows"] > 20
