"""Conditions: what is known of a scan reaches the denoiser, what is unknown is zero, and what is asked for is made."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diffaug.budgets import Training
from diffaug.copies.detector import Nearest
from diffaug.generator.conditions import (
    DROPPED,
    Condition,
    ConditionPlan,
    canonical_spacing,
    plan_conditions,
    require_learned,
)
from diffaug.generator.fit_denoiser import DenoiserObjective
from diffaug.generator.planning import make_plan
from diffaug.generator.sites import read_sites
from diffaug.generator.views import Views
from diffaug.scans.grid import Grid
from diffaug.scans.readings import Reading
from diffaug.scans.windows import centred
from diffaug.training.devices import start_fabric
from diffaug.training.loop import train

SPACING = (2.0, 1.5, 1.5)
GRID = Grid("whole", "LPS", SPACING, (8, 8, 8), ((0.0, 900.0),), (1.0,), (1.0,))
CASES = [f"c{i}" for i in range(10)]
SITES = {case: "A" if int(case[1:]) < 5 else "B" for case in CASES}
LEARNED = [Condition("A", (2.0, 1.5, 1.5)), Condition("B", (4.0, 1.0, 1.0)), Condition(None, (3.0, 1.0, 1.0))]
CONTRAST = 0.25  # so that no voxel is cut off


def reading(case, spacing=SPACING, orientation="LPS"):
    return Reading(case, (8, 8, 8), spacing, orientation, ((0.0, 900.0),), (1.0,), (1.0,))


READINGS = [reading(case) for case in CASES]


def test_a_known_condition_is_written_out_and_an_unknown_one_is_zero():
    plan = ConditionPlan(("A", "B", "C"), {}, spacing=True)
    values = plan.values(
        [Condition(), Condition("B"), Condition(None, (4.0, 1.5, 0.75)), Condition("C", SPACING)], GRID
    )
    expected = [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, -1, 1],
        [0, 0, 1, 0, 0, 0, 1],  # the grid's own spacing is not mistaken for an unknown one
    ]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float32))
    assert plan.channels == 7


def test_without_conditions_there_are_no_channels():
    assert ConditionPlan().values([Condition(), Condition()], GRID).shape == (2, 0)


def test_spacing_is_told_along_the_canonical_axes():
    assert canonical_spacing(reading("a", (1.5, 1.4, 2.0), "SLP"), GRID) == (2.0, 1.5, 1.4)


def test_sites_are_learned_where_they_tell_scans_apart():
    assert plan_conditions(READINGS, GRID, CASES, SITES) == ConditionPlan(("A", "B"), SITES, spacing=False)
    assert plan_conditions(READINGS, GRID, CASES, {}) == ConditionPlan()
    assert plan_conditions(READINGS, GRID, CASES, dict.fromkeys(CASES, "A")) == ConditionPlan()
    assert plan_conditions(READINGS, GRID, CASES, {"c0": "A"}) == ConditionPlan(("A",), {"c0": "A"})


def test_site_of_held_out_scans_alone_is_unknown():
    plan = plan_conditions(READINGS, GRID, CASES[:-1], {**SITES, "c9": "C"})
    assert plan.sites == ("A", "B")
    assert plan.of(READINGS[-1], GRID) == Condition()
    assert plan.of(READINGS[0], GRID) == Condition("A")


@pytest.mark.parametrize("z, learned", [(2.0, False), (2.08, False), (2.2, True)])
def test_spacing_is_learned_where_it_varies(z, learned):
    scans = [*READINGS[:-1], reading("c9", (z, 1.5, 1.5))]
    plan = plan_conditions(scans, GRID, CASES, {})
    assert plan.spacing is learned
    assert plan.of(scans[-1], GRID).spacing == ((z, 1.5, 1.5) if learned else None)


def test_turned_scans_of_equal_spacing_do_not_vary():
    assert not plan_conditions([reading("c0"), reading("c1", (1.5, 1.5, 2.0), "SLP")], GRID, ["c0", "c1"], {}).spacing


TABLES = {
    "comma.csv": "case,site\nc0,A\nc1,B\n",
    "semicolon.csv": "\ufeffsite;age;case\r\nA;61;c0\r\nB;47;c1\r\n",
    "tab.tsv": "case\tsite\nc0\tA\n\nc1 \t B\n",
    "empty_is_unknown.csv": "case,site\nc0,A\nc1,B\nc2,\n",
    "quoted.csv": 'case,site\n"c0","A"\nc1,B\n',
    "sites.json": '{"c0": "A", "c1": "B"}',
}


@pytest.mark.parametrize("name", TABLES)
def test_sites_are_read_from_tables_and_json(tmp_path, capsys, name):
    (tmp_path / name).write_text(TABLES[name], encoding="utf-8")
    assert read_sites(tmp_path / name, CASES) == {"c0": "A", "c1": "B"}
    assert capsys.readouterr().out == ""


def test_unknown_ids_are_ignored_in_one_line_and_excluded_ones_silently(tmp_path, capsys):
    file = tmp_path / "sites.csv"
    file.write_text("case,site\nc0,A\nghost,B\nspectre,B\nsecret,C\n")
    assert read_sites(file, CASES, excluded=["secret"]) == {"c0": "A"}
    (line,) = capsys.readouterr().out.splitlines()
    assert "2 unknown cases (ghost" in line
    assert "secret" not in line


@pytest.mark.parametrize(
    "name, content",
    [
        ("missing.csv", None),
        ("empty.csv", b""),
        ("no_header.csv", b"c0,A\nc1,B\n"),
        ("no_site.csv", b"case,place\nc0,A\n"),
        ("short_row.csv", b"case,site\nc0,A\nc1\n"),
        ("long_row.csv", b"case,site\nc0,A,B\n"),
        ("two_sites.csv", b"case,site\nc0,A\nc0,B\n"),
        ("utf16.csv", "case,site\nc0,A\n".encode("utf-16")),
        ("stranger.csv", b"case,site\nghost,A\n"),
        ("broken.json", b"{"),
        ("list.json", b'["c0"]'),
        ("number.json", b'{"c0": 3}'),
        ("blank.json", b'{"c0": ""}'),
    ],
)
def test_malformed_sites_are_refused_with_the_file(tmp_path, refusal, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert str(tmp_path / name) in refusal(read_sites, tmp_path / name, CASES)


def test_options_are_read():
    assert Condition.parse([]) == Condition()
    assert Condition.parse(["site=St. Mary=1", "spacing=5, .8,0.8"]) == Condition("St. Mary=1", (5.0, 0.8, 0.8))


@pytest.mark.parametrize(
    "texts",
    [["scanner=B"], ["site"], ["spacing=1,1"], ["spacing=1,1,x"], ["spacing=1,0,1"], ["spacing=1,nan,1"], [""]],
)
def test_options_that_are_no_conditions_are_refused(refusal, texts):
    message = refusal(Condition.parse, texts)
    assert "site=NAME" in message
    assert "spacing=Z,Y,X" in message


def test_a_condition_is_given_once(refusal):
    assert "site twice" in refusal(Condition.parse, ["site=A", "site=B"])


@pytest.mark.parametrize("condition", [Condition(), LEARNED[0], Condition("B", (3.0, 1.2, 1.2))])
@pytest.mark.parametrize("guidance", [0, 1, 2.5])
def test_learned_conditions_are_taken(condition, guidance):
    require_learned(condition, guidance, LEARNED)


@pytest.mark.parametrize("condition", [Condition("C"), Condition("a"), Condition("A", (9.0, 1.5, 1.5))])
def test_conditions_that_were_not_learned_are_refused_with_those_that_were(refusal, condition):
    message = refusal(require_learned, condition, 1, LEARNED)
    assert "site=A, site=B, spacing=2,1,1 to 4,1.5,1.5" in message


@pytest.mark.parametrize("condition", [Condition("A"), Condition(None, SPACING)])
def test_a_generator_without_conditions_takes_none(refusal, condition):
    require_learned(Condition(), 1, [Condition()] * 3)
    assert "no condition at all" in refusal(require_learned, condition, 1, [Condition()] * 3)
    assert "--guidance" in refusal(require_learned, Condition(), 2, [Condition()] * 3)


@pytest.mark.parametrize("guidance", [-1, float("nan"), float("inf")])
def test_senseless_guidance_is_refused(refusal, guidance):
    assert "--guidance" in refusal(require_learned, Condition(), guidance, LEARNED)


class EnlargedLatent(nn.Module):
    """Stands where the autoencoder does: samples are looked at as latents, each cell as many voxels as it stands for."""

    def decode_and_estimate(self, latent):
        volumes = CONTRAST * F.interpolate(latent, scale_factor=4.0)
        return volumes, torch.zeros_like(volumes)


class SeesNoCopy:
    """Stands where the copy detector does: two constants are no scans that it could know again."""

    def judge(self, volumes):
        return [Nearest("", 0.0, 1.0, False)] * len(volumes)


@pytest.fixture
def mixture():
    """Two sites whose latents are two constants, apart from a little noise, and a tiny denoiser to learn them."""
    torch.manual_seed(0)
    plan = make_plan(READINGS, ["MR"], budget="cpu-small", site_of=SITES)
    plan = replace(
        plan,
        autoencoder={**plan.autoencoder, "latent_channels": 4},
        denoiser={"latent_channels": 4, "channels": [16], "blocks": 1, "attention": False},
        denoiser_training=Training(300, 16, 3e-3, warmup_steps=20, ema_decay=0.95),
        views=1,
    )

    def latents(cases):
        rng = np.random.default_rng(0)
        levels = np.array([{"A": -1.0, "B": 1.0}[SITES[case]] for case in cases])
        noise = 0.1 * rng.normal(size=(len(cases), 4, *plan.latent_shape))
        windows = [centred((8, 8, 8), plan.grid.shape)] * len(cases)
        values = (levels[:, None, None, None, None] + noise).astype(np.float32)
        return Views(dict(zip(cases, values, strict=True)), cases, windows)

    conditions = {r.case: plan.conditions.of(r, plan.grid) for r in READINGS}
    return DenoiserObjective(
        plan, EnlargedLatent(), latents(plan.cases), latents(plan.held_out), conditions, SeesNoCopy(), None
    )


def test_the_network_is_shown_the_conditions_of_each_scan_and_sometimes_none(mixture):
    shown = [mixture.example(np.random.default_rng((0, step))) for step in range(2000)]
    told = torch.stack([condition for _, _, condition in shown])
    above = torch.stack([latent.mean() for latent, _, _ in shown]) > 0
    known = told.abs().sum(1) > 0
    assert float((~known).float().mean()) == pytest.approx(DROPPED, abs=0.02)
    torch.testing.assert_close(told[known], torch.stack([~above, above], 1).float()[known])
    again = mixture.example(np.random.default_rng((0, 7)))
    assert all(torch.equal(a, b) for a, b in zip(again, shown[7], strict=True))


def test_every_view_of_a_scan_has_its_condition(mixture):
    mixture.plan = replace(mixture.plan, views=3)
    told = mixture._condition_values([Condition("A"), Condition("B")])
    assert told.tolist() == [[1, 0]] * 3 + [[0, 1]] * 3


def test_the_site_that_is_asked_for_is_made(mixture, tmp_path):
    average = train(
        mixture,
        mixture.example,
        mixture.plan.denoiser_training,
        fabric=start_fabric("cpu"),
        folder=tmp_path,
        name="denoiser",
        identity="toy",
    )
    generator = mixture.generator(average, [(8, 8, 8)] * len(mixture.plan.cases)).to(torch.device("cpu"))

    def levels(site, guidance=1.0):
        made, _, conditions = generator.synthesise(
            0, range(16), sampler="dpmpp", steps=20, wanted=Condition(site), guidance=guidance
        )
        assert site is None or set(conditions) == {Condition(site)}
        return made.flatten(1).mean(1) / CONTRAST, conditions

    for site, level in (("A", -1.0), ("B", 1.0)):
        made, _ = levels(site)
        torch.testing.assert_close(made, torch.full_like(made, level), atol=0.3, rtol=0)
    made, conditions = levels(None)
    assert {c.site for c in conditions} == {"A", "B"}, "as the training scans are"
    assert [float(level) > 0 for level in made] == [c.site == "B" for c in conditions]
    made, _ = levels("A", guidance=0)
    assert (made > 0.5).any(), "without weight the site does not matter"
    assert (made < -0.5).any(), "without weight the site does not matter"
