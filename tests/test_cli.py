"""The command line: for every kind of bad input one line that names the file, exit code 2, and nothing half-written."""

import json
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from blobs import LABELLED, Task, blob, write_image
from diffaug import doctor
from diffaug.cli import main
from diffaug.errors import DiffaugError

FIT = ("fit", "--task", "905", "--budget", "cpu-small", "--device", "cpu")
SAMPLE = ("sample", "--task", "905", "-n", "2", "--steps", "2", "--device", "cpu")
BAD = "blob_bad"


def half_written(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if ".tmp." in path.name]


def error_line(stderr: str) -> str:
    """The one line that is no progress bar; a bar rewrites itself with carriage returns."""
    lines = [line for line in stderr.splitlines() if line.strip() and "it/s" not in line and "|" not in line]
    assert "Traceback" not in stderr
    assert len(lines) == 1, lines
    assert lines[0].startswith("diffaug: ")
    return lines[0]


@pytest.fixture
def refused(capsys):
    def call(*arguments) -> str:
        capsys.readouterr()
        assert main([str(a) for a in arguments]) == 2
        return error_line(capsys.readouterr().err)

    return call


def _bad_image(task: Task) -> Path:
    return task.raw / "imagesUn" / f"{BAD}_0000.nii.gz"


def _truncated(task: Task) -> Path:
    file = write_image(_bad_image(task), blob(1))
    file.write_bytes(file.read_bytes()[:9000])
    return file


def _four_dimensional(task: Task) -> Path:
    voxels = np.random.default_rng(0).random((5, 6, 7, 8), np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(voxels, False), str(_bad_image(task)))
    return _bad_image(task)


def _nan(task: Task) -> Path:
    voxels = blob(1)
    voxels[5, 5, 5] = np.nan
    return write_image(_bad_image(task), voxels)


def _constant(task: Task) -> Path:
    return write_image(_bad_image(task), np.zeros((8, 9, 10), np.float32))


def _second_channel(task: Task) -> Path:
    return write_image(task.raw / "imagesUn" / f"{BAD}_0001.nii.gz", blob(1))


def _dangling(task: Task) -> Path:
    info = json.loads((task.raw / "dataset.json").read_text())
    files = {"good": {"images": ["imagesUn/free_0_0000.nii.gz"]}, BAD: {"images": [f"imagesUn/{BAD}_0000.nii.gz"]}}
    (task.raw / "dataset.json").write_text(json.dumps(info | {"dataset": files}))
    return _bad_image(task)


def _empty_folder(task: Task) -> Path:
    for folder in ("imagesTr", "imagesUn", "labelsTr"):
        shutil.rmtree(task.raw / folder)
    (task.raw / "imagesTr").mkdir()
    return task.raw


def _no_dataset_json(task: Task) -> Path:
    (task.raw / "dataset.json").unlink()
    return task.raw / "dataset.json"


BAD_INPUTS = {
    "truncated": _truncated,
    "4D": _four_dimensional,
    "NaN": _nan,
    "constant": _constant,
    "wrong channel count": _second_channel,
    "missing file": _dangling,
    "empty folder": _empty_folder,
    "no dataset.json": _no_dataset_json,
}


@pytest.mark.parametrize("spoil", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input_is_told_in_one_line_that_names_it(task, refused, spoil):
    file = spoil(task)
    assert str(file) in refused(*FIT, "--exclude", "none")
    made = {path.name for path in task.workspace.run.rglob("*") if path.is_file()}
    assert made <= {".lock"}, "nothing of a fit that has not begun"


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_unset_variable_is_told_in_one_line_that_sets_it(task, refused, monkeypatch, variable):
    monkeypatch.delenv(variable)
    assert f"export {variable}=" in refused(*FIT)


@pytest.mark.parametrize("arguments", [("--task", "906"), ("--task", "Dataset906_None")])
def test_unknown_task_is_told(task, refused, arguments):
    assert "Dataset905_Blobs" in refused("fit", *arguments)


def test_every_verb_tells_a_missing_upstream_in_one_line(task, refused):
    assert "nnUNetPlans.json" in refused("pretrain", "--task", "905", "--images", "real", "--device", "cpu")


def test_debug_raises(task):
    _no_dataset_json(task)
    with pytest.raises(DiffaugError):
        main([*FIT, "--debug"])


def test_fault_of_the_program_is_not_disguised(task, monkeypatch):
    from diffaug.stages import fit

    def fault(*arguments, **keywords):
        raise ZeroDivisionError

    monkeypatch.setattr(fit, "open_dataset", fault)
    with pytest.raises(ZeroDivisionError):
        main([*FIT])


def test_interruption_says_that_the_same_command_goes_on(task, monkeypatch, capsys):
    from diffaug.stages import fit

    def interrupt(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "open_dataset", interrupt)
    assert main([*FIT]) == 130
    assert "goes on" in error_line(capsys.readouterr().err)


@pytest.mark.parametrize("options", [["--budget", "tpu"], ["--field-of-view", "half"], ["--no-such"], []])
def test_bad_options_exit_with_two(capsys, options):
    with pytest.raises(SystemExit) as caught:
        main(["fit", *(["--task", "905"] if options else []), *options])
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, told",
    [
        (["--exclude", "fold:9"], "fold:9"),
        (["--exclude", "nowhere.txt"], "nowhere.txt"),
        (["--more-images", "nowhere"], "nowhere"),
        (["--configuration", "3d_fullres", "--device", "tpu"], "'tpu'"),
    ],
)
def test_option_that_does_not_serve_is_told_in_one_line(task, refused, options, told):
    assert told in refused(*FIT, *options)


@pytest.fixture
def fitted(task) -> Task:
    task.tiny_plan(2)
    assert main([*FIT]) == 0
    return task


def test_truncated_and_foreign_generators_are_told(fitted, refused):
    file = fitted.workspace.generator / "generator.safetensors"
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"something else" * 100):
        file.write_bytes(content)
        assert str(file) in refused(*SAMPLE)
        shutil.rmtree(fitted.workspace.synthetic, ignore_errors=True)


def test_truncated_training_state_is_told(task, refused):
    task.tiny_plan(2)
    state = task.workspace.generator / "autoencoder.state.pt"
    state.write_bytes(b"PK\x03\x04 half")
    assert str(state) in refused(*FIT)


def test_training_state_of_another_plan_is_told(task, refused, monkeypatch):
    from diffaug.generator import fitting

    task.tiny_plan(2)

    def interrupt(*arguments, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "DenoiserObjective", interrupt)
        assert main([*FIT]) == 130
    file = task.workspace.generator / "plan.json"
    plan = json.loads(file.read_text())
    plan["autoencoder_training"]["learning_rate"] = 5e-4
    file.write_text(json.dumps(plan))
    message = refused(*FIT)
    assert str(task.workspace.generator / "autoencoder.state.pt") in message
    assert "delete the file" in message


def test_edited_plan_that_makes_no_sense_is_told(task, refused):
    task.tiny_plan(2, views="many")
    assert str(task.workspace.generator / "plan.json") in refused(*FIT)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of sixteen megabytes."""
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


def test_full_disk_is_told_and_the_same_command_goes_on_afterwards(fitted, refused, small_disk, monkeypatch, capsys):
    shutil.copytree(
        fitted.root / "results",
        small_disk,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("cache", "latents*", "copies_*", "*.png"),
    )
    monkeypatch.setenv("nnUNet_results", str(small_disk))
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file:
        free = os.statvfs(small_disk)
        file.write(bytes(free.f_bavail * free.f_frsize - 40_000))
    message = refused(*SAMPLE)
    assert "disk is full" in message
    assert str(small_disk) in message
    assert not half_written(small_disk)
    ballast.unlink()
    assert main([*SAMPLE]) == 0
    made = list((fitted.workspace.synthetic / "imagesTr").iterdir())
    assert len(made) == 2
    assert all(sitk.ReadImage(str(file)).GetSize() == (22, 24, 20) for file in made)


def test_full_disk_while_fitting_keeps_what_was_there(task, refused, monkeypatch):
    """A checkpoint that cannot be written: torch raises an error of its own for it."""
    if not hasattr(signal, "SIGXFSZ"):
        pytest.skip("needs a limit of file sizes")
    task.tiny_plan(4)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
        message = refused(*FIT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert str(task.workspace.generator) in message
    assert not half_written(task.root)
    assert main([*FIT]) == 0


def test_real_process_tells_a_broken_file_in_one_line(task, diffaug):
    file = _truncated(task)
    done = diffaug(*FIT)
    assert done.returncode == 2
    assert str(file) in error_line(done.stderr)


def test_real_process_tells_an_unset_variable_in_one_line(task, diffaug, monkeypatch):
    monkeypatch.delenv("nnUNet_results")
    done = diffaug(*FIT)
    assert done.returncode == 2
    assert "nnUNet_results" in error_line(done.stderr)
    assert done.stdout == ""


def test_trainer_path_is_a_folder_nnunet_can_import_from(capsys):
    assert main(["trainer-path"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    assert (Path(out.strip()) / "nnunet_trainer_diffaug.py").is_file()


def test_doctor_finds_an_unset_variable_and_still_makes_the_other_checks(task, capsys, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed")
    assert main(["doctor"]) == 2
    captured = capsys.readouterr()
    told = {line.split(":")[0].split()[1]: line.split()[0] for line in captured.out.splitlines()}
    assert told["nnUNet_preprocessed"] == "FIX"
    assert told["nnUNet_raw"] == "ok"
    assert told["device"] == "ok"
    assert error_line(captured.err)


def test_doctor_finds_a_trainer_that_nnunet_would_not_find(task, capsys, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(task.root))
    assert main(["doctor"]) == 2
    assert "diffaug trainer-path" in capsys.readouterr().out


def test_doctor_finds_a_container_with_too_little_shared_memory(task, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "SHARED_ROOM", 1e9)
    assert main(["doctor"]) == 2
    assert "--ipc=host" in capsys.readouterr().out


def test_doctor_looks_at_a_tasks_scans_and_plans(task, capsys, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", "")
    assert main(["doctor", "--task", "905"]) == 2
    out = capsys.readouterr().out
    assert f"ok    dataset: {task.dataset}: 8 scans (MR), 6 of them labelled" in out
    assert "FIX   plans: " in out
    assert "nnUNetv2_plan_and_preprocess -d 905" in out
    assert main(["plan", "--task", "905", "--budget", "cpu-small"]) == 0
    assert main(["doctor", "--task", "905", "--configuration", "3d_cpu_small"]) == 2
    assert "ok    plans: 3d_cpu_small: PlainConvUNet of 0." in capsys.readouterr().out


def test_doctor_says_which_folds_nnunet_cannot_make(task, capsys):
    assert main(["doctor", "--task", "905"]) == 2
    assert "ok    folds: 2 validation cases in fold 0" in capsys.readouterr().out
    for case in LABELLED[:2]:
        (task.raw / "labelsTr" / f"{case}.nii.gz").unlink()
    assert main(["doctor", "--task", "905"]) == 2
    assert "fewer than 5 labelled cases, here are 4; train all of them: nnUNetv2_train" in capsys.readouterr().out


def test_doctor_names_a_scan_without_its_channel(task, capsys):
    task.image("blob_0").rename(task.image("blob_0").with_name("blob_0_0001.nii.gz"))
    assert main(["doctor", "--task", "905"]) == 2
    assert "FIX   dataset: " in capsys.readouterr().out


def _volumes(folder: Path, count: int, channels: int = 1) -> Path:
    for seed in range(count):
        for channel in range(channels):
            write_image(folder / f"v{seed:02d}_{channel:04d}.nii.gz", blob(seed))
    return folder


def _broken(folder: Path) -> Path:
    file = _volumes(folder, 3) / "v01_0000.nii.gz"
    file.write_bytes(file.read_bytes()[:9000])
    return folder


def _deep(folder: Path) -> Path:
    voxels = np.random.default_rng(0).random((5, 6, 7, 8), np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(voxels, False), str(_volumes(folder, 3) / "v01_0000.nii.gz"))
    return folder


def _bare(folder: Path) -> Path:
    folder.mkdir()
    return folder


BAD_FOLDERS = {
    "missing": lambda folder: folder,
    "empty": _bare,
    "one case": lambda folder: _volumes(folder, 1),
    "other channels": lambda folder: _volumes(folder, 3, 2),
    "truncated": _broken,
    "4D": _deep,
}


@pytest.mark.parametrize("spoil", BAD_FOLDERS.values(), ids=BAD_FOLDERS)
@pytest.mark.parametrize("option", ["--real", "--synthetic", "--unseen"])
def test_audit_of_folders_tells_bad_ones_in_one_line(tmp_path, refused, spoil, option):
    folders = {name: _volumes(tmp_path / name.strip("-"), 6) for name in ("--real", "--synthetic")}
    folders |= {"--unseen": tmp_path / "unseen"}
    for seed in range(5):
        write_image(folders["--unseen"] / f"u{seed}_0000.nii.gz", blob(50 + seed))
    folders[option] = spoil(tmp_path / "bad")
    given = [word for pair in folders.items() for word in pair]
    told = refused("audit", *given, "--out", tmp_path / "out", "--device", "cpu")
    # with other channels in --real it is the others that do not fit
    assert (
        "channels" in told
        if (option, spoil) == ("--real", BAD_FOLDERS["other channels"])
        else str(tmp_path / "bad") in told
    )
    assert not list((tmp_path / "out").rglob("report.html"))
    assert not half_written(tmp_path)


def test_audit_of_few_scans_says_how_many_it_needs(tmp_path, refused):
    real = _volumes(tmp_path / "real", 6)
    assert "at least 10" in refused("audit", "--real", real, "--synthetic", real, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--real", "x"],
        ["--synthetic", "x"],
        ["--task", "905", "--real", "x", "--synthetic", "y"],
        ["--task", "905", "--out", "x"],
        [],
    ],
)
def test_audit_takes_a_task_or_two_folders(refused, options):
    assert "--task" in refused("audit", *options)


@pytest.mark.parametrize("option", ["--weights", "--nnunet-model"])
def test_audit_looks_for_what_it_is_given_before_anything_long(tmp_path, refused, option):
    real = _volumes(tmp_path / "real", 10)
    given = ["--real", real, "--synthetic", real, "--out", tmp_path / "out"]
    assert str(tmp_path / "nothing") in refused("audit", *given, option, tmp_path / "nothing")
    assert not (tmp_path / "out").exists()


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    assert all(
        verb in told for verb in ("fit", "sample", "audit", "pretrain", "plan", "doctor", "demo", "trainer-path")
    )


@pytest.mark.parametrize(
    "verb",
    [
        *("fit", "sample", "audit", "pretrain", "plan", "export", "import", "share-model"),
        *("phantom", "trainer-path", "doctor", "demo"),
    ],
)
def test_every_verb_has_help(capsys, verb):
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    assert "--debug" in capsys.readouterr().out


def test_command_prints_where_its_result_is(fitted, capsys):
    capsys.readouterr()
    assert main([*SAMPLE]) == 0
    assert str(fitted.workspace.synthetic) in capsys.readouterr().out.splitlines()[-1]
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_are_told_how_to_complete(shell, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--print-completion", shell])
    told = capsys.readouterr().out
    assert all(word in told for word in ("pretrain", "--exclude", "reader-study", "import-dicom"))
    assert shutil.which(shell) is None or subprocess.run([shell, "-n"], input=told, text=True).returncode == 0
