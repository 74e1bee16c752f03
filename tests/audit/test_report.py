"""The report: every defect is named by the figure meant for it, and the page needs nothing beside it."""

import importlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from test_memorisation import blobs, grid, inputs, looked

from diffaug.audit import catalogue, distances, measuring
from diffaug.audit import textures as measured_textures
from diffaug.audit.apartness import Apartness
from diffaug.audit.auditing import summarise
from diffaug.audit.discriminant import STATISTICS
from diffaug.audit.drawing import draw
from diffaug.audit.fidelity import Fidelity
from diffaug.audit.figures import Compared, Figure
from diffaug.audit.findings import Findings
from diffaug.audit.memorisation import Judged, Memorisation
from diffaug.audit.report import render
from diffaug.audit.verdicts import OWN, conclude, defects
from diffaug.training.devices import start_fabric

SIZE = (16, 16, 16)
SCANS = [f"case_{i}" for i in range(60)]
AT_FLOOR = Compared(Figure(1.0, 0.9, 1.1, 20), Figure(1.0, 0.8, 1.2, 20), False)
OFF = Compared(Figure(3.0, 2.9, 3.1, 20), Figure(1.0, 0.8, 1.2, 20), False)
NEAR = Compared(Figure(1.3, 0.9, 1.7, 20), Figure(1.0, 0.8, 1.2, 20), False)
MEDIUM = Figure(0.5, 0.45, 0.55, 100)
LOOKS = {"spectrum": np.zeros((3, 1, 16)), "histogram": np.zeros((3, 1, 48))}
EXCESS = np.linspace(0.9, -1.5, len(STATISTICS))
AREA = Compared(Figure(0.52, 0.45, 0.6, 20), Figure(0.55, 0.45, 0.65, 20), False)
TOLD = Compared(Figure(0.9, 0.8, 0.95, 20), Figure(0.55, 0.45, 0.65, 20), False)
TELLING = Apartness(AREA, AREA, TOLD, TOLD, {"v0": 0.1}, {"case_0": 0.0}, EXCESS)


def judged(count, copies=0):
    spread = np.linspace(0.4, 0.6, count)
    return [Judged(f"v{i}", f"case_{i % 10}", s + 0.15 * (i < copies), 0.8, i < copies) for i, s in enumerate(spread)]


def copies(synthetic=100, found=0, innocents=100, alarms=0, planted=None):
    return Memorisation(
        judged(synthetic, found),
        judged(innocents, alarms),
        [],
        [],
        0.7,
        Figure(alarms / innocents, 0, 1 - 0.025 ** (1 / innocents), innocents),
        (),
        planted or {"exact": (10, 10)},
        training=60,
    )


def findings(**changes):
    good = Findings(
        title="a set",
        version="0",
        inputs={},
        about=("how it was done",),
        channels=("MR",),
        grid=grid(SIZE),
        training=60,
        unseen=20,
        copies=copies(),
        apart=TELLING,
        distances={OWN: dict.fromkeys(("KID", "FID", "density", "coverage"), AT_FLOOR)},
        textures=dict.fromkeys(("intensities", "spectrum", "slices"), AT_FLOOR),
        looks={"real": LOOKS, "synthetic": LOOKS},
        fineness=Figure(0.1, -0.2, 0.4, 60),
        diversity=MEDIUM,
        diversity_real=MEDIUM,
        organs={},
        fidelity=None,
        fidelity_training=None,
        seed=0,
    )
    return replace(good, **changes)


def textures(**changes):
    return dict.fromkeys(("intensities", "spectrum", "slices"), AT_FLOOR) | changes


def by_subject(found):
    return {verdict.subject: verdict for verdict in conclude(found)}


def test_nothing_is_wrong_with_a_set_at_the_floor():
    verdicts = conclude(findings())
    assert defects(verdicts) == []
    assert {verdict.kind for verdict in verdicts} == {"good"}


@pytest.mark.parametrize(
    ("defect", "changes"),
    {
        "told from scans": {"apart": replace(TELLING, curve=TOLD)},
        "copies of training scans": {"copies": copies(found=20)},
        "one volume repeated": {"diversity": Figure(1.0, 1.0, 1.0, 100), "textures": textures(spectrum=OFF)},
        "too little variety": {"diversity": Figure(0.7, 0.65, 0.75, 100)},
        "blurred": {"textures": textures(spectrum=OFF, slices=OFF), "fineness": Figure(-9, -10, -8, 60)},
        "noisy": {"textures": textures(spectrum=OFF, slices=OFF), "fineness": Figure(9, 8, 10, 60)},
        "wrong texture": {"textures": textures(spectrum=OFF)},
        "wrong intensities": {"textures": textures(intensities=OFF)},
        "neighbouring slices do not fit": {"textures": textures(slices=OFF)},
        "unlike real scans": {"distances": {OWN: {"KID": OFF, "coverage": AT_FLOOR}}},
        "wrong anatomy": {"organs": {"heart volume_ml": OFF, "heart components": AT_FLOOR}},
    }.items(),
)
def test_each_defect_is_named_alone(defect, changes):
    verdicts = conclude(findings(**changes))
    assert defects(verdicts) == [defect]
    assert defect in render(findings(**changes), verdicts, Path("nowhere"))


def test_what_is_uncertain_is_said_but_is_no_defect():
    verdicts = conclude(findings(textures=textures(intensities=NEAR)))
    assert defects(verdicts) == []
    assert [v.subject for v in verdicts if v.kind == "look"] == ["intensities"]


def test_the_classifier_leads_and_is_believed_as_far_as_it_notices():
    first, second, *_ = conclude(findings(apart=replace(TELLING, blurred=AREA)))
    assert (first.subject, first.kind) == ("told from scans", "look"), "what sees no blur clears nobody"
    assert "overlooks spoilt scans, too" in first.head
    assert second.kind == "look"
    told = replace(TELLING, curve=TOLD, blurred=AREA)
    assert conclude(findings(apart=told))[0].kind == "bad", "but what it does see is there"
    assert "overlooks slight blur." in second.head
    assert conclude(findings(apart=None))[0].head == "Told from scans: not measured."


def test_the_texture_that_differs_most_is_named_first():
    page = render(findings(), conclude(findings()), Path("nowhere"))
    last, first = (f"MR: {STATISTICS[i]}</td><td>{EXCESS[i]:+.1f}" for i in (-1, 0))
    assert last in page and "-1.5" in last
    assert first not in page, "six of thirty are enough"
    assert STATISTICS[-1] not in render(findings(apart=None), [], Path("nowhere"))


WIDE = Figure(0.7, 0.5, 0.9, 10)


@pytest.mark.parametrize("which", ["curve", "textured"])
def test_a_floor_that_reaches_every_area_clears_nobody(which):
    told = replace(TELLING, **{which: Compared(Figure(0.85, 0.7, 1.0, 10), WIDE, False)})
    first, second, *_ = conclude(findings(apart=told))
    assert (first.kind, second.kind) == ("look", "look")
    assert "too few scans" in first.head
    assert {"curve": "the network by", "textured": "the one of textures by"}[which] in second.text
    off = replace(TELLING, **{which: Compared(Figure(0.99, 0.95, 1.0, 10), WIDE, False)})
    assert conclude(findings(apart=off))[0].kind == "bad"


def test_what_was_not_measured_is_said():
    said = by_subject(findings(textures={}, distances={}))["likeness"]
    assert (said.kind, said.defect) == ("look", None)
    assert "not measured" in said.head


@pytest.mark.parametrize(("pairs", "kind"), [(1, "look"), (3, "look"), (6, "bad")])
def test_variety_of_two_or_three_volumes_is_no_verdict(pairs, kind):
    few = Figure(0.7, 0.69, 0.71, pairs)
    assert by_subject(findings(diversity=few))["variety"].kind == kind
    assert by_subject(findings(diversity=Figure(1.0, 1.0, 1.0, pairs)))["variety"].kind == "bad"


def test_no_more_alarms_than_among_real_scans_are_no_copies():
    verdict = by_subject(findings(copies=copies(found=5, alarms=5)))["copies"]
    assert verdict.defect is None
    assert "false alarms" in verdict.head


def test_few_real_scans_give_no_verdict_on_copies():
    verdict = by_subject(findings(copies=copies(innocents=2)))["copies"]
    assert (verdict.kind, verdict.defect) == ("look", None)
    assert "too few" in verdict.head


def test_a_test_that_misses_planted_copies_says_for_which_kinds_it_is_blind():
    verdict = by_subject(findings(copies=copies(planted={"exact": (10, 10), "warped": (3, 10)})))["test for copies"]
    assert verdict.kind == "look"
    assert "warped" in verdict.text and "exact" not in verdict.text


def test_training_scans_that_come_back_better_are_a_sign_of_learning_by_heart():
    kept, known = (Fidelity(Figure(v, v - 1, v + 1, 20), MEDIUM) for v in (25, 30))
    verdict = conclude(findings(fidelity=kept, fidelity_training=known))[-1]
    assert "by heart" in verdict.text
    assert "by heart" not in conclude(findings(fidelity=kept, fidelity_training=kept))[-1].text


class Averages:
    """Features that are plain averages."""

    def features(self, volumes):
        return torch.cat([volumes.mean((2, 3, 4)), volumes.std((2, 3, 4)), volumes[..., :8].mean((2, 3, 4))], 1)


SETS = {
    "": lambda i: blobs(SIZE, 100 + i),
    "noisy": lambda i: blobs(SIZE, 100 + i) + np.random.default_rng(i).normal(0, 0.1, (1, *SIZE)).astype(np.float32),
    "blurred": lambda i: gaussian_filter(blobs(SIZE, 100 + i), (0, 1, 1, 1)),
    "one volume repeated": lambda i: blobs(SIZE, 100),
    "wrong intensities": lambda i: 0.6 * blobs(SIZE, 100 + i) + 0.2,
}


@pytest.fixture
def measured(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "look_for_differences", lambda *_, **__: replace(TELLING, synthetic={"made_0": 1.0}))

    def call(make):
        made = {f"made_{i}": make(i) for i in range(40)}
        scans = inputs(
            tmp_path, grid(SIZE), SIZE, training=SCANS, unseen=[f"case_{i}" for i in range(200, 240)], made=made
        )
        monkeypatch.setattr(measuring, "look_for_copies", lambda *_: looked(scans))
        found = measuring.measure(
            scans,
            None,  # no copies are looked for here
            Averages(),
            extras=measuring.Extras(),
            autoencoder=None,
            made_from={},
            work=tmp_path,
            fabric=start_fabric("cpu"),
        )
        return found, scans

    return call


@pytest.mark.parametrize("defect", SETS)
def test_measured_sets_are_told_apart(measured, defect):
    found = defects(conclude(measured(SETS[defect])[0]))
    assert (defect in found) if defect else (found == [])


def test_measuring_twice_gives_the_same_figures(measured):
    assert summarise(measured(SETS[""])[0]) == summarise(measured(SETS[""])[0])


def test_the_page_needs_nothing_beside_it_and_escapes_names(measured, tmp_path):
    found, scans = measured(SETS[""])
    draw(found, scans, lambda volume: volume, tmp_path)
    page = render(replace(found, title="a&b<i>"), conclude(found), tmp_path)
    assert page.count("data:image/png;base64,") == 6
    assert not re.search(r"https?:|<script|<link|url\(|@import", page)
    assert all(source.startswith("data:") for source in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert "a&amp;b&lt;i&gt;" in page and "<i>" not in page
    assert page.index("Verdict") < page.index("Pictures") < page.index("Figures")


@pytest.fixture
def reload():
    yield lambda: importlib.reload(catalogue)
    importlib.reload(catalogue)


def test_a_figure_that_is_measured_and_not_named_is_an_error_at_import(reload, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(distances, "FIGURES", (*distances.FIGURES, "precision"))
        with pytest.raises(TypeError, match="precision"):
            reload()


def test_a_figure_that_is_named_and_not_measured_is_an_error_at_import(reload, monkeypatch):
    with monkeypatch.context() as patch:
        patch.delitem(measured_textures.SUMMARIES, "slices")
        with pytest.raises(TypeError, match="slices"):
            reload()


def test_every_compared_figure_has_a_verdict_with_its_meaning_and_value():
    told = " ".join(verdict.text for verdict in conclude(findings(organs={"heart volume_ml": AT_FLOOR})))
    for name, entry in catalogue.COMPARED.items():
        if entry.subject != "anatomy" or name == "volume_ml":
            value = AREA if entry.subject == "apart" else AT_FLOOR
            assert f"{name} ({entry.meaning}): {value.text()[:4]}" in told


def test_the_worst_figure_of_a_subject_is_its_verdict():
    verdicts = by_subject(findings(textures=textures(intensities=OFF)))
    assert verdicts["intensities"].defect == "wrong intensities"
    assert verdicts["slices"].defect is None


def test_the_manifest_has_every_single_figure_under_its_key():
    kept = summarise(findings())
    assert kept["fineness_db"]["value"] == 0.1
    assert kept["ms_ssim_real"]["n"] == 100
    assert kept["reconstruction"] == {}
