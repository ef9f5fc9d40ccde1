"""`vfusion3d app`: the page that makes 3D assets of pictures, with and without a browser."""

import http.client
import io
import json
import threading
import time
import zipfile
from urllib.parse import quote, urlencode

import chromium
import imageio_ffmpeg
import numpy as np
import pytest
import trimesh
from PIL import Image

from vfusion3d.app import workshop
from vfusion3d.app.server import LARGEST, app_server
from vfusion3d.app.workshop import FILES, KEPT, Workshop
from vfusion3d.foundations.background_removal import ImageError, cut_out

RED, BLUE = (200, 40, 90), (40, 60, 220)


@pytest.fixture
def serve(weights, monkeypatch):
    """Starts the page's server, with a tiny model and videos of 4 frames."""
    monkeypatch.setattr(workshop, "TURN", 4)
    running = []

    def start(host="127.0.0.1", **how):
        shop = Workshop([weights], device="cpu", **{"resolution": 16, "video_size": 16} | how)
        server = app_server(shop, host=host)
        shop.folders = not server.token
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append((server, shop))
        return Page(server.server_port, server, shop)

    yield start
    for server, shop in running:
        server.shutdown()
        server.server_close()
        shop.close()


class Page:
    """What the page's script does, without a browser."""

    def __init__(self, port, server, shop):
        self.port, self.server, self.shop = port, server, shop

    def ask(self, method, path, body=None, **headers):
        """The status, the headers, and the body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.headers, content

    def get(self, path, **query):
        status, _, content = self.ask("GET", f"{path}?{urlencode(query)}")
        assert status == 200, content
        return content

    def post(self, path, **sent):
        status, _, content = self.ask("POST", path, json.dumps(sent))
        assert status == 200, content
        return json.loads(content)

    def refused(self, path, **sent):
        """The error of a request that is refused for what it says."""
        status, _, content = self.ask("POST", path, json.dumps(sent))
        assert status == 400, content
        return json.loads(content)["error"]

    def send(self, content, name="a toy.png"):
        status, _, said = self.ask("POST", f"/picture?name={quote(name)}", content)
        return status, json.loads(said)

    def cut(self, name, background="auto", threshold=None, box=None):
        return self.post("/cut", id=name, background=background, threshold=threshold, box=box)

    def finished(self, name):
        end = time.monotonic() + 60
        while (state := json.loads(self.get("/state", id=name)))["state"] in ("waiting", "working"):
            assert time.monotonic() < end
            time.sleep(0.02)
        return state

    def made(self, weights, content):
        """A picture's id, when it is an object."""
        name = self.send(content)[1]["id"]
        self.cut(name)
        self.post("/make", id=name, weights=weights, elevation=None)
        assert self.finished(name)["state"] == "done"
        return name


def png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def two_things() -> np.ndarray:
    """A red thing on the left and a blue one on the right, on white."""
    pixels = np.full((80, 120, 3), 255, np.uint8)
    pixels[20:60, 15:45] = RED
    pixels[25:55, 75:105] = BLUE
    return pixels


@pytest.fixture
def toy() -> bytes:
    return png(two_things())


def test_a_picture_becomes_every_file_and_a_view_to_turn(serve, weights, toy):
    page = serve()
    status, sent = page.send(toy)
    assert (status, sent["name"]) == (200, "a toy.png")
    name = sent["id"]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(page.get("/picture", id=name))))[..., :3], two_things())
    assert page.cut(name) == {"background": "plain", "notices": ["2 separate parts are taken as one object"]}
    cut = np.asarray(Image.open(io.BytesIO(page.get("/cut", id=name))))
    assert np.array_equal(cut[..., 3] > 127, (two_things() != 255).any(-1))
    expected = page.post("/elevation", id=name, weights=weights)
    assert expected == {"degrees": pytest.approx(np.degrees(0.3), abs=0.05), "estimated": False}
    page.post("/make", id=name, weights=weights, elevation=-12)
    made = page.finished(name)
    assert (made["state"], made["elevation"]) == ("done", -12)

    files = {}
    for suffix in FILES:
        page.post("/export", id=name, suffix=suffix)
        assert page.finished(name) == {"state": "done", "file": suffix}
        status, headers, files[suffix] = page.ask("GET", f"/file?{urlencode({'id': name, 'suffix': suffix})}")
        assert (status, headers["Content-Type"]) == (200, FILES[suffix])
        assert headers["Content-Disposition"] == f'attachment; filename="a_toy{suffix}"'
    for suffix in (".glb", ".ply", ".stl"):
        mesh = trimesh.load(io.BytesIO(files[suffix]), file_type=suffix[1:], force="mesh")
        assert len(mesh.faces) == made["faces"] > 0
    with zipfile.ZipFile(io.BytesIO(files[".zip"])) as pack:
        assert sorted(pack.namelist()) == ["a_toy.mtl", "a_toy.obj", "a_toy_texture.png"]
        assert b"mtllib a_toy.mtl" in pack.read("a_toy.obj")
    video = page.shop.picture(name).folder / "again.mp4"
    video.write_bytes(files[".mp4"])
    assert imageio_ffmpeg.count_frames_and_secs(str(video))[0] == 4

    view = page.get(f"/view/{name}/viewer.html").decode()
    assert 'src="viewer.js"' in view
    assert b"THREE" in page.get(f"/view/{name}/viewer.js")
    assert "http" not in view.replace("http://www.w3.org", "")


def test_what_lies_outside_of_the_box_is_background(serve, toy):
    page = serve()
    name = page.send(toy)[1]["id"]
    assert page.cut(name, box=[0.5, 0.2, 1, 0.8])["notices"] == []
    cut = np.asarray(Image.open(io.BytesIO(page.get("/cut", id=name))))
    assert (cut[..., 3] > 127).sum() == 30 * 30
    assert np.allclose(cut[cut[..., 3] > 127][:, :3], BLUE, atol=1)


@pytest.mark.parametrize("background", ["plain", "alpha", "grabcut", "rembg", "keep"])
def test_a_box_holds_whatever_way_the_background_goes(background, monkeypatch):
    pixels = np.dstack([two_things(), np.where((two_things() != 255).any(-1), 255, 0).astype(np.uint8)])
    seen = "vfusion3d.foundations.background_removal.object_mask"
    monkeypatch.setattr(seen, lambda session, rgb: (rgb != 255).any(-1).astype(np.float32))
    tight = (75 / 120, 25 / 80, 105 / 120, 55 / 80)
    cut = np.asarray(cut_out(Image.fromarray(pixels), background, box=tight, session=object()).rgba)
    solid = cut[..., 3] > 127
    assert solid.sum() == pytest.approx(30 * 30, rel=0.1)
    assert np.allclose(cut[solid][:, :3].mean(0), BLUE, atol=3)


def test_a_threshold_decides_what_half_opaque_pixels_are():
    pixels = np.zeros((60, 60, 4), np.uint8)
    pixels[10:50, 10:30] = (*RED, 255)
    pixels[10:50, 30:50] = (*BLUE, 100)  # 39 % opaque
    image = Image.fromarray(pixels)
    opaque = {t: np.asarray(cut_out(image, threshold=t).rgba.getchannel("A")) for t in (None, 0.2, 0.36, 0.6)}
    assert opaque[None][30, 40] == 100
    assert opaque[0.2][30, 40] == 255
    assert abs(opaque[0.36][30, 40] - 255 * (0.5 + (100 / 255 - 0.36) / 0.2)) < 1
    assert opaque[0.6][30, 40] == 0
    assert all(alpha[30, 20] == 255 for alpha in opaque.values())


@pytest.mark.parametrize(
    "box", [(0.5, 0, 0.5, 1), (0.9, 0, 0.1, 1), (-1, 0, 1, 1), (0, 0, 1, 2), (float("nan"), 0, 1, 1)]
)
def test_a_box_that_is_none_is_refused(box):
    with pytest.raises(ValueError, match="left, top, right, bottom"):
        cut_out(Image.fromarray(two_things()), box=box)
    with pytest.raises(ImageError, match="draw a larger one"):
        cut_out(Image.fromarray(two_things()), "keep", box=(0, 0, 0.01, 0.01))


def test_errors_are_one_sentence_and_the_next_picture_works(serve, weights, toy):
    page = serve()
    assert page.send(b"no picture", "letter.doc") == (
        400,
        {"error": "letter.doc: is not a picture this can read; save it as PNG or JPEG"},
    )
    assert page.send(b"", "../../<b>.png")[1]["error"].endswith("is empty (0 bytes); download or export it again")
    wall = page.send(png(np.full((64, 64, 3), 255, np.uint8)), "wall.png")[1]["id"]
    assert page.refused("/cut", id=wall, background="auto", threshold=None, box=None).startswith("wall.png: no object")
    assert "not cut out yet" in page.refused("/make", id=wall, weights=weights, elevation=None)
    name = page.send(toy)[1]["id"]
    assert "make it first" in page.refused("/export", id=name, suffix=".glb")
    assert "choose one of auto" in page.refused("/cut", id=name, background="magic", threshold=None, box=None)
    assert "threshold" in page.refused("/cut", id=name, background="auto", threshold=7, box=None)
    assert "box must be a list of 4" in page.refused("/cut", id=name, background="auto", threshold=None, box=[1, 2])
    assert "left, top" in page.refused("/cut", id=name, background="auto", threshold=None, box=[1, 1, 0, 0])
    page.cut(name)
    assert "between -90 and 90" in page.refused("/make", id=name, weights=weights, elevation=90)
    assert "is no folder on this machine" in page.refused("/make", id=name, weights="facebook/vfusion3d", elevation=0)
    assert page.refused("/make", id="0" * 12, weights=weights, elevation=0) == (
        "this picture is not kept any more; choose it again"
    )
    page.post("/make", id=name, weights=weights, elevation=None)
    assert page.finished(name)["state"] == "done"
    assert ".glb" in page.refused("/export", id=name, suffix="/../../etc/passwd")


def test_weights_that_cannot_be_loaded_are_a_sentence_and_end_nothing(serve, weights, toy, tmp_path):
    page = serve()
    name = page.send(toy)[1]["id"]
    page.cut(name)
    page.post("/make", id=name, weights=str(tmp_path), elevation=None)
    failed = page.finished(name)
    assert (failed["state"], "config.json" in failed["error"], "\n" in failed["error"]) == ("failed", True, False)
    page.post("/make", id=name, weights=weights, elevation=None)
    assert page.finished(name)["state"] == "done"


def test_a_picture_that_is_too_large_is_refused_before_it_is_read(serve):
    page = serve()
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    connection.putrequest("POST", "/picture?name=a.png")
    connection.putheader("Content-Length", str(LARGEST + 1))
    connection.endheaders()  # and nothing of it is sent
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["error"]) == (
        413,
        "a picture may have 32 MB at most; reduce it first",
    )
    connection.close()
    for path in ("/cut", "/make", "/choices", "/"):
        assert 400 <= page.ask("POST", path, b"x" * 900_000)[0] < 500


def test_whatever_is_sent_is_an_error_without_a_trace(serve, toy, capfd):
    page = serve()
    name = page.send(toy)[1]["id"]
    for path in ("/cut", "/elevation", "/make", "/export", "/stop"):
        for body in (b"", b"[1]", b"\xff", b"[" * 9000, b'{"id": 1}', b'{"id": "x", "evil": 1}', b'{"id": NaN}'):
            status, _, said = page.ask("POST", path, body)
            assert (status, b"Traceback" in said) == (400, False), (path, body)
    for path in (
        *(f"/file?id={name}&suffix=.glb", f"/file?id={name}&suffix=/../picture", f"/view/{name}/viewer.html"),
        *(f"/view/{name}/picture", f"/view/{name}/../../etc/passwd", "/view/x/viewer.js", "/state", "/picture?id=%ff"),
        f"/cut?id={name}",
    ):
        status, _, said = page.ask("GET", path)
        assert 400 <= status < 500, path
        assert b"Traceback" not in said
    assert capfd.readouterr().err == ""


def test_other_pages_cannot_ask_and_only_the_page_itself_frames_the_view(serve, weights, toy):
    page = serve()
    name = page.made(weights, toy)
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Sec_Fetch_Site": "cross-site"}):
        for path in ("/picture?name=a.png", "/cut", "/make"):
            assert page.ask("POST", path, toy, **headers)[0] == 403
    for path in ("/", "/choices", f"/state?id={name}", f"/file?id={name}&suffix=.glb"):
        assert page.ask("GET", path)[1]["X-Frame-Options"] == "DENY"
    policy = page.ask("GET", f"/view/{name}/viewer.html")[1]["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'self'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_beyond_this_machine_a_token_is_needed_and_no_other_folder_can_be_named(serve, toy, tmp_path):
    page = serve("0.0.0.0")
    for path in ("/", "/choices", "/state?id=x"):
        assert page.ask("GET", path)[0] == 403
    assert page.ask("POST", "/picture?name=a.png", toy)[0] == 403
    status, headers, _ = page.ask("GET", "/?token=" + page.server.token)
    assert (status, headers["Location"]) == (303, "/")
    cookie = headers["Set-Cookie"].partition(";")[0]
    name = json.loads(page.ask("POST", "/picture?name=a.png", toy, Cookie=cookie)[2])["id"]
    sent = json.dumps({"id": name, "weights": str(tmp_path)})
    status, _, said = page.ask("POST", "/elevation", sent, Cookie=cookie)
    assert (status, "as the page was started with" in json.loads(said)["error"]) == (400, True)
    assert str(tmp_path) not in said.decode()
    assert not json.loads(page.ask("GET", "/choices", Cookie=cookie)[2])["folders"]


def test_only_the_last_pictures_are_kept_and_nothing_outlives_the_page(serve, toy):
    page = serve()
    names = [page.send(toy)[1]["id"] for _ in range(KEPT + 2)]
    assert [page.ask("GET", f"/picture?id={name}")[0] for name in names] == [400] * 2 + [200] * KEPT
    home = page.shop.picture(names[-1]).folder.parent
    assert len(list(home.iterdir())) == KEPT
    page.shop.close()
    assert not home.exists()


def test_a_video_can_be_stopped_and_two_works_on_one_picture_are_not_begun(serve, weights, toy, monkeypatch):
    page = serve()
    name = page.made(weights, toy)
    begun, go_on = threading.Event(), threading.Event()

    def turntable(asset, path, frames, size, progress):
        for _ in range(frames):
            begun.set()
            assert go_on.wait(30)
            progress()

    monkeypatch.setattr("vfusion3d.model.asset.Asset.turntable", turntable)
    page.post("/export", id=name, suffix=".mp4")
    assert begun.wait(30)
    assert json.loads(page.get("/state", id=name)) == {
        "state": "working",
        "doing": "making the video",
        "done": 0,
        "steps": 4,
    }
    assert "worked on already" in page.refused("/export", id=name, suffix=".glb")
    page.post("/stop", id=name)
    go_on.set()
    assert page.finished(name) == {"state": "stopped"}
    page.post("/export", id=name, suffix=".stl")
    assert page.finished(name)["state"] == "done"


@pytest.mark.skipif(chromium.PATH is None, reason="there is no Chromium on this machine")
def test_in_a_browser_from_a_dropped_picture_to_a_glb_with_no_address_but_the_pages(serve, toy, tmp_path):
    (tmp_path / "a toy.png").write_bytes(toy)
    (tmp_path / "letter.png").write_text("no picture")
    page = serve()
    browser = chromium.Browser(tmp_path / "browser")
    try:
        browser.open(page.server.address())
        browser.wait("choices")
        browser.drop([tmp_path / "letter.png"], "#drop")
        browser.wait("at('error').textContent.startsWith('Letter.png: is not a picture')")
        assert len(browser.problems) == 1  # the 400
        browser.drop([tmp_path / "a toy.png"], "#drop")
        browser.wait("isCut")
        left, top, width, height = browser.js(
            "(() => {at('on').scrollIntoView({block: 'center'});"
            "const b = at('picture').getBoundingClientRect(); return [b.x, b.y, b.width, b.height]})()"
        )
        browser.drag((left + 0.5 * width, top + 0.2 * height), (left + 0.95 * width, top + 0.8 * height))
        browser.wait("box && isCut && at('notices').children.length === 0")
        assert browser.js("box") == pytest.approx([0.5, 0.2, 0.95, 0.8], abs=0.03)
        browser.wait("at('estimated').textContent === 'as the weights expect: 17 degrees'")
        browser.js("at('make').focus()")
        browser.press("Enter")
        browser.wait("!at('result').hidden && at('view').contentWindow.controls && !at('make').disabled")
        where = "at('view').contentWindow.camera.position.toArray()"
        before = browser.js(where)
        browser.click("#view")
        browser.press("ArrowLeft")
        browser.wait(f"Math.abs({where}[0] - {before[0]}) > .01")
        assert np.linalg.norm(browser.js(where)) == pytest.approx(np.linalg.norm(before), rel=0.05)
        browser.click("#files button")
        mesh = trimesh.load(browser.downloaded("a_toy.glb"), force="mesh")
        assert f"{len(mesh.faces):,} faces" in browser.js("at('about').textContent")
        assert browser.js("at('error').textContent") == ""
        browser.drop([tmp_path / "letter.png"], "#drop")  # what is on the page stays
        browser.wait("at('error').textContent.startsWith('Letter.png')")
        assert browser.js("isCut && !at('make').disabled && !at('result').hidden && picture.name") == "a toy.png"
        assert len(browser.problems) == 2, browser.problems
        assert {url for url in browser.requests if not url.startswith((page.server.address(), "data:"))} == set()
    finally:
        browser.close()
