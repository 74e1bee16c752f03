import json
from types import SimpleNamespace

import pytest

from benchmarks import measuring
from benchmarks.measuring import Stopwatch, interleaved, ratio, table, times, write_report


def test_contenders_are_run_in_turn_after_a_warm_up_that_does_not_count():
    order = []
    seconds = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "b"] * 3
    assert {name: len(each) for name, each in seconds.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_taken_within_each_round():
    # a machine that slows down threefold changes both figures of a round and no ratio
    assert ratio([2.0, 6.0, 20.0], [1.0, 3.0, 5.0]) == (2.0, 2.0, 4.0)
    assert times((12.34, 2.0, 40.06)) == "12.3x (2 to 40.1)"


class Clock:
    """A clock that stands still but for `sleep`."""

    def __init__(self, monkeypatch, *modules):
        self.now = 0.0
        for module in modules:
            monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def sleep(self, seconds):
        self.now += seconds


def test_a_stopwatch_counts_inner_parts_once(monkeypatch):
    clock, watch = Clock(monkeypatch, measuring), Stopwatch()
    with watch.measure("outer"):
        clock.sleep(1)
        with watch.measure("inner"):
            clock.sleep(3)
        clock.sleep(1)
    assert watch.times == {"inner": [3], "outer": [2]}


def test_nothing_inside_a_closed_part_is_counted_apart(monkeypatch):
    clock, watch = Clock(monkeypatch, measuring), Stopwatch()
    with watch.measure("theirs", closed=True), watch.measure("backward"):
        clock.sleep(5)
    with watch.measure("backward"):
        clock.sleep(1)
    assert watch.times == {"theirs": [5], "backward": [1]}


def test_attached_functions_are_measured_and_restored_even_after_an_error():
    class Owner:
        @staticmethod
        def work(value: int) -> int:
            return 1 // value

    plain, watch = Owner.work, Stopwatch()
    with pytest.raises(ZeroDivisionError), watch.attached([(Owner, "work", "work")]):
        Owner.work(0)
    assert len(watch.times["work"]) == 1
    assert Owner.work is plain


def test_a_table_has_a_line_per_row_and_three_digits():
    text = table([{"name": "a", "seconds": 1.23456}, {"name": "b", "seconds": 2}])
    assert text == "| name | seconds |\n| --- | --- |\n| a | 1.23 |\n| b | 2 |"


def test_the_report_comes_with_its_figures_as_json(tmp_path):
    section = {"text": "Why.", "rows": [{"name": "a"}], "figures": {"seconds": [1.0]}}
    write_report(tmp_path / "results" / "speed.md", "Speed", {"command": "`run`"}, {"Part": section})
    text = (tmp_path / "results" / "speed.md").read_text()
    assert text.startswith("# Speed\n\n* command: `run`\n\n## Part\n\nWhy.\n\n| name |")
    assert json.loads((tmp_path / "results" / "figures.json").read_text())["speed"]["Part"]["figures"] == {
        "seconds": [1.0]
    }
