"""From figures to verdicts in plain words: what is wrong with a synthetic set, and by which figure one knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from diffaug.audit.apartness import FEWEST
from diffaug.audit.catalogue import SINGLE, SUBJECTS, by_subject, entry_of
from diffaug.audit.figures import FEWEST_TO_HALVE
from diffaug.audit.findings import Findings
from diffaug.audit.folds import PATIENT_FOLDS
from diffaug.audit.memorisation import SURE

FEW_SCANS = 50  # below this the report warns: the fewer the scans, the sooner a generator knows them by heart
FOUND = 0.9  # share of planted copies that a test worth relying on finds
TOO_MANY_ALARMS = 0.2  # share of real scans held for copies above which a test says little
TOO_WIDE = 0.8  # end of the interval of an area between scans and scans, above which the test tells little
SUFFICIENT = 80  # scans, with which it hardly ever lies there
FEWEST_PAIRS_TO_JUDGE = 6  # of volumes, so of four: the interval of fewer is none
REPEATED = 0.99  # MS-SSIM of volumes that are one and the same
OWN = "self-supervised encoder"  # the extractor that is always there
INATTENTIVE = "Told from scans: no verdict, for the classifier overlooks spoilt scans, too."
TOO_FEW = "Told from scans: no verdict, there are too few scans to tell."
UNCERTAIN, RIGHT, WRONG = "look", "good", "bad"


@dataclass(frozen=True)
class Verdict:
    """One conclusion.

    Attributes:
        subject: What it is about.
        kind: `good`, `look` (uncertain, or worth a look) or `bad`.
        defect: The defect in a few words; None where there is none, or none that is certain.
        head: The conclusion.
        text: The figures it rests on, and what to do.
    """

    subject: str
    kind: str
    defect: str | None
    head: str
    text: str


def conclude(findings: Findings) -> list[Verdict]:
    """Draw the conclusions.

    Args:
        findings: What the audit measured.

    Returns:
        One verdict for each subject, in the order in which a reader needs them.
    """
    others = list(_compared(findings))
    if _repeated(findings):  # one volume is never like a whole range of them: its other defects say nothing more
        others = [replace(verdict, defect=None) for verdict in others]
    apart = [verdict for verdict in others if verdict.subject == SUBJECTS["apart"].name]
    rest = [verdict for verdict in others if verdict not in apart]
    alertness, doubt = _alertness(findings)
    if doubt is not None:
        apart = [replace(v, kind=UNCERTAIN, head=doubt) if v.kind == RIGHT else v for v in apart]
    verdicts = [*apart, alertness, _copies(findings), _check(findings), *_variety(findings), *rest]
    if not findings.textures:
        text = f"It takes {FEWEST_TO_HALVE} volumes of either set, and scans of several patients, none with nearly all."
        verdicts.append(Verdict("likeness", UNCERTAIN, None, "Likeness and textures: not measured.", text))
    verdicts += _detail(findings)
    if findings.training < FEW_SCANS:
        text = "The fewer the scans, the sooner a generator reproduces them, and the less any figure here can be relied on."
        verdicts.append(
            Verdict("scans", UNCERTAIN, None, f"Few scans: the generator was trained on {findings.training}.", text)
        )
    return verdicts


def defects(verdicts: Sequence[Verdict]) -> list[str]:
    """Name what is wrong.

    Args:
        verdicts: From `conclude`.

    Returns:
        The defects in a few words each; empty where none was found.
    """
    return [verdict.defect for verdict in verdicts if verdict.defect]


def _alertness(findings: Findings) -> tuple[Verdict, str | None]:
    """Tell whether the classifiers would notice, and what else a good verdict of theirs is: none, if they would not."""
    name = f"{SUBJECTS['apart'].name}: the test itself"
    if findings.apart is None:
        text = (
            f"It takes {2 * FEWEST} scans, of {PATIENT_FOLDS} patients in either half, and {FEWEST} synthetic volumes."
        )
        return Verdict(name, UNCERTAIN, None, "Told from scans: not measured.", text), None
    floors = {"the network": findings.apart.curve.floor, "the one of textures": findings.apart.textured.floor}
    if wide := [f"{which} by {floor.text()}" for which, floor in floors.items() if floor.high > TOO_WIDE]:
        text = f"Other scans are told from scans: {'; '.join(wide)}. Some {SUFFICIENT} scans suffice."
        return Verdict(
            name, UNCERTAIN, None, "The classifiers themselves: too few scans to clear a set.", text
        ), TOO_FEW
    checks = {"slight blur": findings.apart.blurred, "parts of other scans": findings.apart.patched}
    text = "; ".join(f"{what}: {compared.text()}" for what, compared in checks.items())
    missed = [what for what, compared in checks.items() if compared.verdict != "off"]
    if missed:
        head = f"The classifier itself: overlooks {' and '.join(missed)}."
        return Verdict(name, UNCERTAIN, None, head, text), INATTENTIVE
    head = "The classifier itself: notices slight blur, and parts of other scans."
    return Verdict(name, RIGHT, None, head, text), None


def _copies(findings: Findings) -> Verdict:
    copies, total = findings.copies, findings.synthetic
    found, alarms = len(copies.copies), copies.false_alarms
    facts = (
        f"{found} of {total} synthetic volumes ({found / total:.1%}) are held for copies of a training scan. Of {alarms.n} "
        f"real scans that are no copies {alarms.value:.1%} are (the true share may be anything from {alarms.low:.1%} to "
        f"{alarms.high:.1%}). The copies reach {copies.reached:.1%} of the {copies.training} training scans. "
    )
    end = (
        "This test can find copies; it cannot prove that there are none, nor that no other way leads back to a patient. "
        "Whether the set may leave the house is for people to decide."
    )
    if found and (copies.by_chance < SURE or copies.certain):
        do = (
            f"False alarms alone would be as many with a probability of {copies.by_chance:.2g}; {len(copies.certain)} are "
            f"more similar to a scan than false alarms would be (p < {SURE}). Look at the nearest pairs below, and leave the "
            "copies out (copies.csv) before sharing. "
        )
        return Verdict("copies", WRONG, "copies of training scans", "Copies: found.", facts + do + end)
    if alarms.value > TOO_MANY_ALARMS or alarms.high > 0.6:
        return Verdict(
            "copies", UNCERTAIN, None, "Copies: no verdict, too few real scans to compare with.", facts + end
        )
    if found:
        head = "Copies: no more than false alarms would explain, but look at the volumes that were named."
        return Verdict("copies", UNCERTAIN if found / total > alarms.high else RIGHT, None, head, facts + end)
    return Verdict("copies", RIGHT, None, "Copies: no sign of them.", facts + end)


def _check(findings: Findings) -> Verdict:
    kinds = findings.copies.found
    hits, total = (sum(column) for column in zip(*kinds.values(), strict=True)) if kinds else (0, 0)
    text = f"{hits} of {total} copies that were planted on purpose were found, with the right scan named. "
    blind = [kind for kind, (found, planted) in kinds.items() if found < FOUND * planted]
    if blind or not total:
        text += (
            f"It is weak for these kinds: {', '.join(blind) or 'all'}. A good verdict on copies means little for them."
        )
        return Verdict("test for copies", UNCERTAIN, None, "The test for copies itself: partly blind.", text)
    text += "Copies of a part of a scan were not planted."
    return Verdict("test for copies", RIGHT, None, "The test for copies itself: works on planted copies.", text)


def _repeated(findings: Findings) -> bool:
    return findings.diversity is not None and findings.diversity.value > REPEATED


def _variety(findings: Findings) -> Iterator[Verdict]:
    made, real = findings.diversity, findings.diversity_real
    if made is None or real is None:
        yield Verdict(
            "variety", UNCERTAIN, None, "Variety: not measured.", "It takes two synthetic volumes and two scans."
        )
        return
    coverage = findings.distances.get(OWN, {}).get("coverage")
    facts = (
        f"Two synthetic volumes are alike by {made.text()} (MS-SSIM, 1 is identical, {made.n} pairs), two real scans by "
        f"{real.text()} ({real.n} pairs). "
    )
    if coverage:
        facts += f"Share of the range of real scans that synthetic volumes cover: {coverage.text(2)}. "
    if _repeated(findings):
        head = "Variety: none, the synthetic volumes are one and the same."
        yield Verdict("variety", WRONG, "one volume repeated", head, facts)
    elif min(made.n, real.n) < FEWEST_PAIRS_TO_JUDGE:
        yield Verdict("variety", UNCERTAIN, None, "Variety: no verdict, too few volumes.", facts)
    elif made.low > real.high:
        advice = "Training on them alone would see too narrow a world."
        yield Verdict("variety", WRONG, "too little variety", "Variety: less than in real scans.", facts + advice)
    elif made.high < real.low:
        advice = "More variety than in reality is rather noise or broken anatomy than richness: look at the pictures."
        yield Verdict("variety", UNCERTAIN, None, "Variety: more than in real scans.", facts + advice)
    else:
        yield Verdict("variety", RIGHT, None, "Variety: like that of real scans.", facts)


def _compared(findings: Findings) -> Iterator[Verdict]:
    """Judge every subject by the worst of its figures."""
    off = {name for figures in findings.compared.values() for name, c in figures.items() if c.verdict == "off"}
    for group, figures in findings.compared.items():
        for key, some in by_subject(figures).items():
            subject = SUBJECTS[key]
            worst = min((c.verdict for c in some.values()), key=("off", "near", "at the floor").index)
            defect, bad = subject.defect, subject.bad.format(group=group)
            if subject.named is not None:
                defect, bad = subject.named(findings)
            told = [
                f"{single.meaning}: {figure.text(single.digits)}"
                for single in SINGLE
                if single.subject == key and (figure := single.get(findings)) is not None
            ]
            told += [f"{name} ({entry_of(name).meaning}): {c.text(subject.digits)}" for name, c in some.items()]
            text = f"{'; '.join(told)}. {subject.note}"
            name = subject.name.format(group=group)
            if worst == "off":
                yield Verdict(name, WRONG, None if subject.shown_by in off else defect, bad, text)
            elif worst == "near":
                yield Verdict(name, UNCERTAIN, None, f"{bad.removesuffix('.')}, but not for certain.", text)
            else:
                yield Verdict(name, RIGHT, None, subject.good.format(group=group), text)


def _detail(findings: Findings) -> Iterator[Verdict]:
    kept, known = findings.fidelity, findings.fidelity_training
    if kept is None or known is None:
        return
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
        yield Verdict("detail", UNCERTAIN, None, "Detail: measured.", text)
    else:
        yield Verdict("detail", RIGHT, None, "Detail: measured.", text)
