"""The page of a scheduler in Chromium: it shows a pull as it happens, by keyboard, in both schemes, on a phone, with
10,000 hosts, and whatever hosts call themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from scheduler.core.exchanges import BlobFacts, PullFacts
from scheduler.core.overview import PlaceFacts, Trouble
from scheduler.core.scheduler import Scheduler
from tests.real.chromium import Browser, Page, chromium
from tests.real.paths import new_directory
from tests.support.cluster_page import Fixed, Served, served
from tests.support.crowd import PIECES, Crowd
from tests.support.node import asynchronous

EVIL: Final = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'

FOCUS: Final = "document.activeElement"

CONTRAST: Final = """(() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, at) => sum + v * [.2126, .7152, .0722][at], 0);
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const [r, g, b, a = 1] = channels(getComputedStyle(element).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const poor = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !element.getClientRects().length) continue;
    const [a, b] = [light(channels(getComputedStyle(element).color)), light(ground(element))];
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (contrast < 4.5) poor.push([walk.currentNode.textContent.trim(), contrast]);
  }
  return poor;
})()"""
"""Texts whose contrast with their ground is below 4.5:1 (WCAG 2.2, 1.4.3)."""


@pytest.fixture(scope="module")
def browser(workplace: Path) -> Iterator[Browser]:
    with chromium(new_directory(workplace) / "profile") as started:
        yield started


@asynccontextmanager
async def shown(browser: Browser, core: Scheduler, *, width: int = 1200, dark: bool = False) -> AsyncIterator[Page]:
    """The page of this scheduler, drawn. At the end no script has failed, and nothing was refused by the policy."""
    async with served(core, period_s=0.05) as here, browser.page() as page:
        await page.look_like(width=width, height=900, dark=dark)
        await open_page(page, here)
        yield page
        assert page.errors == []


async def open_page(page: Page, here: Served) -> None:
    await page.open(f"http://{here.address}/")
    await page.until("document.documentElement.dataset.drawn > 0")


def text_of(selector: str) -> str:
    return f"document.querySelector({selector!r}).textContent"


def pulling(hosts: int, *, sites: int = 1, zones: int = 1) -> Crowd:
    crowd = Crowd()
    crowd.connect(hosts, sites=sites, zones=zones)
    crowd.join(range(hosts))
    return crowd


@asynchronous
async def test_a_pull_as_it_happens(browser: Browser) -> None:
    crowd = pulling(16, sites=2, zones=2)
    async with shown(browser, crowd.scheduler) as page:
        assert await page.run(text_of("#hosts")) == "16"
        assert await page.run(text_of(".pull strong")) == "docker.io/library/app"
        assert await page.run("document.querySelectorAll('#places tbody tr').length") == 4
        crowd.fetch(PIECES // 2)
        crowd.progress(range(16), PIECES // 2)
        await page.until("document.querySelector('.pull [role=progressbar]').ariaValueNow >= 40")
        assert "0.5" in await page.run(text_of(".pull .figures"))
        assert await page.run(text_of(".pull tbody td:nth-child(3)")) == "50 %"
        crowd.fetch()
        crowd.finish(range(16), far_bytes=1 << 20)
        await page.until("!document.querySelector('.pull')")
        assert await page.run(text_of("#now-empty")) == "No host wants anything now."
        assert await page.run(text_of("#pulls tbody th")) == "docker.io/library/app"
        assert "16 MiB" in await page.run(text_of("#sources"))
        assert await page.run(text_of("#copies")) == "1.00"
        crowd.leave(3)
        await page.until(f"{text_of('#hosts')} === '15'")
        loaded = await page.run("performance.getEntriesByType('resource').map((each) => new URL(each.name).origin)")
        assert set(loaded) == {await page.run("location.origin")}


@asynchronous
async def test_when_the_scheduler_is_gone_the_page_says_so(browser: Browser) -> None:
    async with browser.page() as page:
        async with served(pulling(2).scheduler) as here:
            await open_page(page, here)
            assert await page.run(text_of("#state")) == "Live"
        await page.until("document.querySelector('#state').className === 'lost'")
        assert "does not answer" in await page.run(text_of("#state"))
        assert await page.run(text_of("#hosts")) == "2", "what was known stays"


@asynchronous
async def test_names_of_hosts_are_text_and_never_markup(browser: Browser) -> None:
    place = PlaceFacts(EVIL, EVIL, 1, 1, 0, 1, 1)
    pull = PullFacts(1, EVIL, EVIL, 0.0, None, 1, 9, 1, 0, 0, 5, 4, 5, 0, 1.0)
    core = Fixed(
        replace(
            Scheduler().overview(0.0),
            versions=((EVIL, 1),),
            places=(place, replace(place, site="__proto__", zone="constructor")),
            pulls=(pull, replace(pull, number=2, ended_at=1.0)),
            blobs=(BlobFacts(EVIL, 1, 9, 1, 0, 1, 1, 1, 0), BlobFacts("__proto__", 1, 9, 1, 0, 1, 1, 1, 0)),
            troubles=(Trouble(EVIL, EVIL, EVIL, EVIL, (EVIL,)), Trouble("__proto__", "a:1", "s", "z", (EVIL,))),
            troubles_in_all=2,
            schedulers=3,
            problem=EVIL,
        )
    )
    async with shown(browser, core.as_scheduler()) as page:
        assert await page.run(f"{text_of('#troubles')}.split('<img').length - 1") == 5
        assert await page.run("document.querySelectorAll('#troubles tbody tr').length") == 2
        assert await page.run("document.querySelectorAll('.pull tbody tr').length") == 2
        assert await page.run(text_of("#lacking")) == f"What is here is of this scheduler alone: {EVIL}."
        assert await page.run("document.querySelector('#lacking').hidden") is False
        await page.run("document.querySelector('#places tbody button').click()")
        assert await page.run("[document.images.length, document.scripts.length, window.pwned ?? 0]") == [0, 1, 0]
        refused = await page.run("(() => { try { document.body.innerHTML = '<b>'; } catch (e) { return e.name; } })()")
        assert refused == "TypeError", "Trusted Types: text does not become markup"
        await page.until("document.querySelector('#drill-range').textContent === 'none'")
        page.errors[:] = [each for each in page.errors if "TrustedHTML" not in each]


@asynchronous
async def test_by_keyboard(browser: Browser) -> None:
    async with shown(browser, pulling(30, sites=3).scheduler) as page:
        await page.press("Tab")
        assert await page.run(f"{FOCUS}.className") == "skip"
        assert (await page.run(f"{FOCUS}.getBoundingClientRect().left")) >= 0, "it is seen while it has the focus"
        await page.press("Enter")
        await page.until("location.hash === '#main'")
        reached: list[str] = []
        while len(reached) < 40 and "Place" not in reached:
            await page.press("Tab")
            reached.append(await page.run(f"{FOCUS}.textContent"))
            assert await page.run(f"getComputedStyle({FOCUS}).outlineStyle") == "solid", reached
        assert reached[-1] == "Place", "in the order of the page"
        await page.press("Enter")
        assert await page.run("document.querySelector('#places th').ariaSort") == "ascending"
        assert await page.run(text_of("#places tbody th")) == "site-0 / zone-0"
        await page.press("Enter")
        assert await page.run("document.querySelector('#places th').ariaSort") == "descending"
        assert await page.run(text_of("#places tbody th")) == "site-2 / zone-0"
        while not await page.run(f"!!{FOCUS}.closest('#places tbody')"):
            await page.press("Tab")
        await page.press("Enter")
        await page.until("document.querySelectorAll('#hosts-table tbody tr').length === 10")
        assert await page.run(f"{FOCUS}.id") == "h-drill"
        await page.press("Escape")
        assert await page.run(f"{FOCUS}.closest('#places tbody') && document.querySelector('#drill').hidden")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [375, 1200], ids=["phone", "desk"])
@asynchronous
async def test_it_is_readable(browser: Browser, width: int, dark: bool) -> None:
    crowd = pulling(20, sites=2)
    crowd.fetch(3)
    crowd.progress(range(20), 3)
    crowd.lose(7)
    async with shown(browser, crowd.scheduler, width=width, dark=dark) as page:
        await page.run("document.querySelector('.pull details').open = true")
        await page.run("document.querySelector('#places tbody button').click()")
        await page.until("document.querySelectorAll('#hosts-table tbody tr').length === 10")
        assert await page.run(text_of("#troubles tbody th")) == "host-7"
        assert await page.run(CONTRAST) == []
        assert await page.run("document.documentElement.scrollWidth <= innerWidth")
        beyond = (
            "[...document.querySelectorAll('td, th')].filter((cell) => cell.getClientRects().length && "
            "cell.getBoundingClientRect().right > cell.closest('section').getBoundingClientRect().right + 1)"
            ".map((cell) => cell.textContent)"
        )
        assert await page.run(beyond) == [], "no cell is cut off"
        assert await page.run("getComputedStyle(document.body).colorScheme") == "light dark"


@asynchronous
async def test_ten_thousand_hosts_are_a_few_rows(browser: Browser) -> None:
    crowd = Crowd()
    crowd.connect(10_000, sites=20, zones=10)
    async with shown(browser, crowd.scheduler) as page:
        assert await page.run(text_of("#hosts")) == "10,000"
        elements: Any = await page.run("document.querySelectorAll('*').length")
        assert elements < 5_000
        await page.run("document.querySelector('#places tbody button').click()")
        await page.until("document.querySelectorAll('#hosts-table tbody tr').length === 50")
        crowd.leave(0)
        await page.until(f"{text_of('#hosts')} === '9,999'")
        assert await page.run("document.querySelectorAll('*').length") < elements + 1_000
