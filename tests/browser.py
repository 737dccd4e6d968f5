"""A real headless browser without a driver: Chromium's DevTools protocol over two pipes.

A page is opened from a file, and everything it says or asks for is kept: console messages, exceptions, requests.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions", "--disable-dev-shm-usage",
)  # fmt: skip
PATIENCE = 60.0  # seconds


def find_browser() -> str | None:
    """Path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page of a running browser.

    Attributes:
        said: console messages and exceptions.
        requests: addresses asked for.
    """

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.said: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol, and its answer."""
        return self._browser.call(method, parameters, self._session)

    def open(self, path: Path | str, width: int, dark: bool = False) -> None:
        """Load a file or an address at a width in pixels, in light or dark colours, and wait until all of it is there."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._browser.loaded.discard(self._session)
        answer = self.call("Page.navigate", url=path if isinstance(path, str) else path.resolve().as_uri())
        assert "errorText" not in answer, answer
        self._browser.wait(lambda: self._session in self._browser.loaded)

    def until(self, expression: str) -> None:
        """Wait until an expression holds."""
        limit = time.monotonic() + PATIENCE
        while not self.value(expression):
            assert time.monotonic() < limit, (expression, self.said, self.value("document.body.innerText"))
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """What an expression gives in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))


class Browser:
    """A running browser, spoken to over pipes; messages end in a zero byte."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, back: int) -> None:
        self._process, self._to, self._back = process, to, back
        self._buffer, self._number = b"", 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}
        self.loaded: set[str] = set()

    def call(self, method: str, parameters: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        self.wait(lambda: number in self._answers)
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def wait(self, done: Any) -> None:
        """Read messages until `done()`."""
        limit = time.monotonic() + PATIENCE
        while not done():
            left = limit - time.monotonic()
            assert left > 0 and self._process.poll() is None, (
                f"the browser ended or is silent (exit code {self._process.poll()})"
            )
            if select.select([self._back], [], [], min(left, 1.0))[0]:
                self._buffer += os.read(self._back, 1 << 20)
                *whole, self._buffer = self._buffer.split(b"\0")
                for text in whole:
                    self._take(json.loads(text))

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
            return
        method, told, page = message["method"], message["params"], self._pages.get(message.get("sessionId", ""))
        if method == "Page.loadEventFired":
            self.loaded.add(message["sessionId"])
        elif page is None:
            return
        elif method == "Network.requestWillBeSent":
            page.requests.append(told["request"]["url"])
        elif method == "Runtime.consoleAPICalled":
            page.said.append(" ".join(str(each.get("value", each)) for each in told["args"]))
        elif method == "Runtime.exceptionThrown":
            page.said.append(told["exceptionDetails"]["text"])
        elif method == "Log.entryAdded":
            page.said.append(told["entry"]["text"])

    def page(self) -> Page:
        """A new empty page."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = Page(self, session)
        self._pages[session] = page
        return page


@contextmanager
def browser(program: str, *flags: str) -> Iterator[Browser]:
    """A browser, with more flags if there are some, that ends with the block."""
    read_end, to = os.pipe()
    back, write_end = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # The protocol wants the file descriptors 3 and 4.
        script = f'exec "$@" 3<&{read_end} 4>&{write_end}'
        command = ["bash", "-c", script, "browser", program, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, pass_fds=(read_end, write_end), **quiet)  # type: ignore[call-overload]
        os.close(read_end)
        os.close(write_end)
        try:
            yield Browser(process, to, back)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(to)
            os.close(back)
