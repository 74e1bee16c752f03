"""Every figure of an audit, once: its unit, what it means, and what is wrong with a set whose figure is off.

A figure is measured in a module of its kind (`distances`, `textures`, `organs`, ...) and named here; report, manifest and
verdicts follow. A figure that is measured and not named, or named and not measured, is an error when this is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from diffaug.audit import apartness, discriminant, distances, organs, spoiling, textures
from diffaug.audit.fidelity import Fidelity
from diffaug.audit.figures import Compared, Figure
from diffaug.audit.findings import Findings
from diffaug.scans.similarity import WINDOW, ms_ssim_settings


@dataclass(frozen=True)
class Subject:
    """What some figures are about; the worst of them is its verdict. `{group}` stands for the feature space.

    Attributes:
        name: Of the verdict.
        good: What is said of a set that is like real scans.
        bad: What is said of one that is not.
        defect: The defect in a few words.
        note: What a reader must know of the figures.
        digits: After the point.
        named: Tells defect and conclusion where the figures alone do not, of a set whose figure is off.
        shown_by: Name of a figure of another subject that shows the same defect: if it is off, the defect is its.
    """

    name: str
    good: str
    bad: str
    defect: str
    note: str = ""
    digits: int = 2
    named: Callable[[Findings], tuple[str, str]] | None = None
    shown_by: str | None = None


@dataclass(frozen=True)
class Entry:
    """A figure that stands beside its floor.

    Attributes:
        subject: A key of `SUBJECTS`.
        meaning: What it is, in which unit.
    """

    subject: str
    meaning: str


@dataclass(frozen=True)
class Single:
    """A figure without a floor.

    Attributes:
        key: In the manifest; parts of a path are parted by points.
        meaning: What it is, in which unit.
        get: Takes it from the findings.
        counted: What its n counts.
        settings: What it was measured with.
        digits: After the point.
        subject: A key of `SUBJECTS` that it explains, if it does.
    """

    key: str
    meaning: str
    get: Callable[[Findings], Figure | None]
    counted: str
    settings: Callable[[Findings], str]
    digits: int = 3
    subject: str | None = None


def _sharpness(findings: Findings) -> tuple[str, str]:
    """Tell on which side the finer half of the frequencies lies."""
    fine = findings.fineness
    if fine.high < 0:
        return "blurred", "Sharpness: the synthetic volumes are blurred."
    if fine.low > 0:
        return "noisy", "Sharpness: too much fine-grained noise."
    return "wrong texture", "Sharpness: blurred at some scales and noisy at others."


SUBJECTS = {
    "apart": Subject(
        "told from scans",
        "Told from scans: no, a classifier that looks for any difference finds none.",
        "Told from scans: a classifier that has seen others of both knows the synthetic volumes.",
        "told from scans",
        note="1 would mean that of a scan and a synthetic volume it always knows which is which, 0.5 that it guesses.",
    ),
    "sharpness": Subject(
        "sharpness",
        "Sharpness: like that of real scans.",
        "Sharpness: not that of real scans.",
        "wrong texture",
        named=_sharpness,
    ),
    "intensities": Subject(
        "intensities",
        "Intensities: like those of real scans.",
        "Intensities: brightness or contrast differ from real scans.",
        "wrong intensities",
    ),
    "slices": Subject(
        "slices",
        "Slices: neighbours fit as in real scans.",
        "Slices: neighbours fit otherwise than in real scans.",
        "neighbouring slices do not fit",
        note="Blur and noise show here too.",
        shown_by="spectrum",
    ),
    "likeness": Subject(
        "likeness, {group}",
        "Likeness ({group}): features lie where those of real scans do.",
        "Likeness ({group}): features lie elsewhere than those of real scans.",
        "unlike real scans",
        note="The floor is what one half of the real scans gives against the other half.",
        digits=3,
    ),
    "anatomy": Subject(
        "anatomy",
        "Anatomy: organs are shaped as in real scans.",
        "Anatomy: organs differ from those in real scans.",
        "wrong anatomy",
        note="Measured on what the segmentation model sees, which may err on synthetic volumes.",
    ),
}
COMPARED = {
    apartness.C2ST: Entry("apart", "area under the ROC curve of a network that was taught to tell the two sets apart"),
    discriminant.TEXTURE_C2ST: Entry(
        "apart", "the same of a linear discriminant of how strong and how heavy-tailed edges and grain are"
    ),
    "KID": Entry("likeness", "distance of the two sets of features, unbiased by their size; 0 is none"),
    "FID": Entry("likeness", "the same, of means and covariances along the leading directions"),
    "density": Entry("likeness", "share of synthetic volumes that lie where real scans do"),
    "coverage": Entry("likeness", "share of the real scans' range that synthetic volumes cover"),
    "spectrum": Entry("sharpness", "distance of the power spectra, dB"),
    "intensities": Entry("intensities", "distance of the histograms, percent of the intensity range"),
    "slices": Entry("slices", "how neighbouring slices fit, standard deviations of real scans"),
    **{
        quantity: Entry("anatomy", "distance of the distributions, standard deviations of real scans")
        for quantity in organs.QUANTITIES
    },
}


def _ms_ssim(findings: Findings) -> str:
    scales, window = ms_ssim_settings(findings.grid.shape)
    return f"{scales} scales, window {window}"


def _reconstruction(name: str, get: Callable[[Findings], Fidelity | None]) -> tuple[Single, Single]:
    """Name the figures of reconstructions of some scans."""

    def part(figure: str) -> Callable[[Findings], Figure | None]:
        return lambda findings: getattr(get(findings), figure, None)

    key, meaning = f"reconstruction.{name}", f"of reconstructions, {name}"
    return (
        Single(f"{key}.psnr_db", f"PSNR {meaning}, dB", part("psnr"), "scans", lambda _: "range [-1, 1]", digits=2),
        Single(f"{key}.ssim", f"SSIM {meaning}", part("ssim"), "scans", lambda _: f"window {WINDOW}"),
    )


SINGLE: tuple[Single, ...] = (
    Single(
        "c2st_blurred",
        f"the classifier's area where scans were blurred by {spoiling.SLIGHT_BLUR} voxels",
        lambda f: f.apart.blurred.figure if f.apart else None,
        "volumes",
        lambda _: "the test's own test",
    ),
    Single(
        "c2st_patched",
        "the classifier's area where a block of each scan is another scan's",
        lambda f: f.apart.patched.figure if f.apart else None,
        "volumes",
        lambda _: "half of each edge",
    ),
    Single("ms_ssim_synthetic", "MS-SSIM between synthetic volumes", lambda f: f.diversity, "pairs", _ms_ssim),
    Single("ms_ssim_real", "MS-SSIM between real scans", lambda f: f.diversity_real, "pairs", _ms_ssim),
    Single(
        "fineness_db",
        "power of fine structure, synthetic less real, dB; below 0 is blur, above 0 is noise",
        lambda f: f.fineness,
        "volumes",
        lambda _: "upper bands",
        digits=2,
        subject="sharpness",
    ),
    *_reconstruction("unseen", lambda f: f.fidelity),
    *_reconstruction("training", lambda f: f.fidelity_training),
)


def entry_of(name: str) -> Entry:
    """Find a compared figure's entry.

    Args:
        name: Of the figure; those of organs begin with the organ.

    Returns:
        The entry.
    """
    return COMPARED[name if name in COMPARED else name.rpartition(" ")[2]]


def by_subject(figures: dict[str, Compared]) -> dict[str, dict[str, Compared]]:
    """Sort the figures of a group by what they are about.

    Args:
        figures: By name.

    Returns:
        By subject, then by name, in the order of `SUBJECTS`.
    """
    found = {
        subject: {name: c for name, c in figures.items() if entry_of(name).subject == subject} for subject in SUBJECTS
    }
    return {subject: some for subject, some in found.items() if some}


_MEASURED = {apartness.C2ST, discriminant.TEXTURE_C2ST, *distances.FIGURES, *textures.SUMMARIES, *organs.QUANTITIES}
if COMPARED.keys() != _MEASURED:
    raise TypeError(f"audit figures: {_MEASURED ^ COMPARED.keys()} measured or named, expected both")
_USED = {entry.subject for entry in COMPARED.values()} | {single.subject for single in SINGLE if single.subject}
if SUBJECTS.keys() != _USED:
    raise TypeError(f"audit figures: subjects {SUBJECTS.keys() ^ _USED} used or described, expected both")
