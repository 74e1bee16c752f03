"""Cards say what was fitted to what, name no case, and are not written over what somebody filled in."""

import numpy as np

from blobs import LABELLED, UNLABELLED
from diffaug.generator.cards import DATA_CARD, MODEL_CARD, OPEN, write_cards
from diffaug.generator.model import Generator
from diffaug.generator.preparing import readings_of, stored_readings
from diffaug.stages.pipeline import fit


def test_fit_writes_cards_that_name_no_case(task):
    task.tiny_plan()
    folder = task.workspace.generator
    fit(task.workspace, device="cpu")
    model, data = ((folder / name).read_text() for name in (MODEL_CARD, DATA_CARD))
    for text in (model, data):
        assert not [case for case in (*LABELLED, *UNLABELLED) if case in text]
        assert OPEN in text
        assert str(task.raw.parent) not in text
    assert "latent diffusion model of MR volumes" in model
    assert "denoiser held out" in model
    assert "held out |" in data
    assert "2 x 1.5 x 1.5; 2 x 1.5 x 1.5, 2 x 1.5 x 1.5" in data


def test_what_somebody_filled_in_stays(task):
    task.tiny_plan()
    folder = task.workspace.generator
    fit(task.workspace, device="cpu")
    (folder / MODEL_CARD).write_text("ours")
    plan = Generator.load(folder / "generator.safetensors").plan
    readings = list(readings_of(stored_readings(folder)).values())
    (folder / DATA_CARD).unlink()
    write_cards(folder, plan, readings, {"denoiser_held_out": float(np.pi)}, ["a"])
    assert (folder / MODEL_CARD).read_text() == "ours"
    assert "| left out beforehand | 1 |" in (folder / DATA_CARD).read_text()
