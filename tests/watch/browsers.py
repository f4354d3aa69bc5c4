"""A headless Chromium, and a service for it to look at."""

from __future__ import annotations

import http.client
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

import process_guard

DEADLINE_S = 20.0
# As `headway serve`, whatever other subcommands there are.
SERVE = """
import argparse, sys
from headway.serve import command
parser = argparse.ArgumentParser()
command.add_arguments(parser)
sys.exit(command.run(parser.parse_args(sys.argv[1:])))
"""


class Service:
    """A `headway serve` that keeps its state in memory; `tokens` are lines of its token file."""

    def __init__(self, folder: Path, tokens: str = "") -> None:
        self._arguments: list[str] = []
        if tokens:
            file = folder / "tokens"
            file.touch(mode=0o600)
            file.write_text(tokens)
            self._arguments = ["--token-file", str(file)]
        self._log = folder / "log"
        self.port = 0
        self.start()

    def start(self) -> None:
        """Start it, on the port that it had before."""
        command = [sys.executable, "-c", SERVE, "--listen", f"127.0.0.1:{self.port}"]
        with self._log.open("w") as log:
            self.process = process_guard.start([*command, *self._arguments], stdout=log, stderr=log)
        deadline = time.monotonic() + DEADLINE_S
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", self._log.read_text())):
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)
        self.port = int(found[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def limit(self, key: str, quota: str = "2/h", times: int = 1, token: str = "") -> None:
        """Ask for permission."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        for _ in range(times):
            connection.request(
                "POST", "/v1/limit", json.dumps({"key": key, "quota": quota}), headers
            )
            response = connection.getresponse()
            assert response.status == 200, response.read()
            response.read()
        connection.close()

    def stop(self) -> None:
        process_guard.end(self.process)


class Browser:
    """One window; `open` begins anew, with nothing kept."""

    def __init__(self, chromium: str, driver: str, folder: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-quic",
            f"--user-data-dir={folder}",
        ):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Driver(driver))

    def open(self, url: str, *, width: int = 1280, dark: bool = False) -> None:
        # A tab of its own has a session storage of its own.
        old = self.driver.current_window_handle
        self.driver.switch_to.new_window("tab")
        new = self.driver.current_window_handle
        self.driver.switch_to.window(old)
        self.driver.close()
        self.driver.switch_to.window(new)
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setDeviceMetricsOverride", size)
        self.cdp("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.complaints()
        self.driver.get(url)

    def cdp(self, command: str, arguments: dict[str, Any]) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)

    def complaints(self) -> list[str]:
        """What the browser has said since it was last asked, but for answers that are errors."""
        said = [entry["message"] for entry in self.driver.get_log("browser")]
        return [message for message in said if "Failed to load resource" not in message]

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def names(self) -> list[str]:
        """The keys in the table, in their order. Read at once: rows come and go."""
        script = "return [...document.querySelectorAll('tbody th')].map((e) => e.firstChild.data)"
        return list(self.run(script))

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"never: {what}\n{self.text('body')}"
            time.sleep(0.05)

    def close(self) -> None:
        self.driver.quit()
