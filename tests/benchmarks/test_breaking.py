"""Ten of the hundred places where benchmarks.breaking breaks the road, and a few full disks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_killed_or_on_a_full_disk_every_verb_ends_with_the_unbroken_runs_result(tmp_path):
    command = [sys.executable, "-m", "benchmarks.breaking", "--work", str(tmp_path), "--kills", "10", "--full", "4"]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    made = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=900)
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
    rows = [line for line in made.stdout.splitlines() if line.endswith("as it must be")]
    assert len(rows) == 9
    assert all(row.endswith((" 2 of 2 as it must be", " 1 of 1 as it must be")) for row in rows), rows
