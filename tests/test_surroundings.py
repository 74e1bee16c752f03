"""Machines as they are: users without a name, file systems without locks, variables in quotes (docs/odd-inputs.md)."""

import errno
import json
import subprocess
import sys

import filelock
import pytest

from diffaug.cli import main
from diffaug.errors import Notice
from diffaug.files import LOCK, locked

NAMELESS = """
import os, pwd
for name in ("USER", "LOGNAME", "HOME", "LNAME", "USERNAME"):
    os.environ.pop(name, None)
def unknown(*_):
    raise KeyError("getpwuid(): uid not found: 12345")
pwd.getpwuid = unknown
from diffaug.cli import main
import monai.networks.nets, torch._inductor
main(["doctor"])
"""


def test_a_user_whom_the_machine_does_not_know_can_work(task):
    made = subprocess.run([sys.executable, "-c", NAMELESS], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert "ok    packages" in made.stdout


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO, errno.ENOSYS])
def test_a_file_system_without_locks_is_worked_on_with_a_warning(tmp_path, monkeypatch, number):
    def fail(*_, **__):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(filelock.FileLock, "acquire", fail)
    with pytest.warns(Notice, match="has no locks"), locked(tmp_path / "stage"):
        (tmp_path / "stage" / "made").write_text("")


@pytest.mark.parametrize("content", [None, "garbage"])
def test_a_lock_names_its_owner_and_its_file(tmp_path, refusal, content):
    with locked(tmp_path):
        own = json.loads((tmp_path / LOCK).read_text())
        if content:
            (tmp_path / LOCK).write_text(content)

        def again():
            with locked(tmp_path):
                pass

        told = refusal(again)
    assert str(tmp_path / LOCK) in told
    assert content or f"process {own['process']} on {own['host']} since {own['since']}" in told
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
@pytest.mark.parametrize("verb", ["doctor", "fit"])
def test_a_quoted_tilde_is_told_by_every_verb(task, monkeypatch, capsys, variable, verb):
    monkeypatch.setenv(variable, "~/scans")
    assert main([verb, "--task", task.dataset, *(["--budget", "cpu-small"] if verb == "fit" else [])]) == 2
    told = "".join(capsys.readouterr())
    assert f"{variable}: found '~/scans'" in told
    assert f'export {variable}="$HOME/scans"' in told


def test_a_folder_without_rights_ends_in_one_line(task, monkeypatch, capsys):
    from pathlib import Path

    def denied(self):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", denied)
    assert main(["fit", "--task", task.dataset, "--budget", "cpu-small"]) == 2
    told = capsys.readouterr().err
    assert "Permission denied" in told
    assert len(told.strip().splitlines()) == 1
