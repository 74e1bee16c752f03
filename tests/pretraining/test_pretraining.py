"""Pretraining end to end: what is read, what never is, and what the downstream network gets."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from planned import blob_plans

from blobs import LABELLED, SPACING, UNLABELLED, Task, blob, write_image
from diffaug import stages
from diffaug.budgets import BUDGETS, Training
from diffaug.nnunet.networks import build_network
from diffaug.nnunet.weights.format import read_encoder
from diffaug.nnunet.weights.transfer import load_encoder
from diffaug.pretraining import fitting
from diffaug.pretraining.pretexts import PRETEXTS, Shown
from diffaug.pretraining.pretexts.denoise import Denoise
from diffaug.pretraining.sources import folder_source, require_channels
from diffaug.pretraining.teacher import CLUSTERS, FEATURES
from diffaug.scans.cache import VolumeCache
from diffaug.scans.exclusion import excluded_ids
from diffaug.stages import stage
from diffaug.stages.pipeline import pretrain, sample
from diffaug.stages.requests import PretrainRequest, SampleRequest
from diffaug.training.log import read_log
from diffaug.workspace import Workspace

PATCH = [16, 16, 16]
REAL = PretrainRequest(images=("real",), budget="cpu-small")
STEPS = 20


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    few = Training(steps=STEPS, batch_size=2, learning_rate=1e-3, warmup_steps=2)
    monkeypatch.setitem(BUDGETS, "cpu-small", replace(BUDGETS["cpu-small"], pretraining=few))


@pytest.fixture
def planned(task) -> Task:
    task.preprocessed.mkdir()
    (task.preprocessed / "nnUNetPlans.json").write_text(json.dumps(blob_plans()))
    return task


def run(task, request=REAL, **options) -> Path:
    return pretrain(task.workspace, request, device="cpu", **options)


def manifest(task) -> dict:
    return json.loads((task.workspace.encoder / "manifest.json").read_text())


def weights(file: Path) -> dict:
    return torch.load(file, weights_only=True)["network_weights"]


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def cached(task) -> dict[str, np.ndarray]:
    (folder,) = (task.workspace.encoder / "cache").iterdir()
    return {file.stem: VolumeCache(folder)[file.stem] for file in folder.glob("*.npy")}


def test_real_scans_but_for_the_excluded_ones_make_an_encoder_that_loads(planned):
    file = run(planned)
    seen = {*LABELLED, *UNLABELLED} - excluded_ids(planned.workspace, ["fold:0"])
    encoder = read_encoder(file)
    assert set(encoder.provenance["case_ids"]) == seen == set(cached(planned))
    assert encoder.provenance["steps"] == STEPS
    told = manifest(planned)
    assert told["finished"]
    assert set(told["inputs"]["real"]) == seen
    assert not list(planned.workspace.encoder.glob("*.state.pt"))
    assert {"pretext.png", "pretext_curves.png"} <= {path.name for path in planned.workspace.encoder.iterdir()}
    configuration = PlansManager(blob_plans()).get_configuration("3d_fullres").configuration
    network = get_network_from_plans(*configuration["architecture"].values(), 1, 2, deep_supervision=True)
    report = load_encoder(network, encoder, configuration=configuration)
    assert report.left_random
    assert all(part.startswith("decoder.seg_layers") for part in report.left_random)
    stem = next(name for name in weights(file) if name.endswith("weight"))
    assert torch.equal(network.state_dict()[stem], weights(file)[stem])


def test_excluded_scans_are_never_opened(planned):
    for case in excluded_ids(planned.workspace, ["fold:0"]):
        planned.image(case).write_text("not an image")
    run(planned)


def test_training_moves_the_weights_and_lowers_the_loss(planned, monkeypatch):
    small = BUDGETS["cpu-small"]
    longer = replace(small.pretraining, steps=150, learning_rate=5e-3)
    monkeypatch.setitem(BUDGETS, "cpu-small", replace(small, pretraining=longer))
    run(planned)
    losses = [line["held_out"] for line in read_log(planned.workspace.encoder / "log.jsonl") if "held_out" in line]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("scheme", ["ZScoreNormalization", "CTNormalization"])
def test_scans_are_preprocessed_exactly_as_nnunet_does(planned, scheme):
    content = blob_plans()
    content["configurations"]["3d_fullres"]["normalization_schemes"] = [scheme]
    numbers = {"mean": 200.0, "std": 150.0, "percentile_00_5": 5.0, "percentile_99_5": 600.0}
    content["foreground_intensity_properties_per_channel"]["0"] = numbers
    (planned.preprocessed / "nnUNetPlans.json").write_text(json.dumps(content))
    voxels = blob(0)
    voxels[:3] = voxels[:, -2:] = 0  # to be cropped
    write_image(planned.image("free_0"), voxels)
    run(planned)
    manager = PlansManager(content)
    configuration = manager.get_configuration("3d_fullres")
    info = json.loads((planned.raw / "dataset.json").read_text())
    ours = cached(planned)
    for case in ("free_0", "free_1"):
        stock, *_ = configuration.preprocessor_class(verbose=False).run_case(
            [str(planned.image(case))], None, manager, configuration, info
        )
        np.testing.assert_array_equal(ours[case], stock.astype(np.float16))
    assert ours["free_0"].shape[-1] < ours["free_1"].shape[-1], "cropped, and transposed as the plans say"


@pytest.mark.parametrize(
    "scheme, scale", [("NoNormalization", 1e4), ("RescaleTo01Normalization", 1.0), ("ZScoreNormalization", 1e9)]
)
def test_whatever_units_nnunet_leaves_the_pretext_sees_mean_0_and_variance_1(planned, scheme, scale):
    content = blob_plans()
    content["configurations"]["3d_fullres"]["normalization_schemes"] = [scheme]
    (planned.preprocessed / "nnUNetPlans.json").write_text(json.dumps(content))
    for case in (*LABELLED, *UNLABELLED):
        write_image(planned.image(case), blob(3) * scale)
    run(planned)
    for volume in cached(planned).values():
        assert abs(volume.astype(float).mean()) < 0.01
        assert volume.astype(float).std() == pytest.approx(1, abs=0.01)


def test_held_out_volumes_are_shown_a_few_at_a_time_and_all_count():
    """Together, and in single precision, they would need more of a GPU's memory than a step of the training."""
    shown = []

    class Looking(Denoise):
        def solve(self, network, clean):
            shown.append(len(clean))
            return Shown(clean.mean(), clean, clean, clean)

    volumes = {f"v{i}": np.full((1, 20, 20, 20), float(i), np.float32) for i in range(50)}
    objective = fitting.PretextObjective(
        torch.nn.Conv3d(1, 1, 1), Looking(), [(volumes, case) for case in volumes], PATCH, (1, 1, 1), seed=0
    )
    held_out = objective.held_out
    assert len(held_out) == 5
    assert objective.validate(None)["held_out"] == pytest.approx(float(held_out.mean()))
    assert shown == [2, 2, 1]
    assert torch.equal(objective.shown.truth, held_out)


def test_a_plain_folder_serves_as_well(planned, tmp_path):
    for i in range(3):
        write_image(tmp_path / "mine" / f"mine_{i}.nii.gz", blob(40 + i))
    file = run(planned, replace(REAL, images=(str(tmp_path / "mine"),)))
    assert read_encoder(file).provenance["case_ids"] == ["mine_0", "mine_1", "mine_2"]


def test_excluded_ids_are_left_out_of_a_folder_too(planned, tmp_path):
    excluded = min(excluded_ids(planned.workspace, ["fold:0"]))
    shutil.copytree(planned.raw / "imagesTr", tmp_path / "copy")
    file = run(planned, replace(REAL, images=(str(tmp_path / "copy"),)))
    assert excluded not in read_encoder(file).provenance["case_ids"]


@pytest.mark.parametrize("content", [{"x": 1}, [], {"stage": "sample", "finished": False, "seen": []}])
def test_a_folder_with_another_manifest_is_refused(planned, tmp_path, refusal, content):
    folder = tmp_path / "foreign"
    write_image(folder / "one_0000.nii.gz", blob(1))
    (folder / "manifest.json").write_text(json.dumps(content))
    assert "no manifest of finished volumes" in refusal(run, planned, replace(REAL, images=(str(folder),)))


def test_more_images_are_read_too(planned, tmp_path):
    write_image(tmp_path / "more" / "more_0.nii.gz", blob(40))
    file = run(planned, replace(REAL, more_images=(str(tmp_path / "more"),)))
    assert "more_0" in read_encoder(file).provenance["case_ids"]


@pytest.fixture
def sampled(planned) -> Task:
    planned.tiny_plan(2)
    sample(planned.workspace, SampleRequest(3, steps=8), device="cpu")
    return planned


def test_synthetic_volumes_carry_the_ids_their_generator_has_seen(sampled):
    file = run(sampled, replace(REAL, images=("synthetic",)))
    provenance = read_encoder(file).provenance
    assert set(provenance["case_ids"]) == {*LABELLED, *UNLABELLED} - excluded_ids(sampled.workspace, ["fold:0"])
    assert provenance["volumes"] == 3


def test_synthetic_folder_given_by_its_path_carries_them_too(sampled, tmp_path):
    shutil.copytree(sampled.workspace.synthetic, tmp_path / "copy")
    file = run(sampled, replace(REAL, images=(str(tmp_path / "copy"),)))
    assert set(UNLABELLED) <= set(read_encoder(file).provenance["case_ids"])


def test_two_synthetic_sets_stay_two(sampled, tmp_path):
    shutil.copytree(sampled.workspace.synthetic, tmp_path / "copy")
    sample(sampled.workspace, SampleRequest(3, seed=1, steps=8), device="cpu", fresh=True)
    file = run(sampled, replace(REAL, images=("synthetic", str(tmp_path / "copy"), "synthetic")))
    assert read_encoder(file).provenance["volumes"] == 3 + 3
    folders = [folder for folder in (sampled.workspace.encoder / "cache").iterdir() if folder.is_dir()]
    first, second = ({f.name: f.read_bytes() for f in folder.glob("*.npy")} for folder in folders)
    assert first.keys() == second.keys()
    assert first != second


@pytest.mark.parametrize(
    "change",
    [{"images": ()}, {"pretext_steps": 0}, {"images": ("both",)}],
    ids=["nothing", "no step", "no such folder"],
)
def test_impossible_requests_end_in_one_line(planned, refusal, change):
    assert refusal(run, planned, replace(REAL, **change))


def test_both_read_both(sampled):
    file = run(sampled, replace(REAL, images=("synthetic", "real")))
    assert read_encoder(file).provenance["volumes"] == 3 + 6


def test_the_generator_teaches_its_own_volumes(sampled):
    file = run(sampled, replace(REAL, images=("synthetic",), pretext="clusters", pretext_steps=3))
    assert read_encoder(file).provenance["pretext"] == "clusters"
    volume = next(iter(cached(sampled).values())).astype(np.float32)
    assert len(volume) == 1 + FEATURES + CLUSTERS
    members = volume[1 + FEATURES :].sum(0)
    assert np.abs(members - 1).max() < 0.3, "resampled, but of one cluster each"
    assert volume[1 : 1 + FEATURES].std() == pytest.approx(1, abs=0.5)


def test_scans_have_no_teacher(planned, refusal):
    assert "--images synthetic" in refusal(run, planned, replace(REAL, pretext="clusters"))


def test_generator_that_has_seen_a_forbidden_case_is_refused(sampled, refusal):
    seen = UNLABELLED[0]
    ids = sampled.root / "ids.txt"
    ids.write_text(seen)
    assert seen in refusal(run, sampled, replace(REAL, images=("synthetic",), exclude=(str(ids),)))


def test_missing_upstream_is_built_first(planned):
    planned.tiny_plan(2)
    run(planned, replace(REAL, images=("synthetic",)), upstream=(None, SampleRequest(2, steps=2)))
    assert len(list((planned.workspace.synthetic / "imagesTr").iterdir())) == 2


def test_resampled_synthetic_volumes_are_not_taken_for_the_old_ones(sampled, refusal):
    """Stopped, sampled anew with another seed: the old volumes' cache and state do not go on."""
    request = replace(REAL, images=("synthetic",))
    stop_at(sampled, 3, request)
    old = {case: voxels.copy() for case, voxels in cached(sampled).items()}
    sample(sampled.workspace, SampleRequest(3, seed=1, steps=8), device="cpu", fresh=True)
    assert "--fresh" in refusal(run, sampled, request)
    run(sampled, request, fresh=True)
    new = cached(sampled)
    assert new.keys() == old.keys()
    assert not any(np.array_equal(new[case], old[case]) for case in new)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scheme", ["ZScoreNormalization", "NoNormalization"])
def test_patch_windows_are_normalised_by_the_whole_scan(planned, masked, scheme):
    """A window of air must not come out as loud noise."""
    from diffaug.pretraining.preprocessing import preprocess
    from diffaug.pretraining.sources import ScanStatistics, Source
    from diffaug.scans.dataset import open_dataset

    voxels = blob(0)
    voxels[:4] = 0  # cropped away by nnU-Net before it normalises
    voxels[4:8, :3] = 0  # which stays, as background
    write_image(planned.image("free_0"), voxels)
    dataset = open_dataset(planned.raw, exclude=[*LABELLED, "free_1"])
    manager = PlansManager(blob_plans())
    configuration = manager.get_configuration("3d_fullres")
    configuration.configuration |= {"spacing": list(SPACING[::-1]), "use_mask_for_norm": [masked]}
    configuration.configuration |= {"normalization_schemes": [scheme]}
    info = json.loads((planned.raw / "dataset.json").read_text())
    source = Source("synthetic", dataset, (), ScanStatistics(([300.0], [80.0]), ([320.0], [60.0])))
    cache, _ = preprocess(source, manager, configuration, info, planned.root / "cache")
    mean, std = (320, 60) if masked else (300, 80)
    expected = (voxels[4:] - mean) / std
    if masked:
        expected[:4, :3] = 0
    expected = expected.transpose(2, 1, 0)
    np.testing.assert_allclose(cache["free_0"][0], expected, atol=5e-3)


def test_plans_made_anew_are_named_and_settings_of_the_training_do_not_matter(planned, refusal):
    """What labelled cases join changes CT's normalisation: half of the steps would see other images than the rest."""
    file = planned.preprocessed / "nnUNetPlans.json"
    content = json.loads(file.read_text())
    configuration = content["configurations"]["3d_fullres"]
    intensities = {"mean": 300.0, "std": 150.0, "percentile_00_5": 0.0, "percentile_99_5": 900.0}
    content["foreground_intensity_properties_per_channel"] = {"0": intensities}
    configuration["normalization_schemes"] = ["CTNormalization"]
    file.write_text(json.dumps(content))
    stop_at(planned, 3)
    configuration["diffaug"] = {"epochs": 3, "allow_leakage": True}
    for changed in ({"mean": 900.0}, {"std": 40.0}):
        other = {**content, "foreground_intensity_properties_per_channel": {"0": intensities | changed}}
        file.write_text(json.dumps(other))
        assert "foreground_intensity_properties of the preprocessing was" in refusal(run, planned)
    file.write_text(json.dumps(content | {"transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2]}))
    assert "transpose_forward of the preprocessing was" in refusal(run, planned)
    file.write_text(json.dumps(content))
    assert run(planned).is_file(), "goes on"
    configuration["normalization_schemes"] = ["ZScoreNormalization"]
    file.write_text(json.dumps(content))
    assert "normalization_schemes of the preprocessing was" in refusal(run, planned), "once it is finished, too"


def stop_at(task, step: int, request=REAL) -> None:
    with pytest.MonkeyPatch.context() as patch:
        example, drawn = fitting.PretextObjective.example, []

        def stops(self, generator):
            drawn.append(1)
            if len(drawn) > 2 * step:
                raise KeyboardInterrupt
            return example(self, generator)

        patch.setattr(fitting.PretextObjective, "example", stops)
        with pytest.raises(KeyboardInterrupt):
            run(task, request)


@pytest.mark.parametrize("pretext", ["denoise", "mae", "anatomy"])
def test_resumed_run_equals_unbroken_run(planned, tmp_path, pretext):
    request = replace(REAL, pretext=pretext)
    unbroken = shutil.copy(run(planned, request), tmp_path / "unbroken.pt")
    shutil.rmtree(planned.workspace.encoder)
    stop_at(planned, 7, request)
    assert not (planned.workspace.encoder / "encoder.pt").exists()
    resumed = run(planned, request)
    assert_same_weights(resumed, unbroken)
    one, other = (read_encoder(Path(file)).styles for file in (resumed, unbroken))
    assert (one is None) == (pretext != "anatomy")
    if one is not None:
        assert torch.equal(one["codes"], other["codes"])
        assert all(torch.equal(one["painter"][name], other["painter"][name]) for name in one["painter"])


def test_stopped_while_finishing_it_does_not_train_again(planned, tmp_path, monkeypatch):
    unbroken = shutil.copy(run(planned), tmp_path / "unbroken.pt")
    for module, call in ((fitting, "save_encoder"), (fitting, "curves"), (stage, "write_json")):
        shutil.rmtree(planned.workspace.encoder)
        finish, real = stages.pretrain._finish, getattr(module, call)
        armed = []

        def stop(*arguments, real=real, armed=armed, **keywords):
            if armed:
                raise KeyboardInterrupt
            return real(*arguments, **keywords)

        def arm(*arguments, finish=finish, armed=armed):
            armed.append(True)
            return finish(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(module, call, stop)
            patch.setattr(stages.pretrain, "_finish", arm)
            with pytest.raises(KeyboardInterrupt):
                run(planned)
        logged = (planned.workspace.encoder / "log.jsonl").read_text()
        assert_same_weights(run(planned), unbroken)
        assert (planned.workspace.encoder / "log.jsonl").read_text() == logged, call
        assert manifest(planned)["finished"]


def test_a_finished_encoder_is_not_made_again(planned):
    file = run(planned)
    before = file.stat().st_mtime_ns
    assert run(planned) == file
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize("change", [{"pretext": "mae"}, {"seed": 1}, {"exclude": ("none",)}, {"budget": "gpu-24g"}])
def test_changed_options_are_refused(planned, refusal, change):
    file = run(planned)
    before = file.read_bytes()
    message = refusal(run, planned, replace(REAL, **change))
    assert next(iter(change)) in message
    assert file.read_bytes() == before


@pytest.mark.parametrize("change", [{"pretext": "jigsaw"}, {"budget": "tpu"}])
def test_unknown_options_are_refused(planned, refusal, change):
    assert next(iter(change.values())) in refusal(run, planned, replace(REAL, **change))


def test_missing_plans_are_told_with_the_command(task, refusal):
    message = refusal(run, task)
    assert "nnUNetPlans.json" in message
    assert "nnUNetv2_plan_and_preprocess -d 905" in message


def test_plans_that_nnunet_would_call_by_another_name_are_refused(planned, refusal):
    (planned.preprocessed / "custom.json").write_text(json.dumps(blob_plans()))
    told = refusal(pretrain, Workspace(planned.dataset, plans="custom"), REAL, device="cpu")
    assert "plans_name" in told
    assert "custom" in told


def test_second_stage_of_a_cascade_is_refused(planned, refusal):
    content = blob_plans()
    content["configurations"]["cascade"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    (planned.preprocessed / "nnUNetPlans.json").write_text(json.dumps(content))
    told = refusal(pretrain, Workspace(planned.dataset, configuration="cascade"), REAL, device="cpu")
    assert "second stage" in told


def test_channels_in_another_order_are_refused(tmp_path, planned, refusal):
    for channel in (0, 1):
        write_image(tmp_path / "two" / "imagesTr" / f"a_000{channel}.nii.gz", blob(channel))
    info = json.loads((planned.raw / "dataset.json").read_text()) | {"channel_names": {"0": "T2", "1": "T1"}}
    (tmp_path / "two" / "dataset.json").write_text(json.dumps(info))
    source = folder_source(planned.workspace, tmp_path / "two", set())
    assert "found the channels T2, T1, expected t1, t2 in this order" in refusal(require_channels, source, ["t1", "t2"])
    for fine in (["t2", "t1"], ["FLAIR", "DWI"]):
        require_channels(source, fine)


def test_folder_of_other_channels_is_refused(planned, tmp_path, refusal):
    for channel in (0, 1):
        write_image(tmp_path / "two" / "imagesTr" / f"a_000{channel}.nii.gz", blob(channel))
    info = json.loads((planned.raw / "dataset.json").read_text()) | {"channel_names": {"0": "a", "1": "b"}}
    (tmp_path / "two" / "dataset.json").write_text(json.dumps(info))
    message = refusal(run, planned, replace(REAL, images=(str(tmp_path / "two"),)))
    assert "2 channels" in message
    assert str(tmp_path / "two") in message


def test_example_is_a_pure_function_of_its_generator_and_stays_in_range(planned):
    run(planned)
    (folder,) = (planned.workspace.encoder / "cache").iterdir()
    cases = sorted(file.stem for file in folder.glob("*.npy"))
    network = build_network(PlansManager(blob_plans()).get_configuration("3d_fullres"), 1, 1)
    volumes = [(VolumeCache(folder), case) for case in cases]
    objective = fitting.PretextObjective(network, PRETEXTS["mae"], volumes, PATCH, [1.5, 1.5, 1.7], 0)
    one, same, other = (objective.example(np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one.shape == (1, *PATCH)
    assert one.dtype == torch.float32
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    highest = max(float(VolumeCache(folder)[case].max()) for case in cases)
    assert all(float(objective.example(np.random.default_rng(s)).max()) <= highest + 0.5 for s in range(20))


KILLED = """
import sys, torch
torch.set_num_threads(1)
from dataclasses import replace
from diffaug.budgets import BUDGETS, Training
few = Training(steps=%d, batch_size=2, learning_rate=1e-3, warmup_steps=2)
BUDGETS["cpu-small"] = replace(BUDGETS["cpu-small"], pretraining=few)
from diffaug.cli import main
sys.exit(main("pretrain --task 905 --images real --budget cpu-small --device cpu".split()))
"""


@pytest.mark.slow
def test_killed_run_equals_unbroken_run(planned, tmp_path, kill_when):
    unbroken = shutil.copy(run(planned), tmp_path / "unbroken.pt")
    shutil.rmtree(planned.workspace.encoder)
    log = planned.workspace.encoder / "log.jsonl"
    kill_when([sys.executable, "-c", KILLED % STEPS], lambda: log.exists() and log.read_text().count("\n") >= 4)
    assert not (planned.workspace.encoder / "encoder.pt").exists()
    assert_same_weights(run(planned), unbroken)


def test_a_network_that_is_no_unet_is_refused_by_name(planned, refusal):
    told = blob_plans()
    told["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = (
        "dynamic_network_architectures.architectures.primus.Primus"
    )
    (planned.preprocessed / "nnUNetPlans.json").write_text(json.dumps(told))
    message = refusal(run, planned)
    assert "primus.Primus" in message
    assert "expected PlainConvUNet or ResidualEncoderUNet" in message


@pytest.mark.slow
def test_two_processes_walk_the_road_together_and_once_more(planned):
    """Generator, volumes and encoder in one call under torchrun; then the encoder anew, while nobody takes the old one."""
    planned.tiny_plan()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "diffaug"]
    verb = ["pretrain", "--task", "905", "-n", "3", "--budget", "cpu-small", "--pretext-steps", "4", "--fresh"]
    made = []
    for _ in range(2):
        done = subprocess.run(
            [*command, *verb], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        file = planned.workspace.encoder / "encoder.pt"
        assert read_encoder(file).provenance["steps"] == 4
        made.append((file.stat().st_mtime_ns, weights(file)))
    assert made[0][0] < made[1][0]
    for key, tensor in made[0][1].items():
        torch.testing.assert_close(made[1][1][key], tensor, atol=1e-5, rtol=1e-4)
