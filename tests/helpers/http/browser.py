"""A headless Chromium that tests drive as a person does: keys, clicks, and looking at the page.

It speaks the browser's own protocol (CDP) over a WebSocket. Chromium may be missing: `find_browser`
gives None then, and tests skip themselves by name.
"""

import asyncio
import base64
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from tornado.websocket import WebSocketClientConnection, websocket_connect

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_SECONDS = 240.0
_QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-quic"),
    *("--hide-scrollbars", "--remote-debugging-port=0", "--force-device-scale-factor=1"),
)
_CODES = {"Enter": "\r", "Escape": "", "Tab": ""}
_NUMBERS = {
    **{"Enter": 13, "Escape": 27, "Tab": 9, "End": 35, "Home": 36},
    **{"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40},
}


def find_browser() -> str | None:
    """The path of a Chromium or Chrome; None if there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


async def _connected(url: str) -> WebSocketClientConnection:
    return await websocket_connect(url, max_message_size=1 << 30)


class BrowserError(Exception):
    """The page raised an error, or what was waited for did not come."""


class Chromium:
    """A running browser, which many pages can share. A context manager, which ends it.

    `profile` is a folder for its files. `url` is where the protocol is spoken.
    """

    def __init__(self, program: str, profile: Path) -> None:
        self._profile = profile
        self._process = subprocess.Popen(
            [program, *_QUIET, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port, path = self._address()
        self.url = f"ws://127.0.0.1:{port}{path}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _address(self) -> tuple[str, str]:
        file = self._profile / "DevToolsActivePort"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            lines = file.read_text().split() if file.is_file() else []
            if len(lines) == 2:
                return lines[0], lines[1]
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise BrowserError("the browser did not start")
            time.sleep(0.05)


class Browser:
    """One page, with cookies, storage and cache of its own, as a private window has.

    A context manager, which closes the page.
    """

    def __init__(self, chromium: Chromium) -> None:
        self._loop = asyncio.new_event_loop()
        self._last_id = 0
        self._session: str | None = None
        self.problems: list[str] = []
        """Errors of scripts, refused resources and other complaints of the page, in order."""
        self._socket = self._loop.run_until_complete(_connected(chromium.url))
        context = self.call("Target.createBrowserContext", disposeOnDetach=True)
        own = {"browserContextId": context["browserContextId"]}
        page = self.call("Target.createTarget", url="about:blank", **own)["targetId"]
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        # The clipboard can be read only by a page that has the focus.
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.call(
            "Browser.grantPermissions",
            permissions=["clipboardReadWrite", "clipboardSanitizedWrite"],
            **own,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._close())
        self._loop.close()

    async def _close(self) -> None:
        """Within the loop: another test may have left this thread without one."""
        self._socket.close()

    def call(self, method: str, **parameters: Any) -> Any:
        """One command of the protocol, and its answer."""
        return self._loop.run_until_complete(self._call(method, parameters))

    async def _call(self, method: str, parameters: dict[str, Any]) -> Any:
        self._last_id += 1
        number = self._last_id
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        await self._socket.write_message(json.dumps(message))
        while True:
            received = await asyncio.wait_for(self._socket.read_message(), PATIENCE_SECONDS)
            if received is None:
                raise BrowserError("the browser ended")
            answer = json.loads(received)
            if answer.get("id") == number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            said = details.get("exception", {}).get("description") or details["text"]
            self.problems.append(said)
        elif event.get("method") == "Log.entryAdded":
            entry = parameters["entry"]
            if entry["level"] == "error":
                self.problems.append(f"{entry['text']} {entry.get('url', '')}")

    # What a person does --------------------------------------------------------------------

    def resize(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """The window's size in pixels, light or dark, a phone's screen or not."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Load a page, and wait until its scripts ran."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self.wait("location.href !== 'about:blank' && document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    def wait(self, script: str) -> Any:
        """Wait until an expression is true, and give its value."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                found = self.evaluate(f"(() => {{ return {script}; }})()")
            except BrowserError:
                found = None  # the page is being changed for another
            if found:
                return found
            if time.monotonic() > deadline:
                raise BrowserError(f"never true: {script}; {self.problems}")
            time.sleep(0.02)

    def press(self, *keys: str) -> None:
        """Press keys one after another, by their names in JavaScript."""
        for key in keys:
            text = _CODES.get(key, key if len(key) == 1 else "")
            number = _NUMBERS.get(key, ord(key.upper()) if len(key) == 1 else 0)
            about = {"key": key, "windowsVirtualKeyCode": number, "code": key}
            self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
            self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def type(self, text: str) -> None:
        """Type a text into the field that has the focus."""
        self.call("Input.insertText", text=text)

    def click(self, selector: str, *, text: str = "") -> None:
        """Click the first element of this CSS selector that contains `text`, in its middle.

        Once it is seen there and stands still.
        """
        where = f"""(() => {{
          const found = [...document.querySelectorAll({json.dumps(selector)})]
            .find((each) => each.textContent.includes({json.dumps(text)}));
          if (!found) return null;
          found.scrollIntoView({{ block: "nearest" }});
          const box = found.getBoundingClientRect();
          const place = [box.left + box.width / 2, box.top + box.height / 2];
          return found.contains(document.elementFromPoint(...place)) ? place : null;
        }})()"""
        before, place = None, self.wait(where)
        while place != before:
            before, place = place, self.wait(where)
        about = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **about)

    def clipboard(self) -> str:
        """What was copied last."""
        return str(self.evaluate("navigator.clipboard.readText()"))

    def screenshot(self, file: Path) -> None:
        """Write what is seen as a PNG."""
        body = self.call("Page.captureScreenshot", format="png")["data"]
        file.write_bytes(base64.b64decode(body))
