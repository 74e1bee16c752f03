"""A whole study, read in a browser by keyboard: closed half-way, gone on with, saved, analysed."""

import json
import shutil
import threading

import pandas as pd
import pytest
from playwright.sync_api import expect
from studies import QUESTIONS

from diffaug.cli import main
from diffaug.reader_study.requests import ServeRequest
from diffaug.reader_study.serving import address, open_server

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in BROWSERS if (found := shutil.which(name))), None)
# WebGL without a graphics card; nothing of Chromium's own that asks the network
FLAGS = (
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
SERIOUS = ("serious", "critical")
ROUNDING = 3  # grey values, of 256

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"needs one of {', '.join(BROWSERS)}")


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def context(chromium):
    made = chromium.new_context(viewport={"width": 1280, "height": 720}, offline=False)
    yield made
    made.close()


def opened(context, url, reader="anna"):
    """A page of the study with its first open volume, and what went wrong in it."""
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.goto(url)
    if reader:
        page.keyboard.type(reader)  # the name is in focus
        page.keyboard.press("Enter")
        page.wait_for_selector("#study[data-shown]", timeout=30_000)
    return page, wrong


def answer(page, number, keys):
    page.wait_for_selector(f"#study[data-shown='{number}']", timeout=30_000)
    for key in keys:
        page.keyboard.press(key)


def given(page):
    return page.evaluate("answers.given")


def test_a_study_is_read_by_keyboard_closed_and_gone_on_with(context, study, key, tmp_path):
    url = (study.out / "index.html").as_uri()
    page, wrong = opened(context, url)
    for number in (1, 2, 3):
        answer(page, number, ["3", "4", "2", "1" if key["volumes"][str(number)]["kind"] == "real" else "2"])
        page.keyboard.press("n")
    answer(page, 4, ["1", "1"])
    page.close()

    page, more_wrong = opened(context, url)
    assert page.locator("#number").inner_text() == "Volume 4 of 6", "the first one without all answers"
    assert page.locator("#appearance input").first.is_checked()
    answer(page, 4, ["4", "u", "3", "2"])  # the answer to the third question is undone and given anew
    for number in (5, 6):
        page.keyboard.press("Enter")
        answer(page, number, ["4", "4", "4", "2"])
    assert "All volumes are answered" in page.locator("#message").inner_text()
    with page.expect_download() as download:
        page.locator("#save").focus()
        page.keyboard.press("Enter")
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert wrong + more_wrong == []

    answers = json.loads(file.read_text())
    assert answers["answers"]["4"]["anatomy"] == 3
    assert all(set(QUESTIONS) <= answers["answers"][number].keys() for number in "123456")
    out = tmp_path / "results"
    arguments = ["--key", str(study.key_file), "--answers", str(file), "--out", str(out)]
    assert main(["reader-study", "analyse", *arguments]) == 0
    table = pd.read_csv(out / "answers.csv").set_index("volume")
    assert (table.loc[[1, 2, 3], "guess"] == table.loc[[1, 2, 3], "kind"]).all()
    assert (table.loc[[4, 5, 6], "guess"] == "synthetic").all()
    assert table["seconds"].sum() > 0


def test_the_picture_shows_the_volume_and_obeys_keys(context, study):
    page, wrong = opened(context, (study.out / "index.html").as_uri())
    brightness = """() => new Promise((done) => requestAnimationFrame(() => {
        viewer.nv.drawScene();
        const small = document.createElement("canvas");
        Object.assign(small, { width: 64, height: 64 });
        const paper = small.getContext("2d");
        paper.drawImage(document.getElementById("canvas"), 0, 0, 64, 64);
        const grey = paper.getImageData(0, 0, 64, 64).data.filter((_, i) => i % 4 === 0);
        done(grey.reduce((sum, value) => sum + value, 0) / grey.length);
    }))"""
    usual = page.evaluate(brightness)
    assert usual > ROUNDING, "something is drawn"
    place = page.evaluate("viewer.place")
    page.keyboard.press("PageUp")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("viewer.place") == [place[0] + 1, place[1], place[2] + 1]
    for _ in range(8):
        page.keyboard.press("w")
    assert page.evaluate(brightness) < usual - ROUNDING, "a higher level is darker"
    page.keyboard.press("r")
    page.mouse.move(300, 300)
    page.mouse.down(button="right")
    page.mouse.move(300, 420, steps=5)
    page.mouse.up(button="right")
    level, width = page.evaluate("viewer.window")
    assert level > 600, "dragged downwards"
    assert width == pytest.approx(1000)
    page.locator("#shortcuts").uncheck()
    page.keyboard.press("4")
    assert given(page).get("1", {}).get("appearance") is None, "shortcuts are off"
    page.locator("#appearance input").nth(1).press("Space")
    assert given(page)["1"]["appearance"] == 2
    page.locator("#remark").fill("n")
    assert page.locator("#number").inner_text() == "Volume 1 of 6"
    assert given(page)["1"]["remark"] == "n"
    assert wrong == []


@pytest.mark.parametrize("size", [(1280, 720), (820, 1180)], ids=["desktop", "tablet"])
def test_nothing_serious_keeps_anybody_from_reading(context, study, size):
    from axe_playwright_python.sync_playwright import Axe

    page, _ = opened(context, (study.out / "index.html").as_uri(), reader="")
    page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
    found = Axe().run(page).response["violations"]
    page.keyboard.type("anna")
    page.keyboard.press("Enter")
    page.wait_for_selector("#study[data-shown='1']", timeout=30_000)
    found += Axe().run(page).response["violations"]
    assert [each["id"] for each in found if each["impact"] in SERIOUS] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing lies beyond the edge"
    picture, guess, moves = (page.locator(name).bounding_box() for name in ("#canvas", "#guess", "#moves"))
    assert picture["height"] > 0.35 * size[1]
    assert guess["y"] + guess["height"] <= moves["y"] <= size[1] - moves["height"], "all that is needed is in sight"


def test_a_served_study_keeps_answers_on_disk_and_goes_on_in_another_browser(chromium, study, key, tmp_path):
    with open_server(ServeRequest(study.out, tmp_path / "answers", port=0)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        first = chromium.new_context()
        page, wrong = opened(first, address(server))
        answer(page, 1, ["1", "2", "3", "1", "n"])
        page.wait_for_selector("#study[data-shown='2']")
        page.locator("#kept", has_text="Saved").wait_for()
        first.close()
        kept = json.loads((tmp_path / "answers" / f"answers_{key['study']}_anna.json").read_text())
        assert [kept["answers"]["1"][name] for name in QUESTIONS] == [1, 2, 3, "real"]
        second = chromium.new_context()
        page, more_wrong = opened(second, address(server))
        assert page.locator("#number").inner_text() == "Volume 2 of 6"
        second.close()
        server.shutdown()
    # a reader's first visit: nothing is kept yet, which the browser calls an error
    assert [line for line in wrong + more_wrong if "404" not in line] == []


def test_a_key_that_is_held_answers_one_question(context, study):
    page, wrong = opened(context, (study.out / "index.html").as_uri())
    for _ in range(4):  # the second and later ones are repeats
        page.keyboard.down("2")
    page.keyboard.up("2")
    assert [given(page)["1"].get(name) for name in QUESTIONS] == [2, None, None, None]
    assert wrong == []


@pytest.mark.parametrize("served", [False, True])
def test_a_tab_that_was_left_open_does_not_undo_what_another_one_answered(context, study, tmp_path, served):
    with open_server(ServeRequest(study.out, tmp_path / "answers", port=0)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = address(server) if served else (study.out / "index.html").as_uri()
        left, _ = opened(context, url)
        answer(left, 1, ["1", "2", "3", "1"])
        page, _ = opened(context, url)
        for number in (2, 3):
            answer(page, number, ["4", "4", "4", "2", "n"])
        page.wait_for_selector("#study[data-shown='4']")
        left.wait_for_function("answers.complete(3)")
        left.close()
        page.close()
        page, _ = opened(context, url)
        assert page.locator("#number").inner_text() == "Volume 4 of 6"
        assert [number for number, kept in given(page).items() if set(QUESTIONS) <= kept.keys()] == ["1", "2", "3"]
        server.shutdown()


def test_files_of_other_studies_and_broken_ones_are_told(context, study, key, tmp_path):
    page, _ = opened(context, (study.out / "index.html").as_uri(), reader="")
    file = tmp_path / "answers.json"
    content = {"format": 1, "study": "0123456789ab", "reader": "anna", "begun": "", "saved": "", "answers": {}}
    for text, said in ((json.dumps(content), "another study"), ("{", "not a file of answers"), ("null", "not a file")):
        file.write_text(text)
        page.set_input_files("#file", file)
        page.locator("#start-message", has_text=said).wait_for()
    file.write_text(json.dumps(content | {"study": key["study"], "answers": {"1": {"slices": 3}}}))
    page.set_input_files("#file", file)
    page.wait_for_selector("#study[data-shown='1']", timeout=30_000)
    assert given(page)["1"]["slices"] == 3


def test_a_missing_volume_is_told_and_the_others_go_on(context, study):
    (study.out / "volumes" / "1.js").unlink()
    page, _ = opened(context, (study.out / "index.html").as_uri(), reader="")
    page.keyboard.type("anna")
    page.keyboard.press("Enter")
    page.locator("#message", has_text="missing or damaged").wait_for()
    page.keyboard.press("n")
    page.wait_for_selector("#study[data-shown='2']", timeout=30_000)


def test_without_webgl_the_reader_is_told_in_place_of_a_black_picture(context, study):
    context.add_init_script(
        "const whole = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...how) {"
        " return kind === 'webgl2' && !window.mended ? null : whole.call(this, kind, ...how); };"
    )
    page = context.new_page()
    page.goto((study.out / "index.html").as_uri())
    page.keyboard.type("anna")
    page.keyboard.press("Enter")
    expect(page.locator("#start-message")).to_contain_text("no WebGL 2")
    expect(page.locator("#start-message")).to_be_in_viewport()
    expect(page.locator("#study")).to_be_hidden()
    page.evaluate("window.mended = true")
    page.keyboard.press("Enter")
    page.wait_for_selector("#study[data-shown]", timeout=30_000)
    assert page.locator("#sliders input").count() == 5


def test_on_a_low_screen_what_is_asked_and_said_and_the_way_on_stay_in_sight(context, study):
    page, _ = opened(context, (study.out / "index.html").as_uri())
    page.set_viewport_size({"width": 1280, "height": 520})

    def in_sight(name):
        box, moves = (page.locator(each).bounding_box() for each in (name, "#moves"))
        return box["y"] >= 0 and box["y"] + box["height"] <= moves["y"]

    assert not in_sight("#guess")
    answer(page, 1, ["3", "4", "2"])
    assert in_sight("#guess")
    page.keyboard.press("1")
    page.keyboard.press("u")
    expect(page.locator("#message")).to_contain_text("Undone")
    assert in_sight("#guess"), "whatever is said below it"
    page.locator("#guess input").last.focus()
    page.keyboard.press("Tab")
    page.keyboard.type("a remark")
    assert in_sight("#remark")
    page.evaluate("scrollTo(0, 0)")
    for width, height in ((1280, 520), (910, 512)):  # a laptop that shows everything half as large again
        page.set_viewport_size({"width": width, "height": height})
        expect(page.locator("#next")).to_be_in_viewport(ratio=1)
        expect(page.locator("#message")).to_be_in_viewport(ratio=1)


def test_nothing_moves_under_the_mouse(context, study):
    page, _ = opened(context, (study.out / "index.html").as_uri())
    page.set_viewport_size({"width": 1280, "height": 470})
    grade = page.locator("#anatomy label").first.bounding_box()
    page.mouse.dblclick(grade["x"] + 5, grade["y"] + 5)
    assert given(page) == {"1": {"anatomy": 1}}
    assert page.evaluate("document.getElementById('ask').scrollTop") == 0
