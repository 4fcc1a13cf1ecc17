"""Debian's Chromium without a window, driven over the DevTools protocol: a page, its script's errors, keys, pictures.

It has a new profile for each run, and speaks with the test's own server alone.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.support.registry_server import PATIENCE_S

FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
)

_KEYS: Final = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowRight": 39}
"""The virtual key codes that the DevTools protocol wants."""


class Page:
    """One page. `errors` are its script's, and what its policy refused."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.errors: list[str] = []
        self._socket: Final = socket
        self._numbers: Final = itertools.count(1)
        self._answers: Final[dict[int, asyncio.Future[dict[str, Any]]]] = {}
        self._loaded: Final[set[str]] = set()
        """The navigations whose page is there."""
        self._changed: Final = asyncio.Event()

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol."""
        number = next(self._numbers)
        answered = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(PATIENCE_S):
            answer = await answered
        assert "error" not in answer, (method, answer)
        return answer["result"]  # type: ignore[no-any-return]

    async def open(self, url: str) -> None:
        """Go to a page, and wait until it is there."""
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call("Performance.enable", timeDomain="threadTicks")  # CPU time: the machine may be busy
        await self.call("Page.setLifecycleEventsEnabled", enabled=True)
        navigation = (await self.call("Page.navigate", url=url))["loaderId"]
        async with asyncio.timeout(PATIENCE_S):
            while navigation not in self._loaded:  # until then an expression may be one of the page before
                await self._changed.wait()
                self._changed.clear()

    async def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise's, if it is one."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, (expression, found["exceptionDetails"])
        return found["result"].get("value")

    async def until(self, condition: str) -> Any:
        """Wait until a JavaScript expression is true; looks once a frame."""
        looking = f"""new Promise((done, failed) => {{
            const give_up = Date.now() + {PATIENCE_S * 900};
            const look = () => {{
                const found = ({condition});
                if (found) done(found);
                else if (Date.now() > give_up) failed(new Error("not so in time: " + {json.dumps(condition)}));
                else setTimeout(look, 20);
            }};
            look();
        }})"""
        return await self.run(looking)

    async def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key."""
        fields = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key], "modifiers": 8 if shift else 0}
        text = {"text": "\r"} if key == "Enter" else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **fields, **text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **fields)

    async def look_like(self, *, width: int, height: int, dark: bool = False, scale: float = 1) -> None:
        """Give the window a size in CSS pixels, and a colour scheme."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def metrics(self) -> dict[str, float]:
        """What the page has used: `ScriptDuration`, `LayoutDuration`, `TaskDuration` and others, in CPU seconds."""
        found = await self.call("Performance.getMetrics")
        return {each["name"]: each["value"] for each in found["metrics"]}

    async def picture(self, to: Path, *, whole: bool = False) -> None:
        """Write a PNG of what is seen; `whole`: of all of the page."""
        found = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        await asyncio.to_thread(to.write_bytes, base64.b64decode(found["data"]))

    async def listen(self) -> None:
        """Take in what Chromium says, until it hangs up."""
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(said["params"]["exceptionDetails"].get("exception", said)))
            elif said.get("method") == "Page.lifecycleEvent" and said["params"]["name"] == "load":
                self._loaded.add(said["params"]["loaderId"])
                self._changed.set()
            elif said.get("method") == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
                self.errors.append(said["params"]["entry"]["text"])


@dataclass(frozen=True)
class Browser:
    """A running browser, by its DevTools port."""

    port: int

    @asynccontextmanager
    async def page(self) -> AsyncIterator[Page]:
        """A new page, empty."""
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self.port}") as session:
            async with session.put("/json/new?about:blank") as answer:
                target = await answer.json()
            connecting = session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=64 << 20)
            async with connecting as socket, asyncio.TaskGroup() as tasks:
                page = Page(socket)
                listening = tasks.create_task(page.listen())
                try:
                    yield page
                finally:
                    listening.cancel()
            await session.get(f"/json/close/{target['id']}")


@contextmanager
def chromium(profile: Path, program: str = "chromium") -> Iterator[Browser]:
    """A browser with a new profile."""
    argv = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with (profile.parent / "chromium.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, process_group=0)
    try:
        yield Browser(_port(profile, process))
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _port(profile: Path, process: subprocess.Popen[bytes]) -> int:
    """The port of the DevTools, which Chromium writes into its profile."""
    file, give_up_at = profile / "DevToolsActivePort", time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_at:
        assert process.poll() is None, f"chromium has ended: see {profile.parent}/chromium.log"
        if file.exists() and len(lines := file.read_text().splitlines()) == 2:
            return int(lines[0])
        time.sleep(0.05)
    raise AssertionError(f"chromium does not listen: see {profile.parent}/chromium.log")
