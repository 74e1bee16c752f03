"""What answers come to: figures known beforehand, and one line for answers that cannot be used."""

import json

import numpy as np
import pandas as pd
import pytest

from diffaug.cli import main
from diffaug.errors import DiffaugError
from diffaug.reader_study.agreement import agreement
from diffaug.reader_study.answers import read_answers
from diffaug.reader_study.judging import grades, guesses

GRADE = {"appearance": 3, "slices": 4, "anatomy": 2}


def write_answers(folder, key, name, given, **other):
    content = {"format": 1, "study": key["study"], "reader": name, "begun": "b", "saved": "s", "volumes": 6}
    content["answers"] = given
    file = folder / f"{len(list(folder.iterdir()))}.json"
    file.write_text(json.dumps(content | other))
    return file


def knowing(key, wrong=(), **given):
    """Answers of somebody who tells all but some volumes."""
    other = {"real": "synthetic", "synthetic": "real"}
    return {
        number: {**GRADE, **given, "guess": other[volume["kind"]] if number in wrong else volume["kind"]}
        for number, volume in key["volumes"].items()
    }


def table_of(rows):
    """A table of (reader, volume, kind, grade, guess)."""
    return pd.DataFrame(
        [
            {"reader": r, "volume": v, "kind": k, "appearance": g, "slices": g, "anatomy": g, "guess": guess}
            for r, v, k, g, guess in rows
        ]
    )


def test_guesses_become_sensitivity_specificity_and_accuracy():
    rows = [
        ("a", v, "synthetic" if v < 10 else "real", 1, "synthetic" if v < 8 or v >= 19 else "real") for v in range(20)
    ]
    found = guesses(table_of(rows)).set_index("figure")
    assert found["value"].to_dict() == {"sensitivity": 0.8, "specificity": 0.9, "accuracy": 0.85}
    # Wilson's interval of 8 of 10, from Newcombe 1998 (method 3)
    assert found.loc["sensitivity", ["low", "high"]].tolist() == pytest.approx([0.4902, 0.9433], abs=1e-4)
    assert found.loc["accuracy", "p"] == pytest.approx(0.00548, abs=1e-5)  # Fisher, 8 2 / 1 9


def test_readers_together_are_judged_by_volumes_not_by_answers():
    rows = [
        (reader, v, "synthetic" if v < 10 else "real", 1, "synthetic" if v % 2 else "real")
        for reader in "abcdefgh"
        for v in range(20)
    ]
    found = guesses(table_of(rows))
    everybody = found[(found["reader"] == "all readers") & (found["figure"] == "accuracy")].iloc[0]
    one = found[(found["reader"] == "a") & (found["figure"] == "accuracy")].iloc[0]
    # eight readers of one mind know no more than one of them
    assert everybody["high"] - everybody["low"] == pytest.approx(one["high"] - one["low"], abs=0.1)


def test_grades_are_counted_for_each_side():
    rows = [("a", v, "synthetic" if v < 4 else "real", 1 + v // 2, "real") for v in range(8)]
    found = grades(table_of(rows)).set_index(["category", "kind"])
    assert found.loc[("slices", "synthetic"), [f"grade_{n}" for n in (1, 2, 3, 4)]].tolist() == [0.5, 0.5, 0, 0]
    assert found.loc[("slices", "real"), "mean"] == 3.5
    assert found.loc[("slices", "synthetic"), "p"] == pytest.approx(0.027, abs=0.01)


def test_agreement_is_one_where_all_agree_and_none_by_chance():
    same = [(r, v, "real", 1 + v % 4, ["real", "synthetic"][v % 2]) for r in "abc" for v in range(12)]
    found = agreement(table_of(same)).set_index("question")
    assert np.allclose(found[["cohen", "fleiss", "alpha"]], 1)
    assert np.allclose(found.loc[["appearance", "slices", "anatomy"], "icc"], 1)
    rng = np.random.default_rng(0)
    drawn = [(r, v, "real", rng.integers(1, 5), rng.choice(["real", "synthetic"])) for r in "ab" for v in range(400)]
    found = agreement(table_of(drawn)).set_index("question")
    assert found[["cohen", "fleiss", "alpha"]].abs().max(axis=None) < 0.12


def test_agreement_is_what_textbooks_work_out():
    # Fleiss 1981: two readers, 75 1/1, 1 1/2, 4 1/3, 5 2/1, 4 2/2, 1 2/3, 0 3/1, 0 3/2, 10 3/3: kappa 0.68
    counts = {(1, 1): 75, (1, 2): 1, (1, 3): 4, (2, 1): 5, (2, 2): 4, (2, 3): 1, (3, 3): 10}
    pairs = [pair for pair, count in counts.items() for _ in range(count)]
    rows = [(reader, v, "real", 1, "real") for v in range(100) for reader in "ab"]
    table = table_of(rows)
    table["appearance"] = [grade for pair in pairs for grade in pair]
    found = agreement(table).set_index("question")
    assert found.loc["appearance", "fleiss"] == pytest.approx(0.67, abs=0.02)
    # everybody gave one answer: agreement beyond chance is not defined
    assert np.isnan(found.loc["guess", ["cohen", "fleiss", "alpha"]].astype(float)).all()
    assert np.isnan(found.loc["slices", "icc"])


def test_one_reader_agrees_with_nobody():
    assert agreement(table_of([("a", v, "real", 1, "real") for v in range(3)])).empty


def test_the_command_line_writes_page_picture_and_tables(study, key, tmp_path, capsys):
    folder = tmp_path / "answers"
    folder.mkdir()
    write_answers(folder, key, "anna", knowing(key, wrong=["2"]) | {"3": {**knowing(key)["3"], "remark": "<b>odd"}})
    write_answers(folder, key, "bert", knowing(key, appearance=4))
    out = tmp_path / "results"
    arguments = ["--key", str(study.key_file), "--answers", str(folder), "--out", str(out)]
    assert main(["reader-study", "analyse", *arguments]) == 0
    page = (out / "report.html").read_text()
    assert "bert, synthetic" not in page
    assert "5 of 6" in page
    assert (out / "grades.png").stat().st_size > 5000
    answers = pd.read_csv(out / "answers.csv")
    assert len(answers) == 12
    assert set(answers.loc[answers["kind"] == "synthetic", "case"]) == {"made_0", "made_1", "made_2"}
    assert pd.read_csv(out / "guesses.csv")["value"].between(0.6, 1).all()
    assert len(pd.read_csv(out / "agreement.csv")) == 4


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"study": "0123456789ab"}, "answers of study 0123456789ab, expected"),
        ({"answers": {"7": {}}}, "answers of volume 7, expected 1 to 6"),
        ({"answers": {"1": {"slices": 5}}}, "slices is 5"),
        ({"answers": {}}, r"6 of 6 volumes are not answered in full \(1, 2, 3, 4 ...\)"),
        ({"format": 2}, "format is 2"),
        ({"reader": "<script>"}, "reader is '<script>', expected letters"),
        ({"reader": "all readers"}, "expected letters"),
    ],
)
def test_answers_that_cannot_be_used_are_told_in_one_line(key, tmp_path, other, said):
    file = write_answers(tmp_path, key, "anna", knowing(key), **other)
    with pytest.raises(DiffaugError, match=said) as error:
        read_answers([file], key, incomplete=False)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_a_file_says_beyond_answers_is_not_believed(key, tmp_path):
    lying = {number: answer | {"kind": "synthetic", "reader": "B"} for number, answer in knowing(key).items()}
    table = read_answers([write_answers(tmp_path, key, "anna", lying)], key, incomplete=False)
    assert set(table["reader"]) == {"anna"}
    assert (table["kind"] == "real").sum() == 3


def test_kappa_weighs_the_distance_of_grades_that_nobody_gave(key):
    one, other = [1, 3, 4, 1, 4, 3, 4, 1, 3, 4], [1, 4, 4, 3, 3, 3, 4, 1, 1, 4]
    rows = [(r, v, "real", grade, "real") for r, given in (("a", one), ("b", other)) for v, grade in enumerate(given)]
    observed, expected = np.array(one), np.array(other)
    disagreement = ((observed - expected) ** 2).mean()
    by_chance = ((observed[:, None] - expected) ** 2).mean()
    found = agreement(table_of(rows)).set_index("question")
    assert found.loc["anatomy", "cohen"] == pytest.approx(1 - disagreement / by_chance)


def test_who_says_synthetic_to_everything_has_told_nothing_apart():
    rows = [("a", v, "real" if v < 20 else "synthetic", 1, "synthetic") for v in range(100)]
    found = guesses(table_of(rows)).set_index("figure")
    assert found.loc["accuracy", "value"] == 0.8
    assert found.loc["accuracy", "p"] == 1


def test_all_right_is_not_certainly_always_right():
    rows = [(r, v, k, 1, k) for r in "ab" for v, k in enumerate(["real", "synthetic"] * 5)]
    found = guesses(table_of(rows))
    pooled = found[(found["reader"] == "all readers") & (found["figure"] == "accuracy")].iloc[0]
    assert (pooled["value"], pooled["high"]) == (1, 1)
    assert pooled["low"] == pytest.approx(0.72, abs=0.01)


def test_guesses_alone_are_analysed(study, key, tmp_path):
    some = {number: {"guess": volume["kind"]} for number, volume in key["volumes"].items()}
    file = write_answers(tmp_path, key, "anna", some)
    arguments = ["--key", str(study.key_file), "--answers", str(file), "--out", str(tmp_path / "out")]
    assert main(["reader-study", "analyse", *arguments, "--incomplete"]) == 0


def test_a_reader_counts_once(key, tmp_path):
    file = write_answers(tmp_path, key, "anna", knowing(key))
    copy = tmp_path / "copy.json"
    copy.write_text(file.read_text())
    with pytest.raises(DiffaugError, match="anna, who has answered in"):
        read_answers([file, copy], key, incomplete=False)
    with pytest.raises(DiffaugError, match=r"found no \*.json"):
        (tmp_path / "empty").mkdir()
        read_answers([tmp_path / "empty"], key, incomplete=False)


def test_incomplete_answers_count_if_asked_for(study, key, tmp_path):
    some = {number: answer for number, answer in knowing(key).items() if int(number) < 5}
    file = write_answers(tmp_path, key, "anna", some)
    table = read_answers([file], key, incomplete=True)
    assert table["guess"].notna().sum() == 4
    arguments = ["--key", str(study.key_file), "--answers", str(file), "--out", str(tmp_path / "out")]
    assert main(["reader-study", "analyse", *arguments]) == 2
    assert main(["reader-study", "analyse", *arguments, "--incomplete"]) == 0
    assert "2 of 6 guesses were not given" in (tmp_path / "out" / "report.html").read_text()
