"""Every figure once: what is measured is named, and what is named is measured."""

import importlib

import pytest
from test_report import AT_FLOOR, OFF, findings, textures

from diffaug.audit import catalogue, distances
from diffaug.audit import textures as measured_textures
from diffaug.audit.summary import summarise
from diffaug.audit.verdicts import conclude


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
            assert f"{name} ({entry.meaning}): {AT_FLOOR.text()[:4]}" in told


def test_the_worst_figure_of_a_subject_is_its_verdict():
    verdicts = {v.subject: v for v in conclude(findings(textures=textures(intensities=OFF)))}
    assert verdicts["intensities"].defect == "wrong intensities"
    assert verdicts["slices"].defect is None


def test_the_manifest_has_every_single_figure_under_its_key():
    kept = summarise(findings())
    assert kept["fineness_db"]["value"] == 0.1
    assert kept["ms_ssim_real"]["n"] == 100
    assert kept["reconstruction"] == {}
