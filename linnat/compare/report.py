"""How does a comparison read? As one page of HTML that needs nothing else: pictures, tables, failures, how to rerun."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from pathlib import Path

from linnat._files import write_text
from linnat.compare import pictures, tables
from linnat.compare.methods import METHODS
from linnat.compare.results import Record, manifest
from linnat.compare.tables import Table

FILE = "report.html"
SHORT = 30  # characters: cells that are not broken
PICTURES = {"training.png": ("train_loss", "train_squared"), "test.png": ("test_loss", "test_squared")}


def write_report(record: Record, out: Path) -> Path:
    """Write report.html and its pictures as PNG files; return the report's path.

    Parameters
    ----------
    record : Record
    out : Path
        A folder.

    Raises
    ------
    InputError
        For a file that cannot be written.
    """
    drawn: dict[str, str] = {}
    missing = ""
    if any(curve.points for curve in record.curves):
        try:
            for name, losses in PICTURES.items():
                figure = pictures.draw(record, losses)
                pictures.save_png(figure, out / name)
                drawn[name] = pictures.as_svg(figure)
        except pictures.MissingMatplotlib as error:
            missing = str(error)
    path = out / FILE
    write_text(path, page(record, drawn, missing))
    return path


def page(record: Record, drawn: dict[str, str], missing: str = "") -> str:
    """Return the page.

    Parameters
    ----------
    record : Record
    drawn : dict
        SVG elements by the names of `PICTURES`.
    missing : str
        Why there are none.
    """
    plan = record.plan
    title = f"{plan.data}: {', '.join(METHODS[name].title for name in plan.optimisers)}"
    parts = [
        f"<h1>{escape(_model(record))}</h1>",
        f'<p class="lead">{escape(tables.headline(record))}</p>',
        _how(record),
        _figure(drawn.get("training.png"), "On the training rows.", missing),
        "<h2>At the end of the budget</h2>",
        _table(
            tables.ends(record),
            "Median over seeds (least … largest), of the finished runs; the best of a column is bold.",
        ),
        *_targets(record),
        *_troubles(record),
        "<h2>On the test set</h2>",
        _figure(
            drawn.get("test.png"), "On rows that no method has seen; nothing was chosen by them.", missing
        ),
        "<h2>Settings</h2>",
        _rule(record),
        _table(tables.settings(record.searches), ""),
        *_trials(record),
        "<h2>To get it again</h2>",
        _manifest(record),
    ]
    style = STYLE.replace("/*light*/", _palette(pictures.LIGHT)).replace("/*dark*/", _palette(pictures.DARK))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main>\n</body>\n</html>\n"
    )


def _model(record: Record) -> str:
    plan = record.plan
    names = {"autoencoder": "Autoencoder", "digits": "Small autoencoder", "classifier": "Classifier"}
    return f"{names.get(plan.model, plan.model)} on {plan.data}: {len(plan.optimisers)} optimisers"


def _how(record: Record) -> str:
    """Return what was done and which numbers are which."""
    plan = record.plan
    seeds = f"{plan.seeds} seeds" if plan.seeds > 1 else "one seed"
    budget = (
        f"{plan.updates:,} updates"
        if plan.updates is not None
        else f"{tables.clock(plan.seconds or 0.0)} of training"
    )
    begin = "of every run; all methods have the same starts and the same order of rows"
    count = f"{record.missing} runs have" if record.missing > 1 else "1 run has"
    state = f"<strong>{count} not ended yet.</strong> " if record.missing else ""
    return (
        f"<p>{state}Network: {escape(record.model)}. Budget {begin}: {escape(budget)}, {seeds}. "
        "The <em>loss</em> is what is minimised, the mean over rows of −log p(target | output); the <em>squared "
        "error</em> is the mean over rows of the squared distance between predicted means and targets, summed over "
        "outputs. Both are those of the parameters, or of their running average where its training loss is lower. "
        "The clock is that of training alone.</p>"
    )


def _figure(svg: str | None, words: str, missing: str) -> str:
    if svg is None:
        return f'<p class="note">{escape(missing or "No picture: no run has ended yet.")}</p>'
    note = f"{words} Lines: median over seeds; bands: least to largest. Diverged runs end with a cross."
    return f'<figure><div class="wide">{svg}</div><figcaption>{escape(note)}</figcaption></figure>'


def _table(table: Table, words: str) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    rows = []
    for r, row in enumerate(table.rows):
        cells = [f'<th scope="row">{escape(row[0])}</th>']
        for c, cell in enumerate(row[1:], start=1):
            text = re.sub(r"^(.+?) \((.+ … .+)\)$", r"\1<br><small>\2</small>", escape(cell))
            kind = ' class="short"' if len(cell) < SHORT else ""
            cells.append(f"<td{kind}>{f'<strong>{text}</strong>' if (r, c) in table.best else text}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    note = f"<caption>{escape(words)}</caption>" if words else ""
    return f'<div class="wide"><table>{note}<thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _targets(record: Record) -> Iterable[str]:
    """Return, for each baseline, what the others need to get to its final loss; the best baseline first."""
    known = tables.baselines(record)
    ordered = sorted(
        (s for s in tables.summaries(record) if s.method in known and s.finished),
        key=lambda s: s.train_loss.middle,
    )
    if ordered:
        yield "<h2>Time and updates to a baseline's final training loss</h2>"
    for place, summary in enumerate(ordered):
        found = tables.to_target(record, summary.method)
        if found is not None:
            name = METHODS[summary.method].title
            which = "the best baseline" if place == 0 and len(ordered) > 1 else "its median over seeds"
            words = (
                f"To the final loss of {name} ({which}), {tables.number(summary.train_loss.middle)}: "
                "median over runs, at the first evaluation that is there."
            )
            yield _table(found, words)


def _troubles(record: Record) -> Iterable[str]:
    bad = [curve for curve in record.curves if curve.status in ("diverged", "failed")]
    if bad:
        yield "<h2>Runs that diverged or failed</h2>"
        rows = tuple(
            (
                METHODS[c.method].title,
                str(c.seed),
                c.status,
                f"{c.points[-1].update:,}" if c.points else "–",
                c.message,
            )
            for c in bad
        )
        yield _table(Table(("", "seed", "", "after updates", "message"), rows), "They are in no median.")


def _rule(record: Record) -> str:
    plan = record.plan
    if not plan.trials:
        return "<p>Nothing was tuned: every method runs with its defaults, or with the settings that were given.</p>"
    return (
        f"<p>The same search for every method: {plan.trials} trials of {escape(plan.trial_budget())} each, trial 0 "
        "with its defaults, the others drawn at random (log-uniform, or one of a list) with the same random numbers; "
        "trained on five sixths of the training rows from another start, judged by the loss on the others.</p>"
    )


def _trials(record: Record) -> Iterable[str]:
    for search in record.searches:
        if search.trials:
            bad = sum(trial["loss"] is None for trial in search.trials)
            said = f"{len(search.trials)} trials" + (f", {bad} diverged or failed" if bad else "")
            yield (
                f"<details><summary>{escape(METHODS[search.method].title)}: {said}</summary>"
                f"{_table(tables.trials(search), '')}</details>"
            )


def _manifest(record: Record) -> str:
    content = manifest(record)
    command = escape(str(content.pop("command")))
    lines = []
    for key, value in content.items():
        if key in ("settings", "environments of the runs", "command"):
            continue
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        lines.append((key, text))
    for number, found in enumerate(content["environments of the runs"], start=1):
        several = len(content["environments of the runs"]) > 1
        lines += [(f"{key}{f' ({number})' if several else ''}", str(value)) for key, value in found.items()]
    table = Table(("", ""), tuple(lines))
    files = (
        "Every run: runs.csv, every evaluation: curves.csv, all of it: results.json; "
        "parameters at the end of each run: network.npz in its folder."
    )
    return f'<div class="wide"><pre>{command}</pre></div><p>{escape(files)}</p>{_table(table, "")}'


def _palette(colours: Iterable[str]) -> str:
    return "".join(f"--c{k}:{colour};" for k, colour in enumerate(colours))


STYLE = """
:root{--ink:#1b1b1b;--soft:#5a5a5a;--paper:#fff;--line:#d9d9d9;--shade:#f5f5f3;/*light*/}
@media (prefers-color-scheme:dark){
:root{--ink:#e8e6e3;--soft:#a9a6a1;--paper:#161616;--line:#3a3a3a;--shade:#202020;/*dark*/}
}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:72rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.7rem;line-height:1.25;margin:0 0 .5rem}
h2{font-size:1.2rem;margin:2.5rem 0 .5rem}
p{max-width:46rem;margin:.6rem 0}
.lead{font-size:1.12rem}
.note,figcaption,caption{color:var(--soft);font-size:.88rem}
figure{margin:1.5rem 0}
figcaption{margin-top:.3rem}
.wide{overflow-x:auto}
.wide svg{display:block;width:100%;min-width:44rem;height:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;margin:.4rem 0 1rem}
caption{text-align:left;padding:.2rem 0 .4rem}
small{color:var(--soft);white-space:nowrap}
th,td{text-align:left;vertical-align:baseline;padding:.3rem .9rem .3rem 0;border-bottom:1px solid var(--line)}
thead th{font-weight:600;border-bottom:2px solid var(--line);vertical-align:bottom}
tbody th{font-weight:600;white-space:nowrap}
td.short{white-space:nowrap}
details{margin:.3rem 0}
summary{cursor:pointer}
pre{background:var(--shade);padding:.7rem .9rem;border-radius:4px;font-size:.85rem;margin:.5rem 0}
pre{white-space:pre-wrap;overflow-wrap:anywhere}
@media print{.wide{overflow:visible}details{display:block}}
"""
