"""A host's part of preheats: takes the scheduler's orders, carries them out one after the other, and reports.

Rules:
1. An order (job and attempt) is carried out once. If it comes again, because the scheduler was restarted or its
   connection was lost, what is under way goes on, and what is over is reported again.
2. Nothing of an order is on the disk but what was fetched, and its pins: a host that was killed is told again, and
   finds what it holds.
3. An image that fails does not stop the others. What may pass (no answer, no room) is tried again a few times.
4. Whatever the scheduler sends is checked: a name that is none is the job's failure, and no more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

from p2pd.preheat.credentials import Credentials, parse_credentials
from p2pd.preheat.images import Fetched, ImagesAhead
from p2pd.pull.platforms import local_platform, parse_platform
from peer.errors import (
    InvalidNameError,
    ManifestError,
    OriginError,
    OriginRefusedError,
    OriginUnreachableError,
    P2pdError,
    StoreFullError,
)
from peer.oci.descriptor import Platform
from peer.oci.reference import parse_image_reference
from peer.peer_piece import Pace
from scheduler.protocol.fields import DIGEST_BYTES, MAX_DIGESTS_PER_MESSAGE
from scheduler.protocol.from_host import PreheatReport, PreheatState
from scheduler.protocol.to_host import Preheat, PreheatEnded

log = structlog.get_logger("p2pd.preheat")

MAX_ORDERS: Final = 1024
"""Orders that wait; four times what a scheduler has at a time."""

MAX_REMEMBERED: Final = 256
REPORT_EVERY_S: Final = 2.0
ATTEMPTS: Final = 3
TRY_AGAIN_S: Final = 5.0
MAX_REASON: Final = 400

ALL_PLATFORMS: Final = "all"


class HostPreheats:
    """On the event loop. `tell` sends a report to the scheduler, if there is one. The owner runs `run`."""

    def __init__(
        self,
        images: ImagesAhead,
        tell: Callable[[PreheatReport], None],
        pace: Pace,
        *,
        try_again_s: float = TRY_AGAIN_S,
    ) -> None:
        self._images = images
        self._tell = tell
        self._pace = pace
        self._try_again_s = try_again_s
        self._waiting: OrderedDict[str, Preheat] = OrderedDict()
        self._current: Preheat | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended: OrderedDict[tuple[str, int], PreheatReport] = OrderedDict()
        self._wake = asyncio.Event()

    def on_order(self, message: Preheat | PreheatEnded) -> None:
        """Take an order, or end one."""
        if isinstance(message, PreheatEnded):
            self._waiting.pop(message.job, None)
            if self._current is not None and self._current.job == message.job and self._task is not None:
                self._task.cancel()
            return
        key = message.job, message.attempt
        if key in self._ended:
            self._tell(self._ended[key])
        elif self._current is not None and (self._current.job, self._current.attempt) == key:
            pass  # its next report comes soon
        elif len(self._waiting) >= MAX_ORDERS:
            self._tell(PreheatReport(*key, PreheatState.FAILED, reason=f"{MAX_ORDERS} preheats wait on this host"))
        else:
            self._waiting[message.job] = message
            self._wake.set()

    async def run(self) -> None:
        """Carry out the orders, until cancelled."""
        while True:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            _, order = self._waiting.popitem(last=False)
            self._current = order
            async with asyncio.TaskGroup() as group:  # so that one order alone can be cancelled
                self._task = group.create_task(self._carry_out(order))
            self._current = self._task = None

    async def _carry_out(self, order: Preheat) -> None:
        log.info("preheating", job=order.job, images=order.images)
        self._pace.set_rate(order.rate_bytes_per_s)
        try:
            report = await self._result(order)
        finally:
            self._pace.set_rate(0)
        self._ended[order.job, order.attempt] = report
        while len(self._ended) > MAX_REMEMBERED:
            self._ended.popitem(last=False)
        log.info("preheated", job=order.job, state=report.state.name.lower(), reason=report.reason)
        self._tell(report)

    async def _result(self, order: Preheat) -> PreheatReport:
        fetched = Fetched()
        clock = asyncio.get_running_loop().time
        told_at = clock()

        def progress() -> None:
            nonlocal told_at
            if clock() - told_at >= REPORT_EVERY_S:
                told_at = clock()
                self._tell(_report(order, PreheatState.RUNNING, fetched, ""))

        failures: list[str] = []
        try:
            platforms = _platforms(order)
            credentials = parse_credentials(order.credential)
        except P2pdError as error:
            return _report(order, PreheatState.FAILED, fetched, str(error))
        images = [each for each in order.images if not order.only_where_used or self._images.uses(each)]
        if not images:
            return _report(order, PreheatState.SKIPPED, fetched, "its clients do not use this repository")
        for image in images:
            try:
                await self._fetch(order, image, platforms, credentials, fetched, progress)
            except P2pdError as error:
                failures.append(f"{image[:100]}: {error}")
            except Exception:
                log.exception("a preheat failed", job=order.job)
                failures.append(f"{image[:100]}: a mistake of p2pd's own; this host's log has more")
        if not failures and len(fetched.digests) > MAX_DIGESTS_PER_MESSAGE:
            failures.append(f"the images have {len(fetched.digests)} blobs, and a preheat at most 4096: order fewer")
        state = PreheatState.FAILED if failures else PreheatState.DONE
        return _report(order, state, fetched, "; ".join(failures))

    async def _fetch(
        self,
        order: Preheat,
        image: str,
        platforms: list[Platform] | None,
        credentials: Credentials,
        fetched: Fetched,
        progress: Callable[[], None],
    ) -> None:
        """Raises P2pdError."""
        reference = parse_image_reference(image)
        for attempt in range(ATTEMPTS):
            try:
                await self._images.fetch(
                    reference,
                    platforms,
                    credentials,
                    order.ttl_s,
                    fetched,
                    progress,
                    from_hosts=order.from_hosts,
                    most_bytes=order.most_bytes,
                )
            except P2pdError as error:
                if attempt + 1 == ATTEMPTS or not _may_pass(error):
                    raise
                log.info("a preheat is tried again", job=order.job, image=image, error=str(error))
                await asyncio.sleep(self._try_again_s * 2**attempt)
            else:
                return


def _may_pass(error: P2pdError) -> bool:
    match error:
        case OriginRefusedError() | InvalidNameError() | ManifestError():
            return False
        case OriginUnreachableError() | OriginError():
            return True
        case StoreFullError():
            return error.passing
        case _:
            return False


def _platforms(order: Preheat) -> list[Platform] | None:
    """None for all. Raises InvalidNameError."""
    if ALL_PLATFORMS in order.platforms:
        return None
    return [parse_platform(each) for each in order.platforms] or [local_platform()]


def _report(order: Preheat, state: PreheatState, fetched: Fetched, reason: str) -> PreheatReport:
    digests = b"".join(digest.raw for digest in fetched.digests) if state is PreheatState.DONE else b""
    return PreheatReport(
        order.job,
        order.attempt,
        state,
        size_bytes=fetched.size_bytes,
        fetched_bytes=fetched.fetched_bytes,
        unpinned_bytes=fetched.unpinned_bytes,
        digests=digests[: MAX_DIGESTS_PER_MESSAGE * DIGEST_BYTES],
        private=fetched.private,
        roots=b"".join(root.raw for root in fetched.roots.values()) if state is PreheatState.DONE else b"",
        reason="".join(each if each.isprintable() else "?" for each in reason)[:MAX_REASON],
    )
