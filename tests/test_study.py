"""The user study: what raters see, what is stored of their answers, and how these become win rates."""

import http.client
import json
import math
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from urllib.parse import urlencode

import imageio_ffmpeg
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import norm

from vfusion3d.cli.main import main
from vfusion3d.evaluation.tables import paper_table
from vfusion3d.runs.reading import ReadingError
from vfusion3d.stand_ins.raters import error_for, simulate_raters
from vfusion3d.study import page
from vfusion3d.study.answers import (
    COLUMNS,
    OURS,
    StudyError,
    add_answer,
    comparisons,
    load_items,
    majority,
    plot_win_rates,
    read_answers,
    read_video,
    win_rates,
)
from vfusion3d.study.page import Study, study_server

RED, GREEN, BLUE = (220, 20, 20), (20, 200, 20), (20, 20, 220)


def write_video(path, colour, codec="libx264", frames=6):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = imageio_ffmpeg.write_frames(str(path), (32, 32), fps=6, codec=codec, macro_block_size=1)
    writer.send(None)
    for _ in range(frames):
        writer.send(np.full((32, 32, 3), colour, np.uint8))
    writer.close()


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A red video and a green one."""
    folder = tmp_path_factory.mktemp("colours")
    for name, colour in (("red", RED), ("green", GREEN)):
        write_video(folder / f"{name}.mp4", colour)
    return folder


@pytest.fixture
def run_dir(tmp_path, colours):
    """Two items of each task: the pictures are red, our videos red, those of `other` green."""
    for task in ("image_to_3d", "text_to_3d"):
        folder = tmp_path / "items" / task
        folder.mkdir(parents=True)
        pd.DataFrame({"key": ["007", "12"], "caption": ["a red mug", "red, and round"]}).to_csv(
            folder / "captions.csv", index=False
        )
        for key in ("007", "12"):
            Image.new("RGB", (32, 32), RED).save(folder / f"{key}.png")
            for method, colour in ((OURS, "red"), ("other", "green")):
                video = tmp_path / "views" / task / method / f"{key}.mp4"
                video.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(colours / f"{colour}.mp4", video)
    return tmp_path


# What raters see


def test_every_rater_meets_every_question_once_in_an_order_of_their_own(run_dir):
    items = load_items(run_dir)
    asked = {rater: comparisons(items, rater) for rater in ("anna", "ben")}
    for questions in asked.values():
        assert len(questions) == 2 * 2 * 1 * 2  # tasks, items, baselines, questions
        assert len({question.same for question in questions}) == len(questions)
    assert asked["anna"] == comparisons(items, "anna")
    assert [question.same for question in asked["anna"]] != [question.same for question in asked["ben"]]


def test_ours_stands_on_either_side_equally_often(run_dir):
    items = load_items(run_dir)
    sides = [question.left == OURS for rater in range(100) for question in comparisons(items, str(rater))]
    assert abs(np.mean(sides) - 0.5) < 4 * 0.5 / math.sqrt(len(sides))


def test_items_that_come_later_leave_the_order_of_the_others_alone(run_dir):
    items = load_items(run_dir)
    before, after = comparisons(items[:3], "anna"), comparisons(items, "anna")
    assert [question for question in after if question.item != items[3]] == before


def test_what_is_missing_or_broken_is_named_before_the_study_starts(run_dir, capfd):
    views, items = run_dir / "views" / "image_to_3d", run_dir / "items" / "text_to_3d"
    (views / OURS / "007.mp4").unlink()
    (views / "other" / "007.mp4").write_bytes(b"no video at all" * 100)
    write_video(views / "other" / "12.mp4", GREEN, codec="mpeg4")
    (items / "007.png").write_text("no picture")
    (items / "12.png").unlink()
    capfd.readouterr()
    with pytest.raises(StudyError) as error:
        load_items(run_dir)
    problems = str(error.value).split("; ")
    assert len(problems) == 5
    assert [p for p in problems if "VFusion3D/007.mp4 does not exist" in p]
    assert [p for p in problems if "other/007.mp4 is broken" in p]
    assert [p for p in problems if "other/12.mp4 is coded as" in p and "use H.264" in p]
    assert [p for p in problems if "text_to_3d/007.png is no picture" in p]
    assert [p for p in problems if "text_to_3d/12.png does not exist" in p]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"key,caption\n007,a mug\xff\n", "utf-8"),
        (b"name,caption\n007,a mug\n", "no column 'key'"),
        (b"key,caption\n007,a mug\n12,a, mug\n", "line 3 has 3 cells"),
        (b"key,caption\n007,a mug\n007,a mug\n", "'007' stands twice"),
        (b"key,caption\n../007,a mug\n", "'../007'"),
        (b"key,caption\n,a mug\n", "'' is no key"),
        (b"key,caption\n007,a mug\n", "12.png beside it has no caption"),
        (b"key,caption\n007,a m\x00ug\n12,a cup\n", r"'a m\x00ug'"),
        (b"key,caption\n0\x0007,a mug\n", r"'0\x0007'"),
    ],
)
def test_captions_that_cannot_be_used_are_named_by_file_and_fault(run_dir, content, problem):
    file = run_dir / "items" / "image_to_3d" / "captions.csv"
    file.write_bytes(content)
    with pytest.raises((ReadingError, StudyError)) as error:
        load_items(run_dir)
    assert str(file) in str(error.value)
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_a_study_without_questions_does_not_start(run_dir):
    items = load_items(run_dir)
    for asked in ([], [page.Item(i.task, i.key, i.caption, i.picture, {OURS: i.videos[OURS]}) for i in items]):
        with pytest.raises(StudyError, match="no questions"):
            Study(asked, run_dir / "user_study")
    for against in ([OURS], ["other", ""], ["../other"], ["a\nb"]):
        with pytest.raises(StudyError, match=r"against .* cannot be compared with"):
            load_items(run_dir, against)


def test_a_run_without_videos_names_the_notebooks_that_make_them(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["study", "--profile", "smoke"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "08_image_to_3d makes it" in line
    assert "09_text_to_3d makes it" in line


def test_only_methods_that_are_there_in_every_task_are_compared_unless_named(run_dir):
    write_video(run_dir / "views" / "image_to_3d" / "third" / "007.mp4", BLUE)
    assert {name for item in load_items(run_dir) for name in item.videos} == {OURS, "other"}
    with pytest.raises(StudyError, match=r"text_to_3d/third/12\.mp4 does not exist"):
        load_items(run_dir, against=["third"])


def test_a_video_that_was_cut_off_is_broken(run_dir):
    path = run_dir / "views" / "image_to_3d" / "other" / "007.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3), dtype=np.uint8)
    writer = imageio_ffmpeg.write_frames(str(path), (64, 64), fps=6, output_params=["-movflags", "+faststart"])
    writer.send(None)
    for frame in noise:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
    load_items(run_dir)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StudyError, match=r"other/007\.mp4 is broken: only \d+ of 12 frames"):
        load_items(run_dir)


def test_pictures_of_another_program_are_shown_as_a_video(run_dir):
    for task in ("image_to_3d", "text_to_3d"):
        for key in ("007", "12"):
            for frame in range(3):
                path = run_dir / "methods" / task / "LGM" / key / f"{frame}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (128, 128), BLUE).save(path)
    items = load_items(run_dir, against=["LGM"])
    video = items[0].videos["LGM"]
    assert run_dir / "user_study" in video.parents
    shown = read_video(video)
    assert len(shown) == 3
    assert (shown.mean(dim=(0, 2, 3)) - torch.tensor(BLUE) / 255).abs().max() < 0.03
    assert {name for item in load_items(run_dir) for name in item.videos} == {OURS, "other", "LGM"}
    (run_dir / "methods" / "text_to_3d" / "LGM" / "12" / "0.png").write_text("no picture")
    video = run_dir / "user_study" / "videos" / "text_to_3d" / "LGM" / "12.mp4"
    video.unlink()
    with pytest.raises(StudyError, match=r"text_to_3d/LGM/12"):
        load_items(run_dir)


# The page


@pytest.fixture
def serve(run_dir):
    """Starts a server of the study, as `vfusion3d study` does; each call is one more start."""
    running = []

    def start(host="127.0.0.1"):
        server = study_server(Study(load_items(run_dir), run_dir / "user_study"), host=host)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_port}" if host == "127.0.0.1" else server.address()

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def get(address, path, **query):
    with urllib.request.urlopen(f"{address}{path}?{urlencode(query)}") as answer:
        return answer.read()


def ask(address, **query):
    return json.loads(get(address, "/question", **query))


def answer(address, **content):
    data = content["raw"] if "raw" in content else json.dumps(content).encode()
    with urllib.request.urlopen(f"{address}/answer", data=data) as reply:
        return json.loads(reply.read())


def refused(call, *arguments, **content):
    with pytest.raises(urllib.error.HTTPError) as error:
        call(*arguments, **content)
    return error.value.code, json.loads(error.value.read())["error"]


def test_a_study_goes_on_after_a_new_start_where_the_rater_stopped(serve, run_dir):
    address = serve()
    question = ask(address, rater="anna")
    assert (question["number"], question["answered"], question["total"]) == (0, 0, 8)
    seen = [question["id"]]
    for _ in range(3):
        question = answer(address, rater="anna", id=question["id"], choice="left")
        seen.append(question["id"])
    assert len(set(seen)) == 4
    assert ask(address, rater="ben")["answered"] == 0

    again = serve()  # the browser and the first server are forgotten
    question = ask(again, rater="anna")
    assert (question["number"], question["id"], question["answered"]) == (3, seen[3], 3)
    for _ in range(5):
        question = answer(again, rater="anna", id=question["id"], choice="right")
    assert question == {"rater": "anna", "total": 8, "answered": 8, "done": True}
    answers = read_answers(run_dir / "user_study")
    assert len(answers) == 8
    asked = comparisons(load_items(run_dir), "anna")
    assert list(answers.winner) == [q.left for q in asked[:3]] + [q.right for q in asked[3:]]


def test_going_back_changes_an_answer(serve, run_dir):
    address = serve()
    first = ask(address, rater="anna")
    second = answer(address, rater="anna", id=first["id"], choice="left")
    assert ask(address, rater="anna", number=0)["id"] == first["id"]
    assert answer(address, rater="anna", id=first["id"], choice="right")["id"] == second["id"]
    (winner,) = read_answers(run_dir / "user_study").winner
    assert winner == comparisons(load_items(run_dir), "anna")[0].right


def test_the_page_shows_the_videos_without_telling_whose_they_are(serve, run_dir):
    address, items = serve(), load_items(run_dir)
    for number, asked in enumerate(comparisons(items, "anna")):
        question = ask(address, rater="anna", number=number)
        assert OURS not in json.dumps(question)
        assert "other" not in json.dumps(question)
        for side, method in (("/left", asked.left), ("/right", asked.right)):
            assert get(address, side, rater="anna", id=question["id"]) == asked.item.videos[method].read_bytes()
        assert question["picture"] == (asked.question == "faithfulness")
        assert get(address, "/picture", rater="anna", id=question["id"]) == asked.item.picture.read_bytes()
    assert OURS.encode() not in get(address, "/")


def test_bad_answers_are_refused_and_leave_nothing(serve, run_dir):
    address = serve()
    good = ask(address, rater="anna")["id"]
    for content, complaint in (
        ({"rater": "anna", "id": good, "choice": "both"}, "left or right, not 'both'"),
        ({"rater": "anna", "id": "0" * 16, "choice": "left"}, "no question '0000000000000000'"),
        ({"rater": "../anna", "id": good, "choice": "left"}, "cannot be a rater's name"),
        ({"rater": "", "id": good, "choice": "left"}, "cannot be a rater's name"),
        ({"rater": "anna", "id": good}, "an answer is"),
        ({"raw": b"{"}, "an answer is"),
        ({"raw": b"[1]"}, "an answer is"),
        ({"raw": b"x" * 20_000}, "short JSON"),
    ):
        code, error = refused(answer, address, **content)
        assert (code, complaint in error) == (400, True), error
    assert refused(ask, address, rater="anna", number=99)[0] == 400
    assert refused(ask, address, rater="anna", number="-1")[0] == 400
    assert refused(get, address, "/../cli.py")[0] == 404
    assert not (run_dir / "user_study").exists()
    assert ask(address, rater="anna")["answered"] == 0


class Reply:
    """What a server says to a request of any method, headers and body."""

    def __init__(self, address, method, path, body=None, **headers):
        connection = http.client.HTTPConnection(address.removeprefix("http://").partition("/")[0], timeout=10)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        self.status, self.headers, self.body = answer.status, answer.headers, answer.read()
        connection.close()


def test_other_pages_cannot_ask_and_none_can_frame_the_study(serve):
    address = serve()
    port = address.rpartition(":")[2]
    good = json.dumps({"rater": "anna", "id": ask(address, rater="anna")["id"], "choice": "left"})
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},  # another server of this machine
        {"Sec_Fetch_Site": "cross-site"},
        {"Host": f"evil.example:{port}"},  # a name whose owner lets it point here: DNS rebinding
        {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"},
        {"Host": ""},
    ):
        reply = Reply(address, "POST", "/answer", good, **headers)
        assert reply.status == 403, headers
        assert "by another page" in json.loads(reply.body)["error"]
    assert ask(address, rater="anna")["answered"] == 0
    for headers in ({"Origin": address}, {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}):
        assert Reply(address, "POST", "/answer", good, **headers).status == 200
    assert ask(address, rater="anna")["answered"] == 1
    for path in ("/", "/question?rater=anna", "/nothing", f"/left?rater=anna&id={json.loads(good)['id']}"):
        headers = Reply(address, "GET", path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_whatever_is_sent_is_answered_with_an_error_and_no_trace(serve, capfd):
    address = serve()
    huge = "9" * 5000
    answers = [
        Reply(address, "POST", "/answer", b"[" * 9000),
        Reply(address, "POST", "/answer", b'{"rater": NaN, "id": 1e999, "choice": []}'),
        Reply(address, "POST", "/answer", b"\xff\x00"),
        Reply(address, "POST", "/answer", b"x" * 500_000),
        Reply(address, "POST", "/answer", Content_Length=huge),
        Reply(address, "POST", "/answer", Content_Length="-1"),
        Reply(address, "POST", "/"),
        Reply(address, "DELETE", "/answer"),
        Reply(address, "BREW", "/"),
        Reply(address, "GET", f"/question?rater=anna&number={huge}"),
        Reply(address, "GET", "/question?rater=anna&number=%C2%B2"),
        Reply(address, "GET", "/question?rater=%ff"),
        Reply(address, "GET", "/left?rater=anna&id=../../settings.json"),
        Reply(address, "GET", "/%2e%2e/%2e%2e/etc/passwd%0d%0aA:b"),
    ]
    for reply in answers:
        assert 400 <= reply.status < 500
        assert b"Traceback" not in reply.body
    assert ask(address, rater="anna")["answered"] == 0
    assert capfd.readouterr().err == ""


def test_parts_of_a_video_are_served_as_safari_wants_them(serve, run_dir):
    address = serve()
    path = "/left?" + urlencode({"rater": "anna", "id": ask(address, rater="anna")["id"]})
    whole = Reply(address, "GET", path).body
    part = Reply(address, "GET", path, Range="bytes=2-11")
    assert (part.status, part.body) == (206, whole[2:12])
    assert part.headers["Content-Range"] == f"bytes 2-11/{len(whole)}"
    assert Reply(address, "GET", path, Range="bytes=99999999-").status == 416
    assert Reply(address, "HEAD", path).headers["Content-Length"] == str(len(whole))
    assert Reply(address, "HEAD", "/").body == b""


def test_who_never_ends_a_request_is_cut_off_and_keeps_nobody_waiting(serve, monkeypatch):
    monkeypatch.setattr(page, "PATIENCE", 0.3)
    address = serve()
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        assert ask(address, rater="anna")["answered"] == 0
        start = time.monotonic()
        assert slow.recv(100) == b""  # the server hung up
        assert time.monotonic() - start < 5


def test_beyond_this_machine_nothing_is_answered_without_the_token_of_the_address(serve):
    address = serve("0.0.0.0")
    path = "/?" + address.partition("?")[2]
    assert len(path) > 24
    for asked in ("/", "/question?rater=anna", path[:-1], f"{path[:-1]}%C3%A9", "/nothing"):
        assert Reply(address, "GET", asked).status == 403
    reply = Reply(address, "GET", f"{path}&rater=anna")
    assert (reply.status, reply.headers["Location"]) == (303, "/?rater=anna")
    cookie = reply.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    cookie = cookie.partition(";")[0]
    assert Reply(address, "GET", "/question?rater=anna", Cookie=cookie).status == 200
    assert Reply(address, "GET", "/question?rater=anna", Cookie=f"{cookie}x").status == 403
    assert Reply(address, "GET", "/question?rater=anna", Cookie=cookie, Origin="http://evil.example").status == 403


def test_raters_who_answer_at_once_lose_nothing(serve, run_dir):
    address = serve()
    asked = {rater: [ask(address, rater=rater, number=n)["id"] for n in range(8)] for rater in ("anna", "ben")}

    def answer_all(rater, choice):
        for name in asked[rater]:
            answer(address, rater=rater, id=name, choice=choice)

    sent = [("anna", "left"), ("anna", "right"), ("ben", "left")]
    people = [threading.Thread(target=answer_all, args=one) for one in sent]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert len(read_answers(run_dir / "user_study")) == 16
    assert len((run_dir / "user_study" / "anna.csv").read_text().splitlines()) == 1 + 16


def test_a_port_that_is_taken_is_named(run_dir):
    study = Study(load_items(run_dir), run_dir / "user_study")
    with study_server(study) as server, pytest.raises(StudyError, match=f":{server.server_port} .*another port"):
        study_server(study, server.server_port)


# The answers


def test_half_a_line_after_a_crash_is_asked_again_and_spoils_no_other(run_dir):
    items, folder = load_items(run_dir), run_dir / "answers"
    asked = comparisons(items, "anna")
    for question in asked[:2]:
        path = add_answer(folder, "anna", question, "left")
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert len(read_answers(folder)) == 1
    add_answer(folder, "anna", asked[1], "left")
    assert path.read_bytes() == whole
    path.write_bytes(whole[:5])  # not even the heading is whole
    assert read_answers(folder).empty
    add_answer(folder, "anna", asked[0], "left")
    assert len(read_answers(folder)) == 1


def test_an_answer_that_is_none_is_named_by_file_and_line(run_dir):
    path = add_answer(run_dir / "answers", "anna", comparisons(load_items(run_dir), "anna")[0], "left")
    path.write_text(path.read_text() + "anna,image_to_3d,007,other,quality,other,somebody\n")
    with pytest.raises(StudyError, match=r"anna\.csv, line 3: .*somebody is no answer"):
        read_answers(path.parent)
    path.write_text("a,b\n")
    with pytest.raises(StudyError, match=r"anna\.csv holds no answers"):
        read_answers(path.parent)


def test_a_strangers_file_under_a_raters_name_stays_as_it_is_and_no_study_starts_on_it(run_dir):
    items, folder = load_items(run_dir), run_dir / "user_study"
    folder.mkdir(exist_ok=True)
    (folder / "anna.csv").write_text("a table of\nsomebody, without an end")
    with pytest.raises(StudyError, match=r"anna\.csv holds no answers"):
        add_answer(folder, "anna", comparisons(items, "anna")[0], "left")
    assert (folder / "anna.csv").read_text() == "a table of\nsomebody, without an end"
    with pytest.raises(StudyError, match=r"anna\.csv holds no answers"):
        Study(items, folder)


@pytest.mark.parametrize(
    "row",
    [
        b"ben,image_to_3d,007,other,quality,other,other",
        b"anna,no_task,007,other,quality,other,other",
        b"anna,image_to_3d,007,VFusion3D,quality,VFusion3D,VFusion3D",
        b"anna,image_to_3d,007,other,beauty,other,other",
        b"anna,image_to_3d,0\x0007,other,quality,other,other",
        b"anna,image_to_3d,007\xff,other,quality,other,other",
        b"anna,image_to_3d,../007,other,quality,other,other",
        b'anna,"image_to_3d,007,other,quality,other,other',
        b"anna,image_to_3d,007,other,quality,other,other,other",
        b"anna,image_to_3d\r,007,other,quality,other,other",
        b"",
    ],
)
def test_a_line_that_is_no_answer_of_this_rater_is_named(tmp_path, row):
    good = b"anna,image_to_3d,007,other,quality,other,other"
    file = tmp_path / "anna.csv"
    file.write_bytes(b"\n".join([",".join(COLUMNS).encode(), good, row, good, b""]))
    with pytest.raises(StudyError, match=r"anna\.csv, line 3") as error:
        read_answers(tmp_path)
    assert str(error.value).isprintable()


CELLS = st.sampled_from([*COLUMNS, "anna", "image_to_3d", "007", "other", "quality", OURS, "", "\0", "a\tb"])
LINES = st.lists(CELLS | st.text(max_size=5), max_size=9).map(",".join)


@given(st.binary(max_size=80) | st.lists(LINES, max_size=5).map(lambda lines: "\n".join([*lines, ""]).encode()))
@example(b",".join(name.encode() for name in COLUMNS) + b"\nanna,image_to_3d,007,other,quality,other,VFusion3D\n")
def test_any_file_of_answers_gives_answers_or_an_error_that_names_it(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any answers" / "anna.csv"
    file.parent.mkdir(exist_ok=True)
    for data in (content, ",".join(COLUMNS).encode() + b"\n" + content):
        file.write_bytes(data)
        try:
            answers = read_answers(file.parent)
        except StudyError as error:
            assert str(file) in str(error)  # noqa: PT017
            assert str(error).isprintable()  # noqa: PT017
        else:
            assert len(answers) <= data.count(b"\n")
            assert set(answers.rater) <= {"anna"}


# The results


def votes(**of_item: str) -> pd.DataFrame:
    """Answers to quality: for each item a word of "o" (ours) and "t" (theirs), a letter a rater."""
    rows = [
        (f"rater{n}", "image_to_3d", key, "other", "quality", OURS, OURS if letter == "o" else "other")
        for key, word in of_item.items()
        for n, letter in enumerate(word)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_the_majority_wins_and_a_tie_is_half_a_win():
    items = majority(votes(a="ooott", b="ttttt", c="oott", d="o")).set_index("key")
    assert items.win.to_dict() == {"a": 1.0, "b": 0.0, "c": 0.5, "d": 1.0}
    assert items.agreement.to_dict() == {"a": 0.6, "b": 1.0, "c": 0.5, "d": 1.0}
    assert items.raters.to_dict() == {"a": 5, "b": 5, "c": 4, "d": 1}
    (rate,) = win_rates(votes(a="ooott", b="ttttt", c="oott", d="o"), np.random.default_rng(0)).rate
    assert rate == 62.5


def test_the_interval_is_that_of_a_binomial_share():
    answers = votes(**{f"item{n}": "ooo" if n < 160 else "ttt" for n in range(200)})
    (row,) = win_rates(answers, np.random.default_rng(0)).itertuples()
    half = 100 * 1.96 * math.sqrt(0.8 * 0.2 / 200)
    assert row.rate == 80
    assert row.low == pytest.approx(80 - half, abs=0.8)
    assert row.high == pytest.approx(80 + half, abs=0.8)


def test_raters_are_no_items_more_of_them_do_not_narrow_the_interval():
    few, many = (votes(**{f"item{n}": (("o" if n % 4 else "t") * count) for n in range(40)}) for count in (1, 9))
    widths = [(row.high - row.low).item() for row in (win_rates(v, np.random.default_rng(0)) for v in (few, many))]
    assert widths[0] == widths[1] > 10


def test_no_answers_are_an_error(tmp_path):
    with pytest.raises(StudyError, match="nobody has answered yet"):
        win_rates(read_answers(tmp_path), np.random.default_rng(0))


def test_the_figure_shows_the_papers_rates_and_ours_and_says_who_the_raters_were():
    answers = pd.concat([votes(a="ooo", b="ttt", c="ooo", d="ooo"), votes(a="ooo").assign(question="faithfulness")])
    ours = win_rates(answers, np.random.default_rng(0))
    figure = plot_win_rates(paper_table("figure_5").rows, ours, "five cats")
    (axes,) = figure.axes
    heights = [bar.get_height() for bars in axes.containers[::1] if hasattr(bars, "patches") for bar in bars.patches]
    assert sorted(heights) == sorted([93.8, 92.3, 90.8, 93.8, 75.0, 100.0])
    texts = [text.get_text() for text in axes.texts]
    assert "five cats" in texts
    assert "75.0" in texts


# Simulated raters


def test_videos_are_read_frame_by_frame_in_colour(run_dir):
    video = read_video(run_dir / "views" / "image_to_3d" / "other" / "12.mp4")
    assert video.shape == (6, 3, 32, 32)
    assert (video.mean(dim=(0, 2, 3)) - torch.tensor(GREEN) / 255).abs().max() < 0.03


def colour(images):
    """Knows the mean colour of a picture, and nothing else."""
    return images.mean(dim=(2, 3))


def plain(colour, size=8):
    return (torch.tensor(colour) / 255)[None, :, None, None].expand(1, 3, size, size)


def test_simulated_raters_choose_what_is_nearer_to_the_picture_and_to_what_is_real(run_dir):
    items = load_items(run_dir)
    sure = {"agreement": 0.999999}
    answers = simulate_raters(items, colour, plain(GREEN), np.random.default_rng(0), **sure)
    assert len(answers) == 5 * 8
    assert set(answers[answers.question == "faithfulness"].winner) == {OURS}  # red, as the pictures
    assert set(answers[answers.question == "quality"].winner) == {"other"}  # green, as what is real here
    answers = simulate_raters(items, colour, plain(RED), np.random.default_rng(0), **sure)
    assert set(answers.winner) == {OURS}


@pytest.mark.parametrize("agreement", [0.55, 0.68, 0.9])
def test_simulated_raters_agree_as_often_as_they_are_told_to(run_dir, agreement):
    items = load_items(run_dir)
    first, second, other = (
        simulate_raters(items, colour, plain(RED), np.random.default_rng(s), raters=300, agreement=agreement)
        for s in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(first, second)
    assert (first.winner != other.winner).any()
    votes = first.groupby(["task", "key", "baseline", "question"])["winner"].agg(lambda won: (won == OURS).mean())
    assert (votes**2 + (1 - votes) ** 2).mean() == pytest.approx(agreement, abs=0.03)


def test_the_error_is_that_of_the_closed_form_for_equal_margins():
    # of margins that are all m, two raters agree with p^2 + (1 - p)^2 where p = Phi(m / error)
    p = (1 + math.sqrt(2 * 0.68 - 1)) / 2
    assert error_for(np.full(5, 3.0), 0.68) == pytest.approx(3.0 / norm.ppf(p), rel=1e-6)
    assert error_for(np.zeros(5), 0.68) == 1.0
    with pytest.raises(ValueError, match=r"above 0\.5 and below 1, not 0\.5"):
        simulate_raters([], colour, plain(RED), np.random.default_rng(0), agreement=0.5)
