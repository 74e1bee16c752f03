"""The demo's shipped generator and its page; the whole of it is what `make demo` runs."""

import json
from unittest.mock import Mock

import numpy as np
import pytest

from blobs import blob, write_image
from diffaug.demo import ARMS, SHIPPED, demo
from diffaug.demo_page import Shown, write
from diffaug.errors import DiffaugError
from diffaug.files import write_json
from diffaug.generator.model import Generator

SIZE = (8, 12, 14)


def test_the_shipped_generator_is_small_says_where_it_comes_from_and_names_no_scan():
    assert SHIPPED.stat().st_size < 5e6
    generator = Generator.load(SHIPPED)
    origin = generator.provenance["origin"]
    assert origin["scans"] == 270
    assert origin["licence"] == "Apache-2.0"
    assert origin["audit"]["copies"]["found"] == 0
    assert b"phantomA_0" not in SHIPPED.read_bytes()
    volumes, *_ = generator.synthesise(0, range(2), sampler="dpmpp", steps=4)
    assert volumes.shape == (2, 1, 16, 24, 32)
    assert volumes.std() > 0.1


@pytest.fixture
def shown(tmp_path):
    """Four test cases of blobs, two arms' masks, three scans and samples, an audit's verdicts."""
    folders = {name: tmp_path / name for name in ("scans", "synthetic", "tests", "truth")}
    for number in range(3):
        for name in ("scans", "synthetic"):
            write_image(folders[name] / f"{name}_{number}_0000.nii.gz", blob(number, SIZE))
    predictions = {arm: tmp_path / trainer for arm, trainer in ARMS.items()}
    for number in range(4):
        case, body = f"case_{number}", blob(number, SIZE)
        write_image(folders["tests"] / f"{case}_0000.nii.gz", body)
        write_image(folders["truth"] / f"{case}.nii.gz", (body > 300).astype(np.uint8))
        for arm, folder in predictions.items():
            empty = number == 3 and arm == "without pretraining"
            write_image(folder / f"{case}.nii.gz", ((body > 400) & (not empty)).astype(np.uint8))
    for arm, folder in predictions.items():
        gain = 0.1 * (arm == "with pretraining")
        cases = [
            {"prediction_file": f"/x/case_{n}.nii.gz", "metrics": {"1": {"Dice": 0.5 + gain * (n - 1)}}}
            for n in range(4)
        ]
        (folder / "summary.json").write_text(json.dumps({"metric_per_case": cases}))
    audit = tmp_path / "audit"
    write_json(audit / "manifest.json", {"verdicts": {"telling": ["bad", "Told from scans <at once>."]}})
    study = tmp_path / "out" / "study" / "index.html"
    return Shown(**folders, audit=audit, study=study, predictions=predictions, seconds={"sample": 12.3})


def test_the_page_shows_samples_verdicts_masks_and_dice_and_needs_nothing_beside_it(
    shown, tmp_path, capsys, monkeypatch
):
    page = write(tmp_path / "out", shown).read_text()
    told = capsys.readouterr().out
    assert "difference of the means +0.0500" in told
    assert "better in 2 of 4 cases" in told
    assert page.count("data:image/png;base64,") == 3, "samples, masks, and the benchmark's plot"
    monkeypatch.setattr("diffaug.demo_page.PLOT", tmp_path / "a wheel has none")
    assert write(tmp_path / "out", shown).read_text().count("data:image/png;base64,") == 2
    assert "Told from scans &lt;at once&gt;." in page
    assert "case_0, case_1, case_2, case_3" in page
    dice = json.loads((tmp_path / "out" / "dice.json").read_text())
    assert dice["dice"]["with pretraining"]["case_3"] == pytest.approx(0.7)


def test_a_demo_of_other_options_is_not_gone_on_with(tmp_path, refusal, monkeypatch):
    monkeypatch.setattr("diffaug.demo._Runner.__call__", stopped := Mock(side_effect=DiffaugError("stopped")))
    assert refusal(demo, tmp_path / "demo") == refusal(demo, tmp_path / "demo") == "stopped"
    for other in ({"seed": 1}, {"fit": True}):
        assert "give another --out" in refusal(demo, tmp_path / "demo", **other)
    assert stopped.call_count == 2, "nothing was begun"
