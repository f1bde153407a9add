"""The demo's server in a process of its own, and a person at a real Chromium."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_SECONDS = 200
#: The command, in a process where looking for or reaching another machine is an error that its log shows. While a file
#: `hold` is in its folder the model waits, while there is one called `fail` it runs out of memory. Takes get a blank
#: picture, unless PICTURES is set: drawing one takes longer than all else.
SERVER = """
import os, socket, sys, time
def guarded(real, place):
    def call(*args, **kwargs):
        host = args[place][0] if isinstance(args[place], tuple) else args[place]
        if host not in ("127.0.0.1", "localhost", "::1", None, ""):
            print("REACHED OUT TO", host, file=sys.stderr, flush=True)
            raise OSError(f"no way out to {host}")
        return real(*args, **kwargs)
    return call
socket.getaddrinfo = guarded(socket.getaddrinfo, 0)
socket.socket.connect = guarded(socket.socket.connect, 1)
from kfjax.making.maker import Maker
def encoded(*args, real=Maker._encoded):
    while os.path.exists("hold"):
        time.sleep(0.02)
    if os.path.exists("fail"):
        raise MemoryError
    return real(*args)
Maker._encoded = encoded
if "PICTURES" not in os.environ:
    from PIL import Image
    from kfjax import plot
    plot.overview = lambda path, *_, **__: Image.new("RGB", (800, 300)).save(path)
from kfjax.cli import main
sys.exit(main(["demo", *sys.argv[1:]]))
"""


class Server:
    """A running `kfjax demo`; `folder` is where its files lie, `said` what it has said on stderr."""

    def __init__(self, process: subprocess.Popen, url: str, temporary: Path, log: Path):
        self.process, self.url, self.temporary, self.log = process, url, temporary, log

    @property
    def folder(self) -> Path:
        [folder] = self.temporary.glob("kfjax-demo-*")
        return folder

    @property
    def said(self) -> str:
        return self.log.read_text()

    def files(self) -> set[str]:
        return {path.name for path in self.folder.rglob("*") if path.is_file()}

    def status(self, path: str, body: bytes | None = None) -> int:
        headers = {"content-type": "application/json"}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, body, headers), timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code


@contextmanager
def serving(temporary: Path, *arguments: str, **variables: str) -> Iterator[Server]:
    temporary.mkdir()
    log = temporary.with_suffix(".log")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)} | variables
    command = [sys.executable, "-c", SERVER, "--port", "0", *arguments]
    with (
        log.open("a") as errors,
        subprocess.Popen(
            command, cwd=temporary, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), f"no server: {log.read_text()}"
            yield Server(process, url, temporary, log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)  # as Ctrl-C does
            process.wait(timeout=30)


@contextmanager
def chromium() -> Iterator["Visitor"]:
    if CHROMIUM is None or shutil.which("chromedriver") is None:
        pytest.skip("Chromium is not installed: apt-get install chromium chromium-driver")
    if importlib.util.find_spec("selenium") is None:
        pytest.skip("selenium is not installed: pip install '.[dev]'")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--mute-audio",
        "--autoplay-policy=no-user-gesture-required", "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
    ):  # fmt: skip
        options.add_argument(argument)
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        visitor = Visitor(driver)
        visitor.sit_at(1280, 900)
        yield visitor
    finally:
        driver.quit()


class Visitor:
    """A person at a browser."""

    def __init__(self, driver):
        self.driver = driver

    def sit_at(self, width: int, height: int) -> None:
        """A screen of so many pixels; a narrow one is a phone's."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def find(self, selector: str):
        return self.driver.find_elements("css selector", selector)

    def wait(self, what, why):
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            if found := what():
                return found
            time.sleep(0.05)
        why = why if isinstance(why, str) else why()
        pytest.fail(f"waited {PATIENCE_SECONDS} s for {why}; the page says: {self.texts('body')}")

    @contextmanager
    def second_window(self) -> Iterator[tuple[str, str]]:
        """Handles of the window there is and of another, which is closed at the end."""
        first = self.driver.current_window_handle
        self.driver.switch_to.new_window("window")
        second = self.driver.current_window_handle
        try:
            yield first, second
        finally:
            if second in self.driver.window_handles:
                self.look_at(second)
                self.close()
            self.look_at(first)

    def look_at(self, window: str) -> None:
        self.driver.switch_to.window(window)

    def close(self) -> None:
        """Closes the window that is looked at, and looks at the one that is left."""
        self.driver.close()
        self.look_at(self.driver.window_handles[0])

    def visit(self, server: Server) -> None:
        self.driver.get(server.url)
        self.wait(lambda: self.find("#make"), "the page")

    def upload(self, path: Path) -> None:
        self.wait(lambda: self.find("#clip input[type=file]"), "the place for a clip")[0].send_keys(str(path))

    def write(self, text: str, where: str = "#prompt") -> None:
        [box] = self.find(f"{where} input:not([type=range]), {where} textarea")
        box.clear()
        box.send_keys(text)

    def press(self) -> None:
        self.wait(lambda: self.find("#make")[0].is_enabled(), "the button")
        self.find("#make")[0].click()

    def texts(self, selector: str) -> list[str]:
        """What is to be read in all the visible elements there are at this moment."""
        script = (
            "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).map(e => e.innerText)"
        )
        return [text.strip() for text in self.driver.execute_script(script, selector)]

    def result(self, words: str) -> bytes:
        """Waits for the result of that name; the file that its download button gives."""
        place = lambda what: f"#result .film {what}, #result .sound {what}"
        self.wait(lambda: words in self.texts(place("label")), f"a result called {words!r}")
        link = self.wait(lambda: self.find(place("a[download]")), "the download")[0]
        with urllib.request.urlopen(link.get_attribute("href"), timeout=30) as answer:
            return answer.read()

    def saved_by(self, selector: str) -> bytes:
        """What a button that downloads would save: it makes a link and clicks on it."""
        watch = "window.saved = null; HTMLAnchorElement.prototype.click = function () { window.saved = this.href }"
        self.driver.execute_script(watch)
        self.driver.execute_script("document.querySelector(arguments[0]).click()", selector)
        address = self.wait(lambda: self.driver.execute_script("return window.saved"), "a link")
        with urllib.request.urlopen(address, timeout=30) as answer:
            return answer.read()

    def message(self, words: str) -> str:
        """Waits for a message with these words; all that the page says, which is then closed."""
        self.wait(lambda: words in "".join(self.texts(".toast-body")), f"a message with {words!r}")
        said = "\n".join(self.texts(".toast-body"))
        self.driver.execute_script("document.querySelectorAll('.toast-close').forEach(close => close.click())")
        self.wait(lambda: not self.texts(".toast-body"), "the messages to close")
        return said

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return self.driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")

    def requests(self) -> set[str]:
        """Addresses of all that the browser asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return {url for url in sent if not url.startswith(("data:", "blob:", "chrome"))}
