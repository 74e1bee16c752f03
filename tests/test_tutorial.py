"""The tutorial runs as written, with fits of a few steps in place of an hour."""

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from diffaug.cli import main
from nnunet_plugin.trainer_path import trainer_path

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.md"
NNUNET = {point.name: point for point in entry_points(group="console_scripts") if point.name.startswith("nnUNetv2_")}
TRAINER_PATH = '"$(diffaug trainer-path)"'


@pytest.mark.slow
def test_the_tutorial_runs_as_written(folders, monkeypatch, capsys, short):
    monkeypatch.chdir(folders)
    monkeypatch.setenv("PWD", str(folders))  # as a shell has it
    blocks = re.findall(r"^```bash\n(.*?)^```$", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) >= 20
    for line in lines:
        run(line, monkeypatch)
    folder = folders / "results" / "Dataset101_BreastPhantomB" / "diffaug__nnUNetPlans__3d_cpu_small_PrimusS"
    named = {"synthetic/montage.png", "audit/report.html", "generator/model_card.md", "generator/data_card.md"}
    named |= {"encoder_PrimusS/pretext.png"}
    assert [name for name in named if not (folder / name).is_file()] == []
    assert (folders / "study_key.json").is_file()
    assert len(list((folders / "with").glob("phantomB_test_*.nii.gz"))) == 10
    assert "from" in (next(folders.rglob("nnUNetTrainerDiffAugPrimusS__*/fold_0/training_log_*.txt"))).read_text()


def run(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what a shell would do with a line, in this process: starting each program anew takes most of the time."""
    command, *arguments = shlex.split(os.path.expandvars(line.replace(TRAINER_PATH, trainer_path())))
    if command == "export":
        for assignment in arguments:
            monkeypatch.setenv(*assignment.split("=", 1))
    elif command == "diffaug":
        assert main(arguments) == 0, line
    elif command in NNUNET:
        monkeypatch.setattr(sys, "argv", [command, *arguments])
        NNUNET[command].load()()
    else:
        assert subprocess.run(["bash", "-c", line], stdout=subprocess.DEVNULL).returncode == 0, line
