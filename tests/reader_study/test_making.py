"""A study shows real and synthetic volumes alike; what tells them apart stays in the key."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from studies import REAL, SYNTHETIC, marked, volumes, write_study

from blobs import blob, write_image
from diffaug.cli import main
from diffaug.errors import DiffaugError
from diffaug.reader_study.texts import read_texts


def test_nothing_but_voxels_differs_between_volumes(study):
    shown = volumes(study)
    assert len(shown) == 6
    states = [file.stat() for file, _ in shown.values()]
    assert len({state.st_size for state in states}) == 1
    assert len({state.st_mtime for state in states}) == 1
    assert len({image.header.binaryblock for _, image in shown.values()}) == 1
    arrays = [np.asanyarray(image.dataobj) for _, image in shown.values()]
    assert len({(array.min(), array.max(), array.dtype) for array in arrays}) == 1
    assert len({array.tobytes() for array in arrays}) == 6


def test_no_file_of_the_study_names_a_volume_a_folder_or_the_seed(study, key):
    words = [*REAL, *SYNTHETIC, str(study.real.parent), key["request"]["real"], "real_count"]
    for file in study.out.rglob("*"):
        if file.is_file() and file.name != "niivue.umd.js":
            assert [word for word in words if word in file.read_text()] == [], file.name
    assert not (study.out / ".lock").exists()
    assert [volume["kind"] for volume in key["volumes"].values()].count("real") == 3


def test_the_order_is_drawn_and_no_seed_is_what_anybody_could_guess(sides, tmp_path):
    orders, drawn = set(), set()
    for number in range(6):
        request = replace(sides, out=tmp_path / f"study_{number}", seed=None)
        write_study(request)
        written = json.loads(request.key_file.read_text())
        orders.add(tuple(volume["kind"] for volume in written["volumes"].values()))
        drawn.add(written["drawn"])
    assert len(orders) > 1
    assert len(drawn) == 6
    assert all(len(word) == 32 for word in drawn)


def test_left_stays_left_on_both_sides(study, key):
    for number, (_, image) in volumes(study).items():
        bright = np.argwhere(np.asanyarray(image.dataobj) > 900)
        place = nibabel.affines.apply_affine(image.affine, bright.mean(0))  # mm in RAS, of the middle
        assert key["volumes"][str(number)]["kind"] in ("real", "synthetic")
        assert place[0] < -3, "the spot is on the patient's left"
        assert place[1] < -3, "behind"
        assert place[2] < -3, "near the feet"


def test_both_sides_have_the_coarser_sides_spacing_and_a_box_that_all_fill(sides):
    fine = sitk.GetImageFromArray(np.kron(marked(20), np.ones((1, 2, 2), np.float32)))
    fine.SetSpacing((0.75, 0.75, 2.0))
    for file in sides.synthetic.iterdir():
        file.unlink()
    for number in range(3):
        sitk.WriteImage(fine, str(sides.synthetic / f"fine_{number}.nii.gz"))
    write_study(sides)
    (_, image), *_ = volumes(sides).values()
    assert np.allclose(image.header.get_zooms(), (1.5, 1.5, 2.0))
    assert image.shape == (22, 24, 20)


def test_ct_keeps_its_units(sides):
    for folder, names in ((sides.real, REAL), (sides.synthetic, SYNTHETIC)):
        for file in folder.iterdir():
            file.unlink()
        images = folder / "imagesTr"
        for seed, case in enumerate(names):
            write_image(images / f"{case}_0000.nii.gz", np.round(blob(seed)) - 900)
        info = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "numTraining": 3, "file_ending": ".nii.gz"}
        (folder / "dataset.json").write_text(json.dumps(info))
    write_study(sides)
    shown = volumes(sides)
    source = json.loads(sides.key_file.read_text())["volumes"]
    for number, (_, image) in shown.items():
        names = REAL if source[str(number)]["kind"] == "real" else SYNTHETIC
        seed = names.index(source[str(number)]["case"])
        there = np.clip(np.round(blob(seed)) - 900, -950, 1000).transpose(2, 1, 0)
        back = np.asanyarray(image.dataobj)[::-1, ::-1]  # LPS to RAS or not: the affine says
        assert np.abs(np.sort(back, axis=None) - np.sort(there, axis=None)).max() <= 1


def test_a_histogram_does_not_tell_scans_by_their_few_values(sides):
    for file in sides.real.iterdir():
        scan = sitk.ReadImage(str(file))
        sitk.WriteImage(sitk.Cast(sitk.Round(scan / 20), sitk.sitkInt16), str(file))  # fifty grey values
    write_study(sides)
    source = json.loads(sides.key_file.read_text())["volumes"]
    counts = {"real": [], "synthetic": []}
    for number, (_, image) in volumes(sides).items():
        counts[source[str(number)]["kind"]].append(len(np.unique(np.asanyarray(image.dataobj))))
    assert min(counts["real"]) > 0.8 * max(counts["synthetic"])


def test_a_folder_that_is_no_study_is_left_alone(sides, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("1")
    (tmp_path / "other.json").write_text("{}")
    for wrong, said in (
        ({"out": tmp_path / "thesis"}, "holds other files"),
        ({"out": sides.real}, "lie in one another"),
        ({"out": tmp_path}, "lie in one another"),
        ({"key": tmp_path / "other.json"}, "format is missing"),
        ({"synthetic": sides.real}, "is --real, too"),
        ({"real_count": -1}, "a number below 0"),
    ):
        for fresh in (False, True):
            with pytest.raises(DiffaugError, match=said):
                write_study(replace(sides, **wrong), fresh=fresh)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "1"
    assert (tmp_path / "other.json").read_text() == "{}"
    assert len(list(sides.real.iterdir())) == len(REAL)


def test_a_killed_call_goes_on_to_the_same_study(study):
    before = {file.name: file.read_bytes() for file in study.out.rglob("*") if file.is_file()}
    (study.out / "index.html").unlink()
    (study.out / "volumes" / "4.js").unlink()
    write_study(study)
    assert {file.name: file.read_bytes() for file in study.out.rglob("*") if file.is_file()} == before


def test_another_study_is_not_overwritten_unless_told_so(study):
    key = study.key_file.read_text()
    with pytest.raises(DiffaugError, match="begun with real_count 3, now it is 2"):
        write_study(replace(study, real_count=2))
    with pytest.raises(DiffaugError, match="found 3 synthetic volumes, expected 9"):
        write_study(replace(study, synthetic_count=9), fresh=True)
    assert study.key_file.read_text() == key
    assert len(volumes(study)) == 6
    write_study(replace(study, real_count=2), fresh=True)
    assert len(volumes(study)) == 5
    study.key_file.unlink()
    with pytest.raises(DiffaugError, match="holds a study whose key is not at"):
        write_study(study)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"key": "study/key.json"}, "lies in the study's folder"),
        ({"channel": 1}, r"--channel: found 1, expected 0 to 0"),
        ({"real": None}, "found no --real"),
        ({"real_count": 0, "synthetic_count": 0}, "no volumes asked for"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(sides, tmp_path, wrong, said):
    wrong = {name: tmp_path / value if name == "key" else value for name, value in wrong.items()}
    with pytest.raises(DiffaugError, match=said):
        write_study(replace(sides, **wrong))
    assert not (tmp_path / "study" / "index.html").exists()


def test_the_papers_own_design_shows_synthetic_volumes_alone(sides):
    write_study(replace(sides, real=None, real_count=0))
    assert len(volumes(sides)) == 3


def test_a_translation_must_be_whole(tmp_path, sides):
    texts = read_texts(None)
    file = tmp_path / "de.json"
    file.write_text(json.dumps(texts | {"language": "de", "heading": "Lesestudie </script><b>"}))
    write_study(replace(sides, texts=file))
    assert '<html lang="de">' in (sides.out / "index.html").read_text()
    assert "</script><b>" not in (sides.out / "study.js").read_text()
    for wrong, said in (
        ({name: text for name, text in texts.items() if name != "remark"}, "remark is missing"),
        (texts | {"introduction": ["one"]}, "introduction is .*expected 3 texts"),
        (texts | {"next": ""}, "next is '', expected a text"),
        (texts | {"language": '"><script>'}, "expected a code such as de"),
    ):
        file.write_text(json.dumps(wrong))
        with pytest.raises(DiffaugError, match=said):
            read_texts(file)


def test_the_command_line_makes_a_study(sides, capsys):
    folders = ["--real", str(sides.real), "--synthetic", str(sides.synthetic), "--out", str(sides.out)]
    assert main(["reader-study", "make", *folders, "--real-count", "2", "--synthetic-count", "2"]) == 0
    assert "the key stays with you" in capsys.readouterr().out
    assert main(["reader-study", "make", *folders, "--task", "1"]) == 2
    assert main(["reader-study", "make"]) == 2
    assert "found no --real" in capsys.readouterr().err
