"""A study of three real and three synthetic volumes."""

import json

import pytest
from studies import write_sides, write_study


@pytest.fixture
def sides(tmp_path):
    return write_sides(tmp_path)


@pytest.fixture
def study(sides):
    write_study(sides)
    return sides


@pytest.fixture
def key(study):
    return json.loads(study.key_file.read_text())
