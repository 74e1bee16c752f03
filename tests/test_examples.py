"""The example in each verb's help does what it says, in the order in which a person would come to them."""

import json
import os
import shlex
import subprocess
import sys
import urllib.request
from importlib.metadata import version

import pytest
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset
from nnunetv2.run.run_training import get_trainer_from_args

from benchmarks.dicoms import known, write_series
from diffaug.cli import main
from diffaug.reader_study import requests
from diffaug.verbs import VERBS
from nnunet_plugin.trainer_path import trainer_path

ELSEWHERE = {"demo"}  # `make demo` runs it
NAME = "Dataset101_BreastPhantomA"
SHORT = {"epochs": 1, "iterations_per_epoch": 2, "val_iterations_per_epoch": 1}


@pytest.mark.slow
def test_every_example_runs_as_it_stands(folders, monkeypatch, capsys, short):
    monkeypatch.chdir(folders)
    monkeypatch.setenv("nnUNet_extTrainer", trainer_path())
    run = set()

    def example(name):
        command, *arguments = shlex.split(os.path.expandvars(VERBS[name].example))
        assert command == "diffaug"
        assert main(arguments) == 0, VERBS[name].example
        run.add(name)
        return capsys.readouterr().out

    example("phantom")
    example("plan")
    plans = folders / "preprocessed" / NAME / "nnUNetPlans.json"
    content = json.loads(plans.read_text())
    content["configurations"]["3d_fullres"]["diffaug"] = SHORT
    plans.write_text(json.dumps(content))
    preprocess_dataset(101, configurations=("3d_fullres",), num_processes=(1,))
    assert "ok" in example("doctor")
    for stage in ("fit", "sample", "audit", "pretrain", "export", "import"):
        example(stage)
    assert (folders / "encoder.pt").is_file()
    trainer = get_trainer_from_args(NAME, "3d_fullres", 0, "nnUNetTrainerDiffAug", device=torch.device("cpu"))
    trainer.run_training()
    example("share-model")
    write_series(folders / "studies", known())
    example("import-dicom")
    example("reader-study make")
    answered = served(folders, VERBS["reader-study serve"].example)
    run.add("reader-study serve")
    assert answered.is_file()
    example("reader-study analyse")
    assert (folders / "results" / "report.html").is_file()

    shell = VERBS["trainer-path"].example + '; test -d "$nnUNet_extTrainer"'
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"  # noqa: PTH120
    assert subprocess.run(["bash", "-c", shell], env={**os.environ, "PATH": path}).returncode == 0
    run.add("trainer-path")
    assert run | ELSEWHERE == VERBS.keys()


def served(folders, line):
    """Serve the study as the example does, answer everything once, and give the file that is kept."""
    key = json.loads((folders / "study_key.json").read_text())
    answer = {"appearance": 3, "slices": 4, "anatomy": 2}
    answers = {number: answer | {"guess": volume["kind"]} for number, volume in key["volumes"].items()}
    content = {"format": 1, "study": key["study"], "reader": "anna", "begun": "", "saved": "", "volumes": len(answers)}
    server = subprocess.Popen([sys.executable, "-m", *shlex.split(line)], stdout=subprocess.PIPE, text=True)
    try:
        assert "http://127.0.0.1" in server.stdout.readline()
        address = f"http://127.0.0.1:{requests.ServeRequest.port}/answers/{key['study']}/anna"
        body = json.dumps(content | {"answers": answers}).encode()
        with urllib.request.urlopen(urllib.request.Request(address, body, method="PUT"), timeout=20) as answered:
            assert answered.status == 200
    finally:
        server.kill()
        server.wait()
    return folders / "answers" / f"answers_{key['study']}_anna.json"


@pytest.mark.parametrize("name", VERBS)
def test_every_help_shows_its_example(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*name.split(), "--help"])
    told = capsys.readouterr().out
    assert f"example:\n  {VERBS[name].example}\n" in told
    assert f"diffaug {name}" in VERBS[name].example


def test_the_version_tells_what_results_depend_on(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    told = capsys.readouterr().out
    assert all(f"{name} {version(name)}" in told for name in ("diffaug", "nnunetv2", "torch"))
