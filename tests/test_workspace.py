"""Files reach the disk whole or not at all, one process works in a folder, and names lead to the right dataset."""

import errno
import json
import multiprocessing
import os
import resource
import subprocess
import sys

import pytest

from diffaug.errors import DiffaugError
from diffaug.files import atomic_path, discard, fingerprint, locked, read_json, write_json
from diffaug.workspace import Workspace, dataset_name, nnunet_folder


def contents(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"old": True})
    with pytest.raises(ZeroDivisionError), atomic_path(file) as temporary:
        temporary.write_text('{"half')
        raise ZeroDivisionError
    assert read_json(file, "") == {"old": True}
    assert contents(tmp_path) == {"a.json"}


def test_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, 1)
    with pytest.raises(KeyboardInterrupt), atomic_path(file) as temporary:
        temporary.write_text("2")
        raise KeyboardInterrupt
    assert read_json(file, "") == 1
    assert contents(tmp_path) == {"a.json"}


def test_the_new_file_appears_only_once_it_is_whole(tmp_path):
    file = tmp_path / "made" / "a.nii.gz"
    with atomic_path(file) as temporary:
        assert temporary.name.endswith("a.nii.gz"), "libraries choose the format by the suffixes"
        assert temporary.parent == file.parent, "only a rename within one file system is atomic"
        temporary.write_bytes(b"whole")
        assert not file.exists()
    assert file.read_bytes() == b"whole"
    assert contents(file.parent) == {"a.nii.gz"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_told_in_one_line(tmp_path, refusal, number):
    file = tmp_path / "a.json"

    def write():
        with atomic_path(file) as temporary:
            temporary.write_text("half")
            raise OSError(number, os.strerror(number))

    message = refusal(write)
    assert str(file) in message
    assert "disk is full" in message
    assert contents(tmp_path) == set()


def test_truly_full_file_system_is_told_in_one_line_whatever_the_library_raises(tmp_path):
    """A one megabyte tmpfs; torch turns the failed write into a RuntimeError."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    import torch

    try:
        file = mount / "a.pt"
        file.write_bytes(b"old")
        with pytest.raises(DiffaugError, match="disk is full"), atomic_path(file) as temporary:
            torch.save(torch.zeros(1 << 20), temporary)
        assert file.read_bytes() == b"old"
        assert contents(mount) == {"a.pt"}
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def _write_more_than_allowed(file) -> None:
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        write_json(file, "x" * 5000)
    except DiffaugError as error:
        os._exit(7 if str(file) in str(error) and "\n" not in str(error) else 8)
    os._exit(9)


def test_write_beyond_the_allowed_file_size_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, "old")
    process = multiprocessing.get_context("fork").Process(target=_write_more_than_allowed, args=(file,))
    process.start()
    process.join(60)
    assert process.exitcode == 7
    assert read_json(file, "") == "old"
    assert contents(tmp_path) == {"a.json"}


def _hold(folder, ready, leave) -> None:
    with locked(folder):
        ready.set()
        leave.wait(60)


def test_lock_keeps_a_second_process_out_and_goes_with_its_process(tmp_path, refusal):
    context = multiprocessing.get_context("fork")
    ready, leave = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "stage", ready, leave))
    process.start()
    assert ready.wait(60)

    def enter():
        with locked(tmp_path / "stage"):
            pass

    try:
        message = refusal(enter)
        assert str(tmp_path / "stage") in message
        assert "another diffaug process" in message
    finally:
        process.kill()
        process.join()
    enter()


def test_what_a_killed_process_left_half_written_goes_with_the_next_lock(tmp_path):
    half = tmp_path / "imagesTr" / ".4711.tmp.synthetic_00000_0000.nii.gz"
    half.parent.mkdir()
    half.write_bytes(b"half")
    with locked(tmp_path):
        pass
    assert not half.exists(), "nnU-Net would take it for a case"


def test_error_within_a_locked_folder_is_not_blamed_on_the_folder(tmp_path):
    with pytest.raises(PermissionError), locked(tmp_path):
        raise PermissionError(errno.EACCES, "an input that may not be read")


def test_results_folder_that_is_a_file_is_told_in_one_line(tmp_path, refusal):
    (tmp_path / "results").write_text("")

    def enter():
        with locked(tmp_path / "results" / "stage"):
            pass

    assert str(tmp_path / "results") in refusal(enter)


def test_discard_empties_a_folder_but_for_its_lock(tmp_path):
    with locked(tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "b").write_text("")
        (tmp_path / "c").write_text("")
        discard(tmp_path)
        assert contents(tmp_path) == {".lock"}


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
@pytest.mark.parametrize("value", [None, ""])
def test_unset_variable_is_named_with_the_command_that_sets_it(monkeypatch, refusal, variable, value):
    monkeypatch.delenv(variable, raising=False)
    if value is not None:
        monkeypatch.setenv(variable, value)
    assert f"export {variable}=" in refusal(nnunet_folder, variable)


def test_missing_raw_folder_is_told(tmp_path, monkeypatch, refusal):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in refusal(nnunet_folder, "nnUNet_raw")


@pytest.mark.parametrize("given", ["7", 7, "007", "Dataset007_Lung"])
def test_number_and_name_lead_to_the_same_dataset(folders, given):
    (folders / "raw" / "Dataset007_Lung").mkdir()
    (folders / "raw" / "Dataset070_Other").mkdir()
    assert dataset_name(given) == "Dataset007_Lung"


def test_number_that_two_datasets_have_is_refused_with_both_names(folders, refusal):
    for name in ("Dataset007_Lung", "Dataset007_Liver"):
        (folders / "raw" / name).mkdir()
    message = refusal(dataset_name, 7)
    assert "Dataset007_Lung" in message
    assert "Dataset007_Liver" in message
    assert dataset_name("Dataset007_Liver") == "Dataset007_Liver"


@pytest.mark.parametrize("given", ["8", "Dataset008_Lung", "lung", "-7", "7.0", ""])
def test_unknown_dataset_is_refused_with_the_known_ones(folders, refusal, given):
    (folders / "raw" / "Dataset007_Lung").mkdir()
    assert "Dataset007_Lung" in refusal(dataset_name, given)


def test_run_folder_is_named_after_plans_and_configuration(folders):
    workspace = Workspace("Dataset007_Lung", "somePlans", "3d_lowres")
    assert workspace.run == folders / "results" / "Dataset007_Lung" / "diffaug__somePlans__3d_lowres"
    rooms = (workspace.generator, workspace.synthetic, workspace.audit, workspace.encoder)
    assert [room.name for room in rooms] == ["generator", "synthetic", "audit", "encoder"]
    assert {room.parent for room in rooms} == {workspace.run}
    assert not list((folders / "results").iterdir()), "asking for a path makes no folder"


@pytest.mark.parametrize("text", ["{", "", "\x00\xff"])
def test_broken_json_is_told_with_the_mend(tmp_path, refusal, text):
    file = tmp_path / "a.json"
    file.write_bytes(text.encode("latin-1"))
    message = refusal(read_json, file, "do this")
    assert str(file) in message
    assert "do this" in message


def test_json_survives_the_round_trip_and_ends_in_a_newline(tmp_path):
    content = {"a": [1, 2.5, None], "b": {"c": "d"}}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json", "") == content
    assert (tmp_path / "a.json").read_text().endswith("\n")


def test_fingerprint_knows_contents_and_not_their_order():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint(json.loads(json.dumps([1, (2, 3)]))) == fingerprint([1, (2, 3)])
