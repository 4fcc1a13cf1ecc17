"""Keys for pieces: who may ask under one, how often, and for how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from peer.trust.piece_keys import (
    MAX_HOSTS,
    MAX_REQUESTS,
    OVERLAP_S,
    ROTATE_S,
    WINDOW,
    Certificate,
    HeldKey,
    PieceKeys,
    PieceRequest,
    UnauthenticatedError,
    Window,
)
from scheduler.protocol.link import PieceKey

CERTIFICATE = Certificate(b"der")
REQUEST = PieceRequest("GET", "/v2/swarm/0-9/blobs/sha256:aa", "")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def keys(clock: Clock | None = None) -> PieceKeys:
    return PieceKeys(clock or Clock(), plain=False)


def test_both_ends_make_the_same_key_for_an_answer_and_another_for_each() -> None:
    sender = keys()
    held = HeldKey(sender.issue("b", CERTIFICATE))
    seen = set()
    for _ in range(3):
        header, answer_key = held.authorize(REQUEST)
        asking = sender.authenticate(REQUEST, header)
        assert (asking.host, asking.certificate, asking.answer_key) == ("b", CERTIFICATE, answer_key)
        seen.add((answer_key.input_key, answer_key.key_id))
    assert len(seen) == 3
    assert len({key for key, _ in seen}) == 3


def test_secrets_are_in_no_text() -> None:
    key = keys().issue("b", CERTIFICATE)
    _, answer_key = HeldKey(key).authorize(REQUEST)
    assert key.secret.hex() not in repr(key) + str(key)
    assert repr(key.secret)[2:-1] not in repr(key)
    assert "input_key" not in repr(answer_key)


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, method="HEAD"),
        replace(REQUEST, target="/v2/swarm/0-8/blobs/sha256:aa"),
        replace(REQUEST, target="/v2/swarm/0-9/blobs/sha256:ab"),
        replace(REQUEST, range_header="bytes=0-9"),
    ],
)
def test_the_authorization_of_one_request_is_none_for_another(other: PieceRequest) -> None:
    sender = keys()
    held = HeldKey(sender.issue("b", CERTIFICATE))
    header, _ = held.authorize(REQUEST)
    with pytest.raises(UnauthenticatedError, match="not what"):
        sender.authenticate(other, header)
    assert sender.authenticate(REQUEST, header).host == "b", "a forgery has not used up the number"


def test_a_request_comes_once() -> None:
    sender = keys()
    header, _ = HeldKey(sender.issue("b", CERTIFICATE)).authorize(REQUEST)
    sender.authenticate(REQUEST, header)
    with pytest.raises(UnauthenticatedError, match="before"):
        sender.authenticate(REQUEST, header)


@given(st.text(max_size=150))
def test_any_text_is_no_authorization(text: str) -> None:
    with pytest.raises(UnauthenticatedError):
        keys().authenticate(REQUEST, text)


def test_a_changed_header_is_none() -> None:
    sender = keys()
    header, _ = HeldKey(sender.issue("b", CERTIFICATE)).authorize(REQUEST)
    for at in range(len(header)):
        changed = header[:at] + ("0" if header[at] != "0" else "1") + header[at + 1 :]
        with pytest.raises(UnauthenticatedError):
            sender.authenticate(REQUEST, changed)


def test_a_key_of_another_host_or_time_is_unknown() -> None:
    header, _ = HeldKey(PieceKey(bytes(16), bytes(32))).authorize(REQUEST)
    with pytest.raises(UnauthenticatedError, match="over"):
        keys().authenticate(REQUEST, header)


def test_a_key_ends_by_itself() -> None:
    clock = Clock()
    sender = keys(clock)
    held = HeldKey(sender.issue("b", CERTIFICATE))
    clock.now = ROTATE_S + OVERLAP_S
    sender.authenticate(REQUEST, held.authorize(REQUEST)[0])
    clock.now += 0.1
    with pytest.raises(UnauthenticatedError, match="over"):
        sender.authenticate(REQUEST, held.authorize(REQUEST)[0])


def test_a_new_key_leaves_the_one_before_it_a_moment_and_no_other() -> None:
    clock = Clock()
    sender = keys(clock)
    first, second, third = [HeldKey(sender.issue("b", CERTIFICATE)) for _ in range(3)]
    with pytest.raises(UnauthenticatedError):
        sender.authenticate(REQUEST, first.authorize(REQUEST)[0])
    sender.authenticate(REQUEST, second.authorize(REQUEST)[0])
    clock.now = OVERLAP_S + 0.1
    with pytest.raises(UnauthenticatedError):
        sender.authenticate(REQUEST, second.authorize(REQUEST)[0])
    assert sender.authenticate(REQUEST, third.authorize(REQUEST)[0]).host == "b"
    assert len(sender._issued) == 2


def test_a_host_that_was_revoked_has_no_key_any_more() -> None:
    sender = keys()
    held = HeldKey(sender.issue("b", CERTIFICATE))
    sender.learn("b", PieceKey(bytes(16), bytes(32)))
    sender.forget("b")
    sender.forget("nobody")
    assert sender.held("b") is None
    with pytest.raises(UnauthenticatedError):
        sender.authenticate(REQUEST, held.authorize(REQUEST)[0])


def test_keys_are_bounded() -> None:
    sender = keys()
    for number in range(MAX_HOSTS + 2):
        for _ in range(3):
            sender.issue(f"h{number}", CERTIFICATE)
        sender.learn(f"h{number}", PieceKey(bytes(16), bytes(32)))
    assert len(sender._issued) <= 2 * MAX_HOSTS
    assert len(sender._held) == MAX_HOSTS
    assert sender.held("h0") is None


def test_a_key_has_an_end_in_requests_too() -> None:
    sender = keys()
    held = HeldKey(sender.issue("b", CERTIFICATE))
    held._number = MAX_REQUESTS
    with pytest.raises(UnauthenticatedError, match="over"):
        sender.authenticate(REQUEST, held.authorize(REQUEST)[0])


@given(st.lists(st.integers(1, 3 * WINDOW), max_size=200))
def test_a_window_takes_each_number_once_and_none_that_is_too_old(numbers: list[int]) -> None:
    window, taken, highest = Window(), set(), 0
    for number in numbers:
        assert window.take(number) == (number not in taken and number > highest - WINDOW)
        taken.add(number)
        highest = max(highest, number)
    assert not window.take(0)
    assert window._seen.bit_length() <= WINDOW
