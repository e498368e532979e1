"""A headless Chromium, driven through its debugging pipe: requests and answers are JSON that ends with a NUL byte."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time

import pytest

_FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
          "--disable-background-networking", "--remote-debugging-pipe"]  # fmt: skip


class Browser:
    """One page."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._buffer, self._number, self._session = b"", 0, None
        self.events: list[dict] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _receive(self):
        while b"\0" not in self._buffer:
            part = os.read(self._read, 1 << 16)
            assert part, "the browser has ended"
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def evaluate(self, expression: str):
        """Returns the value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 60.0):
        """Waits until an expression has a true value, and returns it; one that fails on half a page has none."""
        end = time.monotonic() + seconds
        expression = f"(() => {{ try {{ return {expression}; }} catch {{ return false; }} }})()"
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.05)
        return value

    def screenshot(self) -> bytes:
        """Returns the page as a PNG."""
        import base64

        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])


@contextlib.contextmanager
def opened(profile):
    """Starts a browser with a fresh profile; skips where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    to_browser, from_browser = os.pipe(), os.pipe()
    # The browser reads descriptor 3 and writes descriptor 4.
    read, write = (fcntl.fcntl(each, fcntl.F_DUPFD, 20) for each in (to_browser[0], from_browser[1]))
    redirected = f'exec "$0" "$@" 3<&{read} 4>&{write}'
    process = subprocess.Popen(
        ["bash", "-c", redirected, program, *_FLAGS, f"--user-data-dir={profile}"], pass_fds=(read, write),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for each in (to_browser[0], from_browser[1], read, write):
        os.close(each)
    try:
        yield Browser(to_browser[1], from_browser[0])
    finally:
        process.kill()
        process.wait(30)
        os.close(to_browser[1])
        os.close(from_browser[0])
