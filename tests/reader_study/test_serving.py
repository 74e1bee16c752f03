"""A served study keeps answers on the disk, for browsers of this machine alone."""

import http.client
import json
import threading

import pytest

from diffaug.errors import DiffaugError
from diffaug.reader_study.requests import ServeRequest
from diffaug.reader_study.serving import open_server


@pytest.fixture
def server(study, tmp_path):
    with open_server(ServeRequest(study.out, tmp_path / "answers", port=0)) as opened:
        thread = threading.Thread(target=opened.serve_forever, daemon=True)
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


def ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def content(study, reader="anna"):
    answers = {"1": {"slices": 3}}
    return {"format": 1, "study": study, "reader": reader, "begun": "", "saved": "", "volumes": 6, "answers": answers}


def test_answers_are_kept_and_given_back(server, key, tmp_path):
    address = f"/answers/{key['study']}/anna"
    assert ask(server, "GET", address)[0] == 404
    assert ask(server, "PUT", address, json.dumps(content(key["study"])))[0] == 200
    status, body = ask(server, "GET", address)
    assert status == 200
    assert json.loads(body)["answers"] == {"1": {"slices": 3}}
    assert json.loads((tmp_path / "answers" / f"answers_{key['study']}_anna.json").read_text())["reader"] == "anna"
    assert b"niivue" in ask(server, "GET", "/")[1]


@pytest.mark.parametrize(
    "path", ["/../study_key.json", "/%2e%2e/study_key.json", "/volumes/", "/answers/x/y", "//etc/passwd"]
)
def test_nothing_else_is_served(server, path):
    status, body = ask(server, "GET", path)
    assert status in (400, 404)
    assert b"synthetic" not in body


def test_what_is_no_answer_is_not_kept(server, key, tmp_path):
    address = f"/answers/{key['study']}/anna"
    good = json.dumps(content(key["study"]))
    for path, body, headers in (
        (address, "no json", {}),
        (address, "[" * 100_000, {}),
        (address, json.dumps({"a": 1}), {}),
        (address, json.dumps(content(key["study"], "bert")), {}),
        (address, good.replace('"begun": ""', '"begun": NaN'), {}),
        (f"/answers/{'0' * 12}/anna", json.dumps(content("0" * 12)), {}),
        (address, good, {"Content-Length": "-1"}),
        (address, good, {"Content-Length": str(2**40)}),
        ("/answers/../../x", good, {}),
        ("/index.html", good, {}),
    ):
        assert ask(server, "PUT", path, body, **headers)[0] == 400, (path, body[:20])
    script = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}
    for headers in ({"Host": "elsewhere.org"}, {"Origin": "https://elsewhere.org"}, {"Origin": "null"}, script):
        assert ask(server, "PUT", address, good, **headers)[0] == 403
        assert ask(server, "GET", "/", **headers)[0] == 403
        assert ask(server, "HEAD", "/", **headers)[0] == 403
    assert ask(server, "GET", f"{address}%00")[0] in (403, 404)
    assert not (tmp_path / "answers").exists()


def test_two_tabs_write_beside_each_other(server, key, tmp_path):
    address, good = f"/answers/{key['study']}/anna", json.dumps(content(key["study"]))
    found = []
    threads = [threading.Thread(target=lambda: found.append(ask(server, "PUT", address, good)[0])) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 16


def test_a_folder_without_a_study_and_a_taken_port_are_told_in_one_line(server, study, tmp_path):
    with pytest.raises(DiffaugError, match=r"found no index\.html"):
        open_server(ServeRequest(tmp_path, tmp_path / "answers"))
    with pytest.raises(DiffaugError, match="cannot be used"):
        open_server(ServeRequest(study.out, tmp_path / "answers", port=server.server_port))
    with pytest.raises(DiffaugError, match="cannot be used"):
        open_server(ServeRequest(study.out, tmp_path / "answers", port=99999))
