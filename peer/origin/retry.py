"""Asking until somebody answers: rounds over an upstream's endpoints, within bounds.

Rules:
1. Each endpoint is asked once before any is asked again. Between rounds there is a wait: exponential, with full jitter
   (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), on top of what a 429 asked for.
2. All rounds together end at a deadline. Within a round, each endpoint may use its even share of what is left, so one
   that hangs does not keep the next from being asked. The last may be given longer: nobody is left to be asked.
3. What may be better at another try or another endpoint: no connection, no answer in time, a 5xx, a 429 with a short
   Retry-After. What may be better at another endpoint only: a 404 (a replica that lags), a 501 (a method that it does
   not have), any other 429, a refusal that is a web page (a portal's, not the registry's), an answer that cannot be
   used. All else is the answer.
4. An endpoint that failed comes after the others for a while.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from peer.errors import OriginError, OriginUnreachableError
from peer.origin.headers import is_web_page, retry_after_s
from peer.origin.http1 import ExchangeFailedError, Reply
from peer.origin.upstream import Upstream, UpstreamEndpoint

if TYPE_CHECKING:
    from peer.origin.api import Answer
    from peer.origin.cancel import CancelScope
    from peer.origin.clock import Clock
    from peer.origin.rates import Traffic

T = TypeVar("T")


@dataclass(slots=True)
class _Round:
    """What a round over the endpoints has come to."""

    pending: list[UpstreamEndpoint]
    refusals: dict[UpstreamEndpoint, Answer] = field(default_factory=dict)
    trouble: str = "no time was left to ask it"
    told: OriginError | None = None
    pause_s: float = 0.0


class Attempts:
    """The policy of one upstream, and which of its endpoints have failed of late. `random` gives [0, 1)."""

    def __init__(self, upstream: Upstream, traffic: Traffic, clock: Clock, random: Callable[[], float]) -> None:
        self._upstream = upstream
        self._endpoints = tuple(map(UpstreamEndpoint.parse, upstream.endpoints))
        self._traffic = traffic
        self._clock = clock
        self._random = random
        self._lock = threading.Lock()
        self._failing_until: dict[UpstreamEndpoint, float] = {}

    def failed(self, endpoint: UpstreamEndpoint) -> None:
        """Ask the others first for the time of a cooldown."""
        with self._lock:
            self._failing_until[endpoint] = self._clock.monotonic() + self._upstream.cooldown_s

    def backoff_s(self, failures: int) -> float:
        """How long to wait after so many failures, one or more."""
        most = min(self._upstream.backoff_cap_s, self._upstream.backoff_base_s * 2.0 ** (failures - 1))
        return most * self._random()

    def run(
        self,
        cancel_scope: CancelScope,
        ask: Callable[[UpstreamEndpoint, float], Reply],
        take: Callable[[UpstreamEndpoint, Reply], T],
        deadline: float,
        max_attempts: int | None = None,
        *,
        last_until: float = 0.0,
    ) -> T | Answer:
        """What `take` makes of the first good reply to `ask`, or a refusal (a 4xx) as it came.

        `ask` gets an endpoint and a deadline. Either may raise ExchangeFailedError, which leads to the next attempt;
        other errors pass. There are at most `max_attempts` rounds, by default the upstream's. None begins after
        `deadline`; the last endpoint of a round may take until `last_until`. With neither a good reply nor a refusal,
        raises what the last useless answer told, or OriginUnreachableError.
        """
        state = _Round(self._in_order())
        for turn in range(max_attempts or self._upstream.max_attempts):
            if turn:
                pause_s = state.pause_s + self.backoff_s(turn)
                if not state.pending or self._clock.monotonic() + pause_s >= deadline:
                    break
                cancel_scope.wait(pause_s)
            state.pause_s = 0.0
            waiting = tuple(state.pending)
            for index, endpoint in enumerate(waiting):
                now = self._clock.monotonic()
                if now >= deadline:
                    break
                if turn or index:
                    self._traffic.retried()
                until = _share(now, deadline, last_until, len(waiting) - index)
                try:
                    outcome = self._attempt(state, endpoint, ask, take, until)
                except ExchangeFailedError as error:
                    state.told = error.told or state.told
                    if error.answer is not None:
                        state.refusals[endpoint] = error.answer
                    self._note_failure(state, endpoint, str(error), lasting=error.lasting)
                    continue
                if outcome is not None:
                    return outcome
        if state.refusals:
            # A 429 before a 404: who is told to come back later may find there what is missing elsewhere.
            return max(state.refusals.values(), key=lambda answer: answer.status)
        if state.told is not None:
            raise type(state.told)(f"upstream {self._upstream.name}: {state.told}") from state.told
        raise OriginUnreachableError(
            f"upstream {self._upstream.name} gave no answer: {state.trouble}; see whether the address, the"
            " network, the proxy variables and the CA are right"
        )

    def _attempt(
        self,
        state: _Round,
        endpoint: UpstreamEndpoint,
        ask: Callable[[UpstreamEndpoint, float], Reply],
        take: Callable[[UpstreamEndpoint, Reply], T],
        deadline: float,
    ) -> T | Answer | None:
        """Ask one endpoint once. None: it is noted in `state`, and others are to be asked."""
        reply = ask(endpoint, deadline)
        if reply.status < 400:
            try:
                return take(endpoint, reply)
            except BaseException:
                reply.close()
                raise
        answer = reply.answer()
        if reply.status >= 500 and reply.status != 501:
            self._note_failure(state, endpoint, f"{reply.target} answered {reply.status}", lasting=False)
            return None
        if reply.status not in (404, 429, 501) and (reply.status == 401 or not is_web_page(answer.headers)):
            return answer
        state.refusals[endpoint] = answer
        wait_s = retry_after_s(answer.headers.get("retry-after", ""), self._clock.unix())
        if wait_s is None:
            wait_s = self._upstream.default_retry_after_s
        if reply.status == 429 and wait_s is not None and wait_s <= self._upstream.max_retry_after_s:
            state.pause_s = max(state.pause_s, wait_s)
        else:
            state.pending.remove(endpoint)
        return None

    def _note_failure(self, state: _Round, endpoint: UpstreamEndpoint, trouble: str, *, lasting: bool) -> None:
        self.failed(endpoint)
        state.trouble = trouble
        if lasting:
            state.pending.remove(endpoint)

    def _in_order(self) -> list[UpstreamEndpoint]:
        """As configured, but those that failed of late last."""
        now = self._clock.monotonic()
        with self._lock:
            return sorted(self._endpoints, key=lambda endpoint: self._failing_until.get(endpoint, now) > now)


def _share(now: float, deadline: float, last_until: float, endpoints: int) -> float:
    """Until when one of so many endpoints may take that are still to be asked."""
    return max(deadline, last_until) if endpoints == 1 else now + (deadline - now) / endpoints
