import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from diffaug.errors import DiffaugError
from diffaug.phantom.anatomy import build
from diffaug.phantom.dataset import SITES, case_parameters, default_spacing, draw_parameters, render, write_dataset
from diffaug.phantom.drawing import smooth_field
from diffaug.phantom.scanner import tissue_signals

SHAPE = (16, 24, 32)


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def fat_and_gland(parameters, shape=(32, 48, 64)):
    anatomy = build(parameters, shape=shape, spacing=default_spacing(parameters, shape))
    image, _ = render(parameters, shape)
    weights = anatomy.tissues
    inner = (anatomy.mask > 0) & (weights["skin"] < 0.05) & (weights["lesion"] < 0.05)
    bare = (weights["gland"] < 0.1) & (weights["strand"] < 0.1) & (weights["vessel"] < 0.1)
    return image[inner & bare].mean(), image[inner & (weights["gland"] > 0.8)].mean()


def test_parameters_can_be_written_as_json():
    parameters = case_parameters(3, "A", 0)
    assert json.loads(json.dumps(parameters.to_json()))["scan"]["noise"] == parameters.scan.noise


def test_render_is_deterministic():
    parameters = case_parameters(3, "A", 0)
    for first, second in zip(render(parameters, SHAPE), render(parameters, SHAPE), strict=True):
        np.testing.assert_array_equal(first, second)


def test_image_and_mask_have_the_promised_types_and_values():
    image, mask = render(case_parameters(3, "B", 1), SHAPE)
    assert image.shape == mask.shape == SHAPE
    assert image.dtype == np.float32
    assert mask.dtype == np.uint8
    assert np.isfinite(image).all()
    assert image.min() >= 0
    assert set(np.unique(mask)) == {0, 1}


@pytest.mark.parametrize("site", SITES)
def test_mask_is_two_sided_and_of_plausible_size(site):
    for index in range(12):
        parameters = case_parameters(5, site, index)
        image, mask = render(parameters)
        litres = mask.sum() * np.prod(default_spacing(parameters, mask.shape)) / 1e6
        assert 0.3 < litres < 5
        assert 0.03 < mask.mean() < 0.3
        right, left = mask[..., :32].sum(), mask[..., 32:].sum()
        assert 0.2 < right / left < 5
        air = image[:, :3, 28:36]
        assert image[mask > 0].mean() > 3 * air.mean()


def test_breasts_hang_forward():
    _, mask = render(case_parameters(5, "A", 0))
    rows = np.nonzero(mask)[1]
    assert rows.mean() < mask.shape[1] / 2


def test_anatomy_does_not_depend_on_the_grid():
    parameters = case_parameters(5, "A", 2)
    coarse, fine = render(parameters, (32, 48, 64))[1], render(parameters, (96, 144, 192))[1]
    middle = fine[1::3, 1::3, 1::3]
    assert 2 * (coarse & middle).sum() / (coarse.sum() + middle.sum()) > 0.97


def test_spacing_can_be_chosen():
    parameters = case_parameters(5, "A", 2)
    near = render(parameters, spacing=(4.0, 4.0, 4.0))[1]
    far = render(parameters, spacing=(6.0, 6.0, 6.0))[1]
    assert near.mean() > far.mean()


def test_smooth_field_is_the_same_function_on_every_grid():
    coarse = (np.arange(-40, 41, 8, dtype=np.float32),) * 3
    fine = (np.arange(-40, 41, 4, dtype=np.float32),) * 3
    fields = [smooth_field(np.random.default_rng(1), axes, (20, 30, 25)) for axes in (coarse, fine)]
    np.testing.assert_allclose(fields[0], fields[1][::2, ::2, ::2], atol=1e-5)
    assert 0.3 < fields[1].std() < 1.7


def test_fat_suppression_flips_the_contrast_of_fat_and_gland():
    found = []
    for index in range(30):
        parameters = case_parameters(5, "B", index)
        even = replace(parameters.scan, coil_strength=0.0, shading=0.0)
        parameters = replace(parameters, scan=even)
        if parameters.right.glandular < 0.35 or parameters.scan.suppression_failure[0]:
            continue
        fat, gland = fat_and_gland(parameters)
        assert (gland > fat) == parameters.scan.fat_suppressed
        found.append(parameters.scan.fat_suppressed)
    assert set(found) == {True, False}


def test_contrast_agent_brightens_blood_more_than_muscle():
    parameters = case_parameters(5, "A", 0)
    before, after = (
        tissue_signals(replace(parameters, scan=replace(parameters.scan, enhancement=e))) for e in (0.0, 1.0)
    )
    assert after["blood"] - before["blood"] > 0.5
    assert after["muscle"] - before["muscle"] < 0.1
    assert after["fat"] == before["fat"]


def test_noise_is_rician():
    parameters = case_parameters(5, "A", 0)
    noisy = replace(parameters, scan=replace(parameters.scan, noise=0.05, brightness=1.0, ghost=(0.0, 0.2)))
    image, mask = render(noisy)
    air = image[:, :3, 28:36]
    # Mean and standard deviation of Rayleigh's distribution for two channels of 0.05.
    assert air.mean() == pytest.approx(0.05 * np.sqrt(np.pi / 2), rel=0.05)
    assert air.std() == pytest.approx(0.05 * np.sqrt(2 - np.pi / 2), rel=0.1)


def test_sites_differ_as_stated():
    scans = {site: [case_parameters(0, site, i).scan for i in range(200)] for site in SITES}
    traits = {
        "suppressed": lambda s: s.fat_suppressed,
        "noise": lambda s: s.noise,
        "brightness": lambda s: s.brightness,
        "slices": lambda s: s.blur[0],
        "coil": lambda s: s.coil_strength,
    }
    ratio = {
        name: np.mean([trait(s) for s in scans["B"]]) / np.mean([trait(s) for s in scans["A"]])
        for name, trait in traits.items()
    }
    assert ratio["suppressed"] < 0.8
    assert ratio["brightness"] > 3
    assert min(ratio["noise"], ratio["slices"], ratio["coil"]) > 1.2


def test_women_differ_within_a_site():
    drawn = [case_parameters(0, "A", i) for i in range(50)]
    assert np.ptp([p.right.depth for p in drawn]) > 50
    assert np.ptp([p.right.glandular for p in drawn]) > 0.5
    assert {p.scan.fat_suppressed for p in drawn} == {True, False}


def test_drawing_and_rendering_leave_the_global_generator_alone():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = draw_parameters(np.random.default_rng(4), "A")
    assert first == draw_parameters(np.random.default_rng(4), "A")
    render(first, SHAPE)
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_dataset_has_the_layout_that_nnunet_reads(tmp_path):
    folder = write_dataset(tmp_path, task=501, cases=3, seed=1, site="A", shape=SHAPE, labelled=2, test=1)
    assert folder == tmp_path / "Dataset501_BreastPhantomA"
    assert sorted(files(folder)) == [
        "dataset.json",
        "imagesTr/phantomA_0001_0000.nii.gz",
        "imagesTr/phantomA_0002_0000.nii.gz",
        "imagesTs/phantomA_test_0001_0000.nii.gz",
        "imagesUn/phantomA_0003_0000.nii.gz",
        "labelsTr/phantomA_0001.nii.gz",
        "labelsTr/phantomA_0002.nii.gz",
        "labelsTs/phantomA_test_0001.nii.gz",
        "phantom.json",
    ]
    description = json.loads((folder / "dataset.json").read_text())
    assert description["numTraining"] == 2
    assert description["labels"] == {"background": 0, "breast": 1}
    assert description["channel_names"] == {"0": "MRI"}
    assert description["file_ending"] == ".nii.gz"


def test_nnunet_reader_gives_the_rendered_phantom_back(tmp_path):
    reader = pytest.importorskip("nnunetv2.imageio.simpleitk_reader_writer").SimpleITKIO()
    folder = write_dataset(tmp_path, task=501, cases=1, seed=1, site="B", shape=SHAPE)
    parameters = case_parameters(1, "B", 0)
    image, properties = reader.read_images([str(folder / "imagesTr" / "phantomB_0001_0000.nii.gz")])
    mask, _ = reader.read_seg(str(folder / "labelsTr" / "phantomB_0001.nii.gz"))
    rendered = render(parameters, SHAPE)
    np.testing.assert_allclose(image[0], rendered[0], atol=0.51)
    np.testing.assert_array_equal(mask[0], rendered[1])
    np.testing.assert_allclose(properties["spacing"], default_spacing(parameters, SHAPE), rtol=1e-5)


def test_geometry_is_axial_and_covers_the_field_of_view(tmp_path):
    folder = write_dataset(tmp_path, task=501, cases=1, seed=1, site="A", shape=SHAPE)
    image = sitk.ReadImage(str(folder / "imagesTr" / "phantomA_0001_0000.nii.gz"))
    mask = sitk.ReadImage(str(folder / "labelsTr" / "phantomA_0001.nii.gz"))
    extent = np.array(image.GetSize()) * image.GetSpacing()
    assert 320 <= extent[0] <= 360
    assert 200 <= extent[1] <= 240
    assert 150 <= extent[2] <= 170
    assert image.GetDirection() == pytest.approx((1, 0, 0, 0, 1, 0, 0, 0, 1))
    assert np.abs(image.GetOrigin()).min() > 1
    assert image.GetOrigin() == mask.GetOrigin()
    assert image.GetSpacing() == mask.GetSpacing()
    assert image.GetPixelID() == sitk.sitkInt16
    assert mask.GetPixelID() == sitk.sitkUInt8


def test_same_seed_gives_the_same_bytes(tmp_path):
    first, second, other = (
        write_dataset(tmp_path / name, task=501, cases=2, seed=seed, site="A", shape=SHAPE, test=1)
        for name, seed in (("one", 1), ("two", 1), ("three", 2))
    )
    assert files(first) == files(second)
    key = "imagesTr/phantomA_0001_0000.nii.gz"
    assert files(first)[key] != files(other)[key]


def test_more_cases_do_not_change_the_first_ones(tmp_path):
    few = files(write_dataset(tmp_path / "few", task=501, cases=1, seed=1, site="A", shape=SHAPE, test=1))
    many = files(write_dataset(tmp_path / "many", task=501, cases=3, seed=1, site="A", shape=SHAPE, test=2))
    for name in few:
        if name.endswith(".nii.gz"):
            assert few[name] == many[name]


def test_training_and_test_cases_are_different_women():
    train = {case_parameters(1, "A", i).texture_seed for i in range(20)}
    test = {case_parameters(1, "A", i, test=True).texture_seed for i in range(20)}
    assert len(train | test) == 40


def test_rerun_goes_on_where_it_stopped_and_touches_nothing_else(tmp_path):
    settings = {"task": 501, "cases": 2, "seed": 1, "site": "A", "shape": SHAPE}
    folder = write_dataset(tmp_path, **settings)
    whole = files(folder)
    (folder / "labelsTr" / "phantomA_0002.nii.gz").unlink()
    (folder / "dataset.json").unlink()
    times = {p: p.stat().st_mtime_ns for p in folder.rglob("*_0001*")}
    write_dataset(tmp_path, **settings)
    assert files(folder) == whole
    assert times == {p: p.stat().st_mtime_ns for p in times}


@pytest.mark.parametrize("change", [{"seed": 2}, {"cases": 3}, {"labelled": 1}, {"shape": (16, 16, 32)}, {"test": 1}])
def test_existing_dataset_with_other_settings_is_refused(tmp_path, change):
    settings = {"task": 501, "cases": 2, "seed": 1, "site": "A", "shape": SHAPE}
    folder = write_dataset(tmp_path, **settings)
    before = files(folder)
    with pytest.raises(DiffaugError, match=f"phantom.json: found .*{next(iter(change))}.*expected.*--task") as error:
        write_dataset(tmp_path, **(settings | change))
    assert "\n" not in str(error.value)
    assert files(folder) == before


def test_dataset_of_someone_else_is_refused(tmp_path):
    (tmp_path / "Dataset501_BreastPhantomA" / "imagesTr").mkdir(parents=True)
    with pytest.raises(DiffaugError, match="holds another dataset"):
        write_dataset(tmp_path, task=501, cases=1, shape=SHAPE)


def test_number_taken_by_another_dataset_is_refused(tmp_path):
    (tmp_path / "Dataset501_Heart").mkdir()
    with pytest.raises(DiffaugError, match="Dataset501_Heart: already has this number"):
        write_dataset(tmp_path, task=501, cases=1, shape=SHAPE)


@pytest.mark.parametrize(
    "wrong",
    [{"site": "C"}, {"task": 0}, {"cases": 0}, {"labelled": 3}, {"test": -1}, {"seed": -1}, {"shape": (2, 8, 8)}],
)
def test_senseless_settings_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(DiffaugError, match="expected"):
        write_dataset(tmp_path, **({"task": 501, "cases": 2, "shape": SHAPE} | wrong))
    assert not list(tmp_path.iterdir())
