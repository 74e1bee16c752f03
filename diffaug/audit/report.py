"""The report: one HTML file, verdict first, then pictures, then tables. It loads nothing from anywhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from diffaug.audit.findings import FEW_SCANS, Findings
from diffaug.audit.memorisation import FLOOR_PERCENT, LONE, Nearest
from diffaug.volumes.similarity import WINDOW, ms_ssim_settings
from diffaug.workspace import atomic_path

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (the backend comes first: servers have no screen)

ROWS = 40  # of a table; all of them are in nearest.csv
FOUND = 0.9  # share of planted copies that a check worth relying on finds
SAME_PERSON = 0.85  # distance ratio below which a held-out scan is named as perhaps the same person's

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
h1 { font-size: 1.6rem } h2 { margin-top: 2.2rem; border-bottom: 1px solid #d0d7de } img { max-width: 100% }
table { border-collapse: collapse; margin: 1rem 0 } td, th { text-align: left; padding: .25rem .8rem .25rem 0 }
tr { border-bottom: 1px solid #e4e8ec } .note { color: #57606a; font-size: .9rem }
.card { border-left: .5rem solid; padding: .4rem 1rem; margin: .8rem 0; background: #f6f8fa }
.good { border-color: #1a7f37 } .look { border-color: #bf8700 } .bad { border-color: #cf222e }
"""


def render(findings: Findings, folder: Path) -> str:
    """Write the report.

    Args:
        findings: What the audit found.
        folder: Where its pictures lie.

    Returns:
        The HTML.
    """
    plan = findings.plan
    title = f"Audit of the synthetic volumes of {findings.dataset}"
    intro = (
        f"{len(findings.synthetic)} synthetic volumes were compared with the {len(plan.cases)} real scans that the generator "
        f"was fitted on and with {len(plan.held_out)} real scans that it never saw."
    )
    body = [
        f"<h1>{_text(title)}</h1>",
        _paragraph(intro),
        _paragraph("This report shows real scans and names their ids. Treat it as patient data.", "note"),
        "<h2>Verdict</h2>",
        _card(*_copies_verdict(findings)),
        _card(*_check_verdict(findings)),
        _card(*_likeness_verdict(findings)),
        _card(*_diversity_verdict(findings)),
        _card(*_fidelity_verdict(findings)),
        *([_card(*_few_scans(findings))] if len(plan.cases) < FEW_SCANS else []),
        "<h2>Pictures</h2>",
        _picture(folder / "volumes.png", "Real scans, and synthetic volumes that were not picked by hand."),
        _picture(
            folder / "nearest_pairs.png",
            "The synthetic volumes most similar to a training scan, each over that scan. Do they show one and the same "
            "person? The eye is the last judge.",
        ),
        _picture(folder / "similarities.png", "How similar volumes are to their nearest training scan."),
        _picture(folder / "reconstructions.png", "Held-out scans, and what the autoencoder keeps of them."),
        "<h2>Figures</h2>",
        _figures(findings),
        "<h2>Does the check find copies?</h2>",
        _planted(findings),
        "<h2>Nearest training scans</h2>",
        _nearest(findings, sorted(findings.synthetic, key=lambda n: -n.similarity), "synthetic volume", flags=True),
        "<h2>Held-out scans and their nearest training scans</h2>",
        _paragraph(
            "These set the floor. A held-out scan with a low ratio may be of a person who is among the training scans too; "
            "such pairs raise the floor and hide copies. Move one of them in the plan and fit anew."
        ),
        _nearest(findings, sorted(findings.held_out, key=lambda n: n.ratio), "held-out scan", flags=False),
        "<h2>How this was measured, and what it cannot show</h2>",
        *map(_paragraph, _method(findings)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        # tells the browser to load nothing, whatever the page says
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _copies_verdict(findings: Findings) -> tuple[str, str, str]:
    flagged, total, innocent = len(findings.flagged), len(findings.synthetic), findings.innocent
    share = flagged / total
    facts = (
        f"{flagged} of {total} synthetic volumes ({share:.1%}) are more similar to a training scan than "
        f"{FLOOR_PERCENT:.0f} % of unseen real scans are. Of the latter about {innocent.value:.1%} would be flagged too; "
        f"this was measured on {innocent.n}, so it may be anything from {innocent.low:.1%} to {innocent.high:.1%}. "
        f"{len(findings.lone)} of the flagged volumes stand far nearer to one scan than to any other, as copies do. "
    )
    end = (
        "This test can find copies; it cannot prove that there are none, nor that no other way leads back to a patient. "
        "Whether the set may leave the house is for people to decide."
    )
    if findings.lone or share > innocent.high:
        do = "Look at the nearest pairs below, and leave out the flagged volumes (nearest.csv) before sharing. "
        return "bad", "Copies: likely.", facts + do + end
    if innocent.high > 0.5:
        return "look", "Copies: no verdict, there are too few held-out scans.", facts + end
    if share > innocent.value:
        return "look", "Copies: no clear sign, but look at the flagged volumes.", facts + end
    return "good", "Copies: no sign of them.", facts + end


def _check_verdict(findings: Findings) -> tuple[str, str, str]:
    kinds = findings.found_by_kind()
    hits, total = (sum(column) for column in zip(*kinds.values(), strict=True))
    text = f"{hits} of {total} copies that were planted on purpose were found. "
    blind = [kind for kind, (found, planted) in kinds.items() if found < FOUND * planted]
    if blind:
        text += f"It is weak for these kinds: {', '.join(blind)}. A good verdict on copies means little for them."
        return "look", "The check itself: partly blind.", text
    return "good", "The check itself: works on planted copies.", text + "Copies of a part of a scan were not planted."


def _likeness_verdict(findings: Findings) -> tuple[str, str, str]:
    made, unseen = ([n.similarity for n in group] for group in (findings.synthetic, findings.held_out))
    typical = float(np.median(made))
    facts = (
        f"A typical synthetic volume is similar to its nearest training scan by {typical:.2f} (correlation), a typical "
        f"unseen real scan by {np.median(unseen):.2f}, the least similar one of {len(unseen)} by {min(unseen):.2f}. "
    )
    if typical < min(unseen):
        advice = (
            "Volumes this unlike real scans are no copies, but of little use either: fit for longer, or on more scans."
        )
        return "look", "Likeness: synthetic volumes are unlike real scans.", facts + advice
    return "good", "Likeness: about as near to the training scans as unseen real scans are.", facts


def _diversity_verdict(findings: Findings) -> tuple[str, str, str]:
    made, real = findings.diversity, findings.diversity_real
    if made is None or real is None:
        return "look", "Variety: not measured.", "It takes two synthetic volumes and two scans."
    facts = (
        f"Two synthetic volumes are alike by {made.text()} (MS-SSIM, 1 is identical, {made.n} pairs), two real scans by "
        f"{real.text()} ({real.n} pairs). "
    )
    if made.low > real.high:
        return (
            "look",
            "Variety: less than in real scans.",
            facts + "Training on them alone would see too narrow a world.",
        )
    if made.high < real.low:
        advice = "More variety than in reality is rather noise or broken anatomy than richness: look at the pictures."
        return "look", "Variety: more than in real scans.", facts + advice
    return "good", "Variety: like that of real scans.", facts + "The two agree within their uncertainty."


def _fidelity_verdict(findings: Findings) -> tuple[str, str, str]:
    kept, known = findings.fidelity, findings.fidelity_training
    error = 10 ** (-kept.psnr.value / 20)
    text = (
        f"A scan that the generator never saw comes back from its autoencoder with a typical error of {error:.1%} of the "
        f"intensity range (PSNR {kept.psnr.text(1)} dB, SSIM {kept.ssim.text()}, {kept.psnr.n} scans). Synthetic volumes "
        "cannot show finer detail than that. "
    )
    if known.psnr.low > kept.psnr.high:
        text += (
            f"Scans it was fitted on come back better ({known.psnr.value:.1f} dB): it has begun to learn them by heart."
        )
        return "look", "Detail: measured.", text
    return "good", "Detail: measured.", text


def _few_scans(findings: Findings) -> tuple[str, str, str]:
    return (
        "look",
        f"Few scans: the generator was fitted on {len(findings.plan.cases)}.",
        "The fewer the scans, the sooner a generator reproduces them, and the less any figure here can be relied on.",
    )


def _figures(findings: Findings) -> str:
    kept, known = findings.fidelity, findings.fidelity_training
    scales, window = ms_ssim_settings(findings.plan.grid.shape)
    multi = f"{scales} scales, window {window}"
    rows: list[Sequence[object]] = [
        ("PSNR of reconstructions, held-out, dB", kept.psnr.text(2), f"{kept.psnr.n} scans", "range [-1, 1]"),
        ("PSNR of reconstructions, training, dB", known.psnr.text(2), f"{known.psnr.n} scans", "range [-1, 1]"),
        ("SSIM of reconstructions, held-out", kept.ssim.text(), f"{kept.ssim.n} scans", f"window {WINDOW}"),
        ("SSIM of reconstructions, training", known.ssim.text(), f"{known.ssim.n} scans", f"window {WINDOW}"),
    ]
    for name, figure in (("synthetic", findings.diversity), ("real", findings.diversity_real)):
        if figure is not None:
            rows.append((f"MS-SSIM between {name} volumes", figure.text(), f"{figure.n} pairs", multi))
    among = sorted(n.similarity for n in findings.training)
    percentile = among[min(len(among) - 1, int(FLOOR_PERCENT / 100 * len(among)))]
    share = len(findings.flagged) / len(findings.synthetic)
    rows += [
        (
            "floor: similarity above which a volume is flagged",
            findings.floor.text(),
            f"{findings.floor.n} windows",
            "held-out",
        ),
        (
            f"for comparison: {FLOOR_PERCENT:.0f}th percentile between training scans",
            f"{percentile:.3f}",
            f"{len(among)} scans",
            "",
        ),
        ("synthetic volumes flagged", f"{share:.1%}", f"{len(findings.synthetic)} volumes", ""),
        ("unseen real scans that would be flagged", _percents(findings), f"{findings.innocent.n} windows", "by ranks"),
        (f"flagged with a ratio below {LONE:.2f}", len(findings.lone), f"{len(findings.synthetic)} volumes", ""),
        (
            "training scans that are nearest to some synthetic volume",
            f"{findings.reached:.1%}",
            f"{len(findings.plan.cases)} scans",
            f"{findings.reached_by_chance:.1%} if picked at random",
        ),
    ]
    return _table(("figure", "value (95 % interval)", "n", "settings"), rows)


def _percents(findings: Findings) -> str:
    innocent = findings.innocent
    return f"{innocent.value:.1%} ({innocent.low:.1%} to {innocent.high:.1%})"


def _planted(findings: Findings) -> str:
    rows = [(kind, f"{found} of {planted}") for kind, (found, planted) in findings.found_by_kind().items()]
    alarms = sum(findings.is_flagged(near) for near in findings.held_out)
    rows.append(
        ("false alarms among held-out scans, which set the floor themselves", f"{alarms} of {len(findings.held_out)}")
    )
    alarms = sum(findings.is_flagged(near) for near in findings.training)
    rows.append(
        ("training scans that look like a copy of another training scan", f"{alarms} of {len(findings.training)}")
    )
    return _table(("planted copies of training scans", "flagged, with the right scan named"), rows)


def _nearest(findings: Findings, found: Sequence[Nearest], what: str, *, flags: bool) -> str:
    rows = [
        (
            near.name.removeprefix("held-out "),
            near.case + (" (mirrored)" if near.mirrored else ""),
            f"{near.similarity:.3f}",
            f"{near.ratio:.2f}",
            ("flagged" if findings.is_flagged(near) else "")
            if flags
            else ("the same person?" if near.ratio < SAME_PERSON else ""),
        )
        for near in found[:ROWS]
    ]
    table = _table((what, "nearest training scan", "similarity", "ratio", ""), rows)
    if len(found) > ROWS:
        table += _paragraph(f"The first {ROWS} of {len(found)}.", "note")
    return table


def _method(findings: Findings) -> Iterable[str]:
    plan, search = findings.plan, findings.search
    sizes = {"cell": search.factor, "compared": search.core, "shift": search.reach}
    cell, core, reach = (" x ".join(map(str, sizes[key])) for key in ("cell", "compared", "shift"))
    yield (
        "Similarity is Pearson's correlation of volumes averaged to cells and lightly smoothed, so that brightness and "
        "contrast do not matter; the best over shifts and left-right mirroring counts. Cells of "
        f"{cell} voxels, {core} cells compared, shifts of up to {reach} cells either way (Z x Y x X); channels count alike."
    )
    yield (
        "The ratio is the distance to the nearest training scan over that to the second nearest: 1 where both are alike, "
        f"near 0 where one scan stands out; below {LONE:.2f} it is counted as the mark of a copy. Several scans of one "
        "person among the training scans hide such a copy from this ratio."
    )
    yield (
        f"The floor is the {FLOOR_PERCENT:.0f}th percentile, rounded up to a measured value, of held-out scans' similarity "
        "to their nearest training scan. They are sent through the autoencoder first, to be as smooth as synthetic volumes."
    )
    if plan.grid.field_of_view == "patch":
        yield (
            "The generator makes windows, not whole scans. Each was compared with training scans at the relative "
            "positions of all windows, real windows were cut at the same relative positions; one scan may give several."
        )
    else:
        yield "Each volume is one whole scan on the generator's grid; what lies beyond the grid was not compared."
    yield (
        "Intervals are percentile bootstraps over scans or, for pairs, over volumes. That they are 95 % intervals is a large-"
        "sample statement; below some twenty scans they are too narrow."
    )
    yield (
        "Not shown: whether anatomy is correct (ask a radiologist), whether copies of a part, an organ say, are among the "
        "volumes, and whether somebody with other knowledge could tell that a patient's scan was used."
    )
    grid = f"{' x '.join(map(str, plan.grid.shape))} voxels of {' x '.join(f'{s:.2f}' for s in plan.grid.spacing)} mm"
    options = ", ".join(f"{key} {value}" for key, value in findings.request.items())
    hashes = ", ".join(f"{key} {value}" for key, value in findings.inputs.items())
    yield f"Grid {grid} (Z x Y x X), {plan.grid.field_of_view}; channels {', '.join(plan.channels)}; pictures show the first."
    yield f"Sampling: {options}. Seed of the audit: {findings.seed}. diffaug {findings.version}. {hashes}."


def draw_similarities(findings: Findings, file: Path) -> None:
    """Draw how similar volumes are to their nearest training scan, and the floor.

    Args:
        findings: What the audit found.
        file: The PNG, written atomically.
    """
    groups = {
        "synthetic": [n.similarity for n in findings.synthetic],
        "held-out scans": [n.similarity for n in findings.held_out],
        "training scans\n(to the others)": [n.similarity for n in findings.training],
        "planted copies": [n.similarity for _, _, n in findings.planted],
    }
    figure, axis = plt.subplots(figsize=(9, 2.6))
    for height, values in enumerate(groups.values()):
        spread = [height + 0.3 * ((i * 0.618) % 1 - 0.5) for i in range(len(values))]
        axis.plot(values, spread, ".", markersize=4, alpha=0.6)
    axis.axvline(findings.floor.value, color="#cf222e", linewidth=1, label="floor: flagged to the right of it")
    axis.set_yticks(range(len(groups)), [f"{name} ({len(values)})" for name, values in groups.items()], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("similarity to the nearest training scan (correlation)", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.legend(fontsize=7, loc="lower left")
    figure.tight_layout(pad=0.5)
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def _text(content: object) -> str:
    return html.escape(str(content))


def _paragraph(content: str, kind: str = "") -> str:
    return f'<p class="{kind}">{_text(content)}</p>' if kind else f"<p>{_text(content)}</p>"


def _card(kind: str, head: str, content: str) -> str:
    return f'<div class="card {kind}"><strong>{_text(head)}</strong> {_text(content)}</div>'


def _picture(file: Path, caption: str) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    image = f'<img alt="{_text(caption)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{_text(caption)}</figcaption></figure>"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    top = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    lines = ("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{''.join(lines)}</table>"
