"""Connections: used again, dropped when dead or old, never more than allowed, and led through proxies."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator

import pytest

from peer.errors import OriginUnreachableError
from peer.origin.cancel import CancelScopes
from peer.origin.clock import SystemClock
from peer.origin.dialing import Address
from peer.origin.proxies import Proxies
from peer.origin.upstream import UpstreamEndpoint
from tests.peer.origin_fixtures import CONTENT, NOBODY, REF, StillClock, origin_at, read_all
from tests.support.registry_server import HANG, PATIENCE_S, SILENT_CLOSE, Answering, RegistryServer

HELLO = Answering(200, b"hello")


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        server.add_blob(REF.repository, REF.digest, CONTENT)
        server.rule = lambda seen: None if "blobs" in seen.path else HELLO
        yield server


class TestKeepAlive:
    """One connection does for many exchanges, as long as it lives."""

    def test_the_one_used_last_is_used_next(self, server: RegistryServer) -> None:
        view = memoryview(bytearray(10))
        with origin_at(server) as origin:
            with (
                origin.open(REF, 0, 10, credential=NOBODY) as first,
                origin.open(REF, 0, 10, credential=NOBODY) as second,
            ):
                first.readinto(view)
                second.readinto(view)
            assert origin.statistics().open_connections == 2
            origin.request("GET", "", credential=NOBODY)  # `second` was given back before `first`
        assert [seen.connection for seen in server.seen] == [0, 1, 0]

    def test_one_that_the_server_has_closed_is_not_used(self, server: RegistryServer) -> None:
        clock = StillClock()
        with origin_at(server, clock=clock) as origin:
            origin.request("GET", "", credential=NOBODY)
            (idle,) = origin._connections._idle
            server.hang_up()
            assert select.select([idle._wire.sock], [], [], PATIENCE_S)[0]
            origin.request("GET", "", credential=NOBODY)
            assert origin.statistics().requests == 2
            assert origin.statistics().open_connections == 1
        assert server.connections == 2

    @pytest.mark.parametrize("then", ["close", "reset"])
    def test_one_that_proves_dead_is_replaced_at_once(self, server: RegistryServer, then: str) -> None:
        clock = StillClock()
        with origin_at(server, clock=clock, max_attempts=1) as origin:
            origin.request("GET", "", credential=NOBODY)
            server.script(Answering(status=0, then=then))
            assert origin.request("GET", "", credential=NOBODY).status == 200
            assert origin.statistics().retries == 0
        assert [seen.connection for seen in server.seen] == [0, 0, 1]
        assert clock.waits == []

    def test_a_fresh_one_that_proves_dead_is_a_failed_attempt(self, server: RegistryServer) -> None:
        with origin_at(server, max_attempts=1) as origin:
            origin.request("GET", "", credential=NOBODY)
            server.script(SILENT_CLOSE, SILENT_CLOSE)
            with pytest.raises(OriginUnreachableError, match="did not answer"):
                origin.request("GET", "", credential=NOBODY)

    def test_one_that_idled_too_long_is_dropped(self, server: RegistryServer) -> None:
        clock = StillClock()
        with origin_at(server, clock=clock, idle_s=60.0) as origin:
            for passed_s in (0.0, 60.0, 61.0):
                clock.pass_s(passed_s)
                origin.request("GET", "", credential=NOBODY)
            assert origin.statistics().open_connections == 1
        assert [seen.connection for seen in server.seen] == [0, 0, 1]

    def test_one_that_the_server_wants_closed_is(self, server: RegistryServer) -> None:
        server.rule = lambda _: Answering(200, b"hello", {"Connection": "close"})
        with origin_at(server) as origin:
            for _ in range(2):
                assert origin.request("GET", "", credential=NOBODY).body == b"hello"
            assert origin.statistics().open_connections == 0
        assert server.connections == 2

    def test_a_body_that_ends_with_its_connection_comes_whole(self, server: RegistryServer) -> None:
        server.script(Answering(200, CONTENT, {"Connection": "close"}, then="close"))
        with origin_at(server) as origin:
            assert read_all(origin) == CONTENT
        assert len(server.seen) == 1


class TestAddresses:
    """Registries, and proxies too, are connected to as `tests/peer/test_origin_dialing.py` has it."""

    @pytest.mark.parametrize("by_proxy", [False, True])
    def test_an_address_that_refuses_does_not_hide_one_that_works(self, server: RegistryServer, by_proxy: bool) -> None:
        asked: list[tuple[str, int]] = []

        def resolve(host: str, port: int) -> list[Address]:
            asked.append((host, port))
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, ("127.0.0.1", port)) for port in (1, server.port)]

        environ = {"http_proxy": "http://proxy.test:3128"} if by_proxy else {}
        with origin_at("http://registry.test", environ=environ, resolve=resolve) as origin:
            assert origin.request("GET", "", credential=NOBODY).status == 200
            assert origin.statistics().retries == 0
        assert asked == [("proxy.test", 3128) if by_proxy else ("registry.test", 80)]

    @pytest.mark.parametrize("wrong", [SILENT_CLOSE, HANG], ids=["closes", "hangs"])
    def test_an_address_that_does_not_answer_comes_last(self, server: RegistryServer, wrong: Answering) -> None:
        with RegistryServer() as silent:
            silent.rule = lambda _: wrong

            def resolve(_host: str, _port: int) -> list[Address]:
                ports = (silent.port, server.port)
                return [(socket.AF_INET, socket.SOCK_STREAM, 0, ("127.0.0.1", port)) for port in ports]

            with origin_at("http://registry.test", resolve=resolve, stall_s=0.5) as origin:
                for _ in range(2):
                    assert origin.request("GET", "", credential=NOBODY).status == 200
                    server.rule = lambda _: Answering(200, b"hello", {"Connection": "close"})
            assert (len(silent.seen), len(server.seen)) == (1, 2)

    def test_an_address_whose_tls_fails_comes_last(self, server: RegistryServer) -> None:
        """Here nothing there speaks TLS: each address is asked once in turn."""
        with RegistryServer() as other:

            def resolve(_host: str, _port: int) -> list[Address]:
                ports = (other.port, server.port)
                return [(socket.AF_INET, socket.SOCK_STREAM, 0, ("127.0.0.1", port)) for port in ports]

            with (
                origin_at("https://registry.test", resolve=resolve, connect_s=0.2, max_attempts=2) as origin,
                pytest.raises(OriginUnreachableError),
            ):
                origin.request("GET", "", credential=NOBODY)
            assert (other.connections, server.connections) == (1, 1)


class TestLimit:
    """No more connections than allowed, and no wait for one without an end."""

    def test_a_body_waits_for_another_to_end(self, server: RegistryServer) -> None:
        got: list[bytes] = []
        with origin_at(server, max_connections=1) as origin:
            with origin.open(REF, 0, None, credential=NOBODY):
                waiting = threading.Thread(target=lambda: got.append(read_all(origin)))
                waiting.start()
                assert got == []
                assert len(server.seen) == 1
            waiting.join(PATIENCE_S)
        assert got == [CONTENT]

    def test_but_not_for_ever(self, server: RegistryServer) -> None:
        with (
            origin_at(server, max_connections=1, slot_wait_s=0.01) as origin,
            origin.open(REF, 0, None, credential=NOBODY),
            pytest.raises(OriginUnreachableError, match="its 1 connections were all in use"),
        ):
            origin.open(REF, 0, None, credential=NOBODY)

    def test_bodies_leave_one_for_small_requests(self, server: RegistryServer) -> None:
        with (
            origin_at(server, max_connections=2, slot_wait_s=0.01) as origin,
            origin.open(REF, 0, None, credential=NOBODY),
        ):
            with pytest.raises(OriginUnreachableError):
                origin.open(REF, 0, None, credential=NOBODY)
            assert origin.request("GET", "", credential=NOBODY).status == 200

    def test_idle_ones_make_room(self, server: RegistryServer) -> None:
        with RegistryServer() as other:
            server.script(Answering(307, headers={"Location": other.url}))
            other.rule = lambda _: HELLO
            with origin_at(server, max_connections=1) as origin:
                assert origin.request("GET", "", credential=NOBODY).status == 200
                assert origin.statistics().open_connections == 1

    def test_an_open_that_fails_makes_room(self, server: RegistryServer) -> None:
        server.script(Answering(500))
        with origin_at(server, max_connections=1, max_attempts=1) as origin:
            with pytest.raises(OriginUnreachableError):
                origin.open(REF, 0, None, credential=NOBODY)
            assert read_all(origin) == CONTENT

    def test_closing_ends_the_wait(self) -> None:
        calls = CancelScopes("reg.test", 1, SystemClock())
        held = calls.begin(for_body=True, patience_s=0.0)
        started = threading.Event()
        caught: list[BaseException] = []

        def wait() -> None:
            started.set()
            with pytest.raises(OriginUnreachableError, match="it is closed") as error:
                calls.begin(for_body=True, patience_s=PATIENCE_S)
            caught.append(error.value)

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert started.wait(PATIENCE_S)
        calls.close()
        waiting.join(PATIENCE_S)
        assert (len(caught), held.ended) == (1, True)


def test_many_threads_share_an_origin(server: RegistryServer) -> None:
    got: list[bool] = []

    def work() -> None:
        for _ in range(5):
            got.append(read_all(origin) == CONTENT)
            got.append(origin.request("GET", "", credential=NOBODY).body == b"hello")

    with origin_at(server, max_connections=3) as origin:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert origin.statistics().open_connections <= 3
        assert origin.statistics().received_bytes == 40 * len(CONTENT)
    assert got == [True] * 80


class TestProxies:
    """What the environment says about proxies."""

    def test_plain_http_goes_in_absolute_form_and_the_proxys_password_to_it(self, server: RegistryServer) -> None:
        environ = {"HTTP_PROXY": f"http://me:p%40ss@127.0.0.1:{server.port}/"}
        with origin_at("http://registry.test:5000", environ=environ) as origin:
            assert origin.request("GET", "app/tags/list?n=1", credential=NOBODY).body == b"hello"
        (seen,) = server.seen
        assert seen.target == "http://registry.test:5000/v2/app/tags/list?n=1"
        assert seen.headers["host"] == "registry.test:5000"
        assert seen.headers["proxy-authorization"] == "Basic bWU6cEBzcw=="

    def test_a_redirect_out_of_the_proxy_does_not_take_its_password_along(self, server: RegistryServer) -> None:
        environ = {"http_proxy": f"http://me:pass@127.0.0.1:{server.port}"}
        with RegistryServer() as direct:
            server.script(Answering(307, headers={"Location": direct.url}))
            direct.rule = lambda _: HELLO
            with origin_at("http://registry.test", environ=environ, allow_private=("127.0.0.1",)) as origin:
                assert origin.request("GET", "", credential=NOBODY).body == b"hello"
            assert "proxy-authorization" not in direct.seen[0].headers

    def test_a_proxy_that_refuses_the_tunnel_is_named_without_its_password(self, server: RegistryServer) -> None:
        environ = {"https_proxy": f"http://me:secret@127.0.0.1:{server.port}"}
        with (
            origin_at("https://registry.test", environ=environ, max_attempts=1) as origin,
            pytest.raises(OriginUnreachableError, match=rf"through the proxy 127.0.0.1:{server.port}.*407") as caught,
        ):
            origin.request("GET", "", credential=NOBODY)
        assert "secret" not in str(caught.value)
        assert "secret" not in repr(Proxies(environ).leading_to(UpstreamEndpoint.parse("https://registry.test").target))

    @pytest.mark.parametrize(
        ("url", "no_proxy", "is_direct"),
        [
            ("http://registry.test", "", False),
            ("http://registry.test", "*", True),
            ("http://registry.test", "other.test, registry.test", True),
            ("http://a.registry.test", "registry.test", True),
            ("http://a.registry.test", ".registry.test", True),
            ("http://a.registry.test", "*.registry.test", True),
            ("http://aregistry.test", "registry.test", False),
            ("http://registry.test:5000", "registry.test:5000", True),
            ("http://registry.test:5000", "registry.test:80", False),
            ("http://10.1.2.3", "10.0.0.0/8", True),
            ("http://10.1.2.3", "10.1.2.3", True),
            ("http://10.1.2.3:81", "10.1.2.3:80", False),
            ("http://11.1.2.3", "10.0.0.0/8,test", False),
            ("http://[fd00::1]", "fd00::/8", True),
            ("http://[fd00::1]:81", "[fd00::1]:81", True),
            ("http://127.0.0.9", "", True),
            ("http://localhost", "", True),
        ],
    )
    def test_no_proxy(self, url: str, no_proxy: str, is_direct: bool) -> None:
        proxies = Proxies({"http_proxy": "proxy.test:3128", "NO_PROXY": no_proxy})
        proxy = proxies.leading_to(UpstreamEndpoint.parse(url).target)
        assert (proxy is None) == is_direct
        if proxy:
            assert (proxy.host, proxy.port, proxy.headers) == ("proxy.test", 3128, {})

    def test_lower_case_wins_and_each_scheme_has_its_own(self) -> None:
        proxies = Proxies({"https_proxy": "http://lower", "HTTPS_PROXY": "http://upper"})
        found = proxies.leading_to(UpstreamEndpoint.parse("https://registry.test").target)
        assert found is not None
        assert (found.host, found.port) == ("lower", 80)
        assert proxies.leading_to(UpstreamEndpoint.parse("http://registry.test").target) is None

    @pytest.mark.parametrize(
        "url", ["https://secret@proxy.test", "socks5://proxy.test", "http://", "http://secret@h:x"]
    )
    def test_a_proxy_that_cannot_be_used_is_an_error_at_once(self, url: str) -> None:
        with pytest.raises(ValueError, match="https_proxy is not of the form") as caught:
            Proxies({"https_proxy": url})
        assert "secret" not in str(caught.value)
