"""A headless Chromium, driven over its debugging protocol by tornado's websocket: no driver has to be installed."""

import asyncio
import base64
import itertools
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

from tornado.websocket import websocket_connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATH = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ("--headless=new", "--no-sandbox", "--enable-unsafe-swiftshader", "--remote-debugging-port=0", "--no-first-run")


class Browser:
    """One tab of a browser, which keeps its profile and downloads in `folder`."""

    def __init__(self, folder: Path, size: tuple[int, int] = (1100, 900), dark: bool = False):
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        self.requests: list[str] = []
        self.problems: list[str] = []
        self._loop, self._ids = asyncio.new_event_loop(), itertools.count(1)
        command = [PATH, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        found = next(found for line in self._process.stderr if (found := re.search(r"ws://\S+", line)))
        self._socket = self._run(websocket_connect, found[0])
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "DOM", "Log"):
            self.call(f"{domain}.enable")
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        where = {"downloadPath": str(self.downloads), "eventsEnabled": True}
        self.call("Browser.setDownloadBehavior", behavior="allow", **where)

    def _run(self, call, *given):
        async def answered():
            return await asyncio.wait_for(call(*given), 60)

        return self._loop.run_until_complete(answered())

    def call(self, method: str, **given):
        """A command of the protocol, and what it comes to."""
        number = next(self._ids)
        sent = {"id": number, "method": method, "params": given}
        if hasattr(self, "_session"):
            sent["sessionId"] = self._session
        self._run(self._socket.write_message, json.dumps(sent))
        while True:
            said = json.loads(self._run(self._socket.read_message))
            if said.get("id") == number:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']}")
                return said["result"]
            self._heard(said.get("method"), said.get("params", {}))

    def _heard(self, event: str, what: dict) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
        if event == "Runtime.exceptionThrown":
            self.problems.append(what["exceptionDetails"].get("exception", {}).get("description", str(what)))
        if event == "Log.entryAdded" and what["entry"]["level"] == "error":
            self.problems.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def js(self, expression: str):
        """The value of JavaScript in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = 60):
        """Until this is true of the page."""
        end = time.monotonic() + seconds
        while not (value := self.js(expression)):
            assert time.monotonic() < end, (
                f"not within {seconds:.0f} s: {expression}; {self.js('document.body.innerText')}"
            )
            time.sleep(0.1)
        return value

    def middle(self, selector: str) -> tuple[float, float]:
        """Where an element is on the screen, scrolled to."""
        self.js(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        return tuple(
            self.js(
                f"(() => {{const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
                "return [b.x + b.width / 2, b.y + b.height / 2]})()"
            )
        )

    def drop(self, files: list[Path], selector: str) -> None:
        """Drop files from the desktop."""
        x, y = self.middle(selector)
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at one place, and release it at another."""
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def click(self, selector: str) -> None:
        place = self.middle(selector)
        self.drag(place, place)

    def press(self, key: str) -> None:
        text = {"Enter": "\r", " ": " "}.get(key)
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowLeft": 37, "ArrowRight": 39}
        for event in (down, {"type": "keyUp"}):
            self.call("Input.dispatchKeyEvent", key=key, windowsVirtualKeyCode=codes[key], **event)

    def downloaded(self, name: str, seconds: float = 60) -> Path:
        """A file that the page handed out, when it is there whole."""
        end = time.monotonic() + seconds
        while not (self.downloads / name).exists():
            assert time.monotonic() < end, f"{name} did not come, but {list(self.downloads.iterdir())}"
            self.js("1")
            time.sleep(0.1)
        return self.downloads / name

    def screenshot(self, file: Path, whole: bool = True) -> None:
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(taken["data"]))

    def close(self) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(10)
        self._process.stderr.close()
        self._loop.close()
