"""Options made from dataclasses: what a class says is what the command line takes, and nothing is said twice."""

import argparse
import inspect
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from diffaug.cli import build_parser
from diffaug.options import add_options, option, read_options
from diffaug.phantom.dataset import write_dataset
from diffaug.reader_study.requests import MakeRequest
from diffaug.stages.requests import FitRequest, PretrainRequest, SampleRequest
from diffaug.verb_options import Demo, MaybeTask, Phantom
from diffaug.verbs import VERBS


@dataclass(frozen=True)
class Asked:
    """What is asked.

    Attributes:
        name: Of the thing, which may
            be long.
        count: How many, 100 % of them.
        rules: Rules; may be repeated.
        size: In voxels.
        where: A folder.
        loud: Whether it is loud.
        smooth: Whether it is smooth.
    """

    name: str
    count: int = option(3, short="-n")
    rules: tuple[str, ...] = ("all",)
    size: tuple[int, int] = (1, 2)
    where: Path | None = option(None, read=lambda path: path / "inside")
    loud: bool = False
    smooth: bool = True


def parse(kind, *line, only=()):
    parser = argparse.ArgumentParser()
    add_options(parser, kind, only)
    return read_options(kind, parser.parse_args(line), only)


def test_nothing_given_leaves_the_defaults():
    assert parse(Asked, "--name", "x") == Asked("x")


def test_all_kinds_of_values_are_read():
    line = [
        "--name",
        "x",
        "-n",
        "5",
        "--rules",
        "a",
        "--rules",
        "b",
        "--size",
        "4",
        "5",
        "--where",
        "here",
        "--loud",
        "--no-smooth",
    ]
    assert parse(Asked, *line) == Asked("x", 5, ("a", "b"), (4, 5), Path("here/inside"), True, False)


def test_given_rules_replace_the_default_ones():
    assert parse(Asked, "--name", "x", "--rules", "a").rules == ("a",)


def test_what_has_no_default_must_be_given(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(Asked)
    assert caught.value.code == 2
    assert "--name" in capsys.readouterr().err


def test_help_is_what_the_docstring_says(capsys):
    with pytest.raises(SystemExit):
        parse(Asked, "--help")
    told = " ".join(capsys.readouterr().out.split())
    assert "Of the thing, which may be long" in told
    assert "How many, 100 % of them (3)" in told
    assert "Rules; may be repeated (all)" in told


@pytest.mark.parametrize("kind", [FitRequest, SampleRequest, PretrainRequest, MakeRequest, Phantom, Demo])
@pytest.mark.parametrize("seed", ["x", "-1", "1.5", str(2**32)])
def test_a_seed_that_no_generator_takes_is_refused_before_anything_is_read(kind, seed, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(kind, f"--seed={seed}", only=("seed",))
    assert caught.value.code == 2
    assert f"found {seed}, expected a whole number from 0 to 4294967295" in capsys.readouterr().err
    assert parse(SampleRequest, f"--seed={2**32 - 1}", only=("seed",)).seed == 2**32 - 1


def test_a_part_of_a_class_may_be_asked():
    assert parse(SampleRequest, "-n", "7", only=("count",)) == SampleRequest(count=7)


def test_an_undocumented_field_is_an_error_at_once():
    @dataclass(frozen=True)
    class Silent:
        """Says nothing."""

        count: int = 1

    with pytest.raises(TypeError, match=r"Silent\.count: no help"):
        add_options(argparse.ArgumentParser(), Silent)


def test_one_name_means_one_thing_within_a_verb():
    @dataclass(frozen=True)
    class Other:
        """Means something else.

        Attributes:
            count: How loud.
        """

        count: int = 3

    parser = argparse.ArgumentParser()
    add_options(parser, Asked)
    with pytest.raises(TypeError, match=r"Other\.count: means something else"):
        add_options(parser, Other)


def test_inherited_fields_keep_their_help():
    assert parse(MaybeTask, "--plans", "mine") == MaybeTask("", "mine")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_what_its_function_wants(verb):
    kinds = [each[0] if isinstance(each, tuple) else each for each in VERBS[verb].options]
    wanted = [parameter.annotation for parameter in inspect.signature(VERBS[verb].run).parameters.values()]
    assert wanted == [kind.__name__ for kind in kinds]


def test_a_verb_asks_for_the_request_itself():
    arguments = build_parser().parse_args(
        [
            "pretrain",
            "--task",
            "3",
            "--exclude",
            "labelled",
            "--exclude",
            "a.txt",
            "--images",
            "real",
            "here",
            "--pretext",
            "mae",
            "--seed",
            "4",
        ]
    )
    here = str(Path("here").resolve())
    asked = read_options(PretrainRequest, arguments)
    assert asked == PretrainRequest(images=("real", here), pretext="mae", exclude=("labelled", "a.txt"), seed=4)
    assert read_options(FitRequest, arguments) == FitRequest(exclude=("labelled", "a.txt"), seed=4)


def test_phantom_options_are_those_of_the_function():
    theirs = {name: each.default for name, each in inspect.signature(write_dataset).parameters.items()}
    for each in fields(Phantom):
        assert each.name in theirs
        if theirs[each.name] is not inspect.Parameter.empty:
            assert each.default == theirs[each.name]


def test_help_tells_what_is_listed():
    @dataclass(frozen=True)
    class Chosen:
        """What is chosen.

        Attributes:
            way: How.
        """

        way: str = option("a", listed={"a": "the first", "b": "100 % new"})

    parser = argparse.ArgumentParser()
    add_options(parser, Chosen)
    assert "How: a, the first; b, 100 % new (a)" in " ".join(parser.format_help().split())
