"""The status page in a browser: what it shows, however large the pool, and that a guest's name stays a name."""

from __future__ import annotations

import base64
import json
import os
import re
import select
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.dhcp.lease import State
from cocoon_net.events import LeaseBound
from cocoon_net.lab.patience import eventually
from cocoon_net.records import Pool
from cocoon_net.supervisor import view
from cocoon_net.supervisor.feed import Feed
from cocoon_net.supervisor.metrics import Readings
from cocoon_net.supervisor.web import listen, routes

CHROMIUM = shutil.which("chromium")
SUBNET = IPv4Network("172.20.0.0/16")
FIRST = int(SUBNET[2])
MARK = "owned-by-a-guest"
EVIL = f"</script><img src=x onerror=\"document.title='{MARK}'\"><script>document.title='{MARK}'</script>"
NOW = datetime(2026, 1, 1, tzinfo=UTC)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is missing: scripts/setup --browser, or apt-get install chromium"
)


class Shown:
    """Stands for the dashboard of a node with a pool of ``size``, every third address of it bound."""

    def __init__(self, size: int) -> None:
        self.feed = Feed()
        states = {FIRST + i: State.BOUND for i in range(0, size, 3)}
        counts = Counter(states.get(FIRST + i, State.FREE).value for i in range(size))
        self.document = {
            "version": "1",
            "at": "2026-01-01T00:00:00Z",
            "node": EVIL,
            "phase": "degraded",
            "reason": "eni-2 (eth2) is down",
            "pool": {
                "subnet": str(SUBNET),
                "gateway": str(SUBNET[1]),
                "size": size,
                "states": {state.value: counts[state.value] for state in State},
                "room": {"asked": 5, "instance": 0, "subnet": 9},
            },
            "blocks": view.blocks([FIRST + i for i in range(size)], states),
            "enis": [
                {
                    "key": "eni-2",
                    "id": "eni-x",
                    "mac": "02:00:00:00:00:02",
                    "link": "eth2",
                    "state": "down",
                    "addresses": 9,
                }
            ],
            "workflow": {
                "run": "init-1",
                "state": "done",
                "seconds": 3.5,
                "error": "",
                "states": [{"state": "subnet", "status": "settled", "seconds": 1.25, "settled_at": "", "waiting": ""}],
            },
            "findings": [
                {
                    "kind": "link-down",
                    "key": "eni-2",
                    "says": EVIL,
                    "confirmed": 3,
                    "first_seen": "2026-01-01T00:00:00Z",
                    "advice": "",
                }
            ],
        }

    def readings(self) -> Readings:
        return Readings()

    def unhealthy(self) -> str:
        return ""

    unready = unhealthy

    def view(self) -> dict[str, Any]:
        return {**self.document, "events": self.feed.latest()}


class Browser:
    """Chromium, spoken to through two pipes (``--remote-debugging-pipe``: JSON, each message ended by a zero)."""

    def __init__(self, home: Path) -> None:
        hear, self._out = os.pipe()
        self._in, say = os.pipe()
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server", "--remote-debugging-pipe")
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{hear} 4>&{say}', "bash", str(CHROMIUM), *flags, f"--user-data-dir={home}"],
            pass_fds=(hear, say),
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(home)},
        )
        os.close(hear)
        os.close(say)
        self._number, self._rest, self._session = 0, b"", ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Have Chromium do something (https://chromedevtools.github.io/devtools-protocol)."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        os.write(
            self._out, json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0"
        )
        while True:
            while b"\0" not in self._rest:
                assert select.select([self._in], [], [], 60)[0], f"{method}: no answer"
                more = os.read(self._in, 1 << 20)
                assert more, "Chromium has ended"
                self._rest += more
            one, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(one)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def ask(self, script: str) -> Any:
        """Return what an expression is worth on the page."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression is true on the page."""
        eventually(lambda: self.ask(script), 30, why=lambda: script)

    def open(self, address: str, width: int = 1280, scheme: str = "light") -> None:
        """Load a page on a screen so wide."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && !!document.getElementById('live') && !live.hidden")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.stop()


class Page:
    def __init__(self, size: int) -> None:
        self.shown = Shown(size)
        self._listener, port = listen(
            "127.0.0.1:0",
            routes(self.shown),  # type: ignore[arg-type]
            lambda: Pool(SUBNET, SUBNET[1], (), (), mtu=1500),
        )
        self.address = f"http://127.0.0.1:{port}/"
        self._listener.start()

    def stop(self) -> None:
        self.shown.feed.close()
        self._listener.stop()


@pytest.fixture
def small() -> Iterator[Page]:
    page = Page(140)
    yield page
    page.stop()


@pytest.fixture
def large() -> Iterator[Page]:
    page = Page(60_000)
    yield page
    page.stop()


TEXT = "document.body.innerText"
WIDTH = "document.documentElement.scrollWidth"


def test_each_address_is_a_cell_with_its_state_in_words(small: Page, browser: Browser) -> None:
    browser.open(small.address)
    cells = browser.ask("[...document.querySelectorAll('.grid .cell')].map((cell) => [cell.title, cell.textContent])")
    assert len(cells) == 140
    assert cells[:2] == [["172.20.0.2 bound", "B"], ["172.20.0.3 free", "·"]]
    text = browser.ask(TEXT)
    for word in ("link-down", "eth2", "⚠ down", "✓ settled", "1.25", "the instance type takes no more"):
        assert word in text, word


def test_the_name_that_a_guest_chose_stays_a_name(small: Page, browser: Browser) -> None:
    small.shown.feed.publish(LeaseBound(NOW, IPv4Address(FIRST), "02:00:00:00:00:01", NOW, EVIL))
    browser.open(small.address)
    assert browser.ask("document.title") == "cocoon-net"
    assert browser.ask("document.querySelectorAll('img').length") == 0
    # As text: in the heading, the finding and the event.
    assert browser.ask(TEXT).count(EVIL) == 3


def test_an_event_arrives_while_one_looks_and_a_name_in_it_stays_a_name(small: Page, browser: Browser) -> None:
    browser.open(small.address)
    browser.until("document.getElementById('link').textContent === '(live)'")
    assert "came-later" not in browser.ask(TEXT)
    small.shown.feed.publish(LeaseBound(NOW, IPv4Address(FIRST + 7), "02:00:00:00:00:07", NOW, f"came-later{EVIL}"))
    browser.until("document.body.innerText.includes('came-later')")
    assert browser.ask("document.title") == "cocoon-net"


def test_it_asks_nobody_but_the_service(small: Page, browser: Browser) -> None:
    browser.open(small.address)
    asked = browser.ask("performance.getEntriesByType('resource').map((one) => one.name)")
    assert all(name.startswith((small.address, "data:")) for name in asked), asked


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_a_desk_by_day_and_night(
    small: Page, browser: Browser, tmp_path: Path, width: int, scheme: str
) -> None:
    browser.open(small.address, width, scheme)
    assert browser.ask(WIDTH) <= width
    ink, paper = browser.ask("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    assert (brightness(ink) > brightness(paper)) == (scheme == "dark")
    picture = browser.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
    (tmp_path / f"page-{width}-{scheme}.png").write_bytes(base64.b64decode(picture))


def brightness(colour: str) -> int:
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


@pytest.mark.parametrize("width", [360, 1280])
def test_sixty_thousand_addresses_are_shown_by_their_blocks(large: Page, browser: Browser, width: int) -> None:
    began = time.monotonic()
    browser.open(large.address, width)
    assert time.monotonic() - began < 10
    assert browser.ask(WIDTH) <= width
    assert browser.ask("document.querySelectorAll('#blocks details').length") == 235  # 172.20.0.2 to 172.20.234.97
    assert browser.ask("document.querySelectorAll('.grid .cell').length") == 0  # drawn when one opens a block
    browser.ask("document.querySelectorAll('#blocks summary')[1].click()")
    browser.until("document.querySelectorAll('.grid .cell').length === 256")
    assert browser.ask("document.querySelector('.grid .cell').title") == "172.20.1.0 free"
    assert browser.ask(WIDTH) <= width
