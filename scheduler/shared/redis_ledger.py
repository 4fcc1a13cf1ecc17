"""The ledger of several schedulers, in Redis (`scheduler.trust.ledger` has the rules).

    PREFIX:token:ID      a hash: secret_sha256 (hexadecimal), note, created, expires, uses_left, revoked; "" for None
    PREFIX:tokens        the ids of all tokens
    PREFIX:hosts         by host: key, token, first_seen, joined, last_renewed, serial, expires; separated by spaces
    PREFIX:revoked       by host: since when
    PREFIX:revoked-keys  by key: the host that had it
    PREFIX:ledger        a number that grows with each new host and each revocation

Rules:
1. A check and its change are one script: of several schedulers that take the last use of a token, one gets it.
2. Redis may forget. A revocation that this process has known is put back. A host that shows a certificate, and is not
   revoked, is put back when it renews: without it a wiped Redis would end every certificate within its time.
3. What Redis holds is believed as far as it can be read. A revocation needs no more than its host's name.
4. What Redis holds is enough to know which hosts there are, and not to become one of them: no key, no secret.
"""

from __future__ import annotations

import hmac
import math
from contextlib import suppress
from typing import Final

from scheduler.shared.redis_calls import TRY_AGAIN_S, RedisCalls
from scheduler.shared.redis_clients import RedisPlace
from scheduler.trust.certificates import CLOCK_SKEW
from scheduler.trust.errors import JoinRefusedError, TrustError
from scheduler.trust.ledger import SAME_REQUEST_S, HostRecord, TokenRecord
from scheduler.trust.token import JoinToken

_CHECK_HOST: Final = """
local host, key = ARGV[1], ARGV[2]
if redis.call('HEXISTS', KEYS[2], host) == 1 then return {'revoked', host} end
local gone = redis.call('HGET', KEYS[3], key)
if gone then return {'revoked', gone} end
local known = redis.call('HGET', KEYS[1], host)
local had, token, first, joined, ends = key, '', ARGV[5], ARGV[5], '0'
if known then
  had, token, first, joined, ends = string.match(known, '^(%S+) (%S*) (%S+) (%S+) %S+ %S+ (%S+)$')
  if had ~= key then return {'id-taken', host} end
end
if tonumber(ends) < tonumber(ARGV[4]) then ends = ARGV[4] end
"""

_RENEW: Final = f"""
{_CHECK_HOST}
redis.call('HSET', KEYS[1], host, table.concat({{key, token, first, joined, ARGV[5], ARGV[3], ends}}, ' '))
if not known then
  redis.call('INCR', KEYS[4])
  redis.call('XADD', KEYS[5], 'MAXLEN', '~', 64, '*', 'what', 'ledger')
end
return {{'', ''}}
"""

_ADMIT: Final = f"""
{_CHECK_HOST}
if redis.call('HGET', KEYS[6], 'revoked') ~= '' then return {{'token-revoked', ''}} end
local again = known and token == ARGV[6] and tonumber(ARGV[5]) - tonumber(joined) < tonumber(ARGV[7])
if not again then
  local left = redis.call('HGET', KEYS[6], 'uses_left')
  if left == '0' then return {{'token-used', ''}} end
  if left and left ~= '' then redis.call('HINCRBY', KEYS[6], 'uses_left', -1) end
end
redis.call('HSET', KEYS[1], host, table.concat({{key, ARGV[6], first, ARGV[5], ARGV[5], ARGV[3], ends}}, ' '))
if not known then
  redis.call('INCR', KEYS[4])
  redis.call('XADD', KEYS[5], 'MAXLEN', '~', 64, '*', 'what', 'ledger')
end
return {{'', ''}}
"""

_REVOKE: Final = """
local key = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '^(%S+) ')
if key then redis.call('HSETNX', KEYS[3], key, ARGV[1]) end
if redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2]) == 1 then
  redis.call('INCR', KEYS[4])
  redis.call('XADD', KEYS[5], 'MAXLEN', '~', 64, '*', 'what', 'ledger')
end
return 1
"""

_END: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if redis.call('HGET', KEYS[1], 'revoked') == '' then redis.call('HSET', KEYS[1], 'revoked', ARGV[1]) end
return 1
"""


class RedisLedger:
    """A `scheduler.trust.ledger.Ledger`. Making one connects to nothing but a cluster's nodes. Raises TrustError."""

    def __init__(self, place: RedisPlace, *, try_again_s: float = TRY_AGAIN_S) -> None:
        self._place: Final = place
        self._calls: Final = RedisCalls(place, TrustError, try_again_s=try_again_s)
        self._client: Final = self._calls.client
        names = ("hosts", "revoked", "revoked-keys", "ledger", "changes")
        self._keys: Final = [place.key(name) for name in names]
        self._known_revoked: frozenset[str] = frozenset()

    def close(self) -> None:
        self._client.close()

    def version(self) -> int:
        with self._calls.using():
            return int(self._client.get(self._keys[3]) or 0)

    def belongs_to(self, cluster: str) -> None:
        """Make this Redis that of a cluster, which is named after its CA. Raises TrustError if it is another's."""
        key = self._place.key("cluster")
        with self._calls.using():
            self._client.set(key, cluster, nx=True)
            found = (self._client.get(key) or b"").decode(errors="replace")
        if found != cluster:
            raise TrustError(
                f"redis at {self._place.at} has what schedulers of another CA share (cluster {found[:16]}…, and this"
                f" CA's is {cluster[:16]}…): give all schedulers the same ca_cert and ca_key, or this one another"
                " redis_prefix"
            )

    # -- tokens ----------------------------------------------------------------------------------------------------

    def add_token(self, token: JoinToken, note: str, expires: float | None, uses: int | None, now: float) -> None:
        fields = {
            "secret_sha256": token.secret_sha256.hex(),
            "note": note,
            "created": _text(now),
            "expires": _text(expires),
            "uses_left": _text(uses),
            "revoked": "",
        }
        with self._calls.using():
            self._client.hset(self._token(token.id), mapping=fields)
            self._client.sadd(self._place.key("tokens"), token.id)

    def tokens(self) -> list[TokenRecord]:
        with self._calls.using():
            ids = [name.decode() for name in self._client.smembers(self._place.key("tokens"))]
            pipe = self._client.pipeline(transaction=False)
            for name in ids:
                pipe.hgetall(self._token(name))
            found = pipe.execute()
        records = [_token_record(name, fields) for name, fields in zip(ids, found, strict=True) if fields]
        return sorted(records, key=lambda each: (each.created, each.id))

    def check_token(self, token: JoinToken, now: float) -> None:
        with self._calls.using():
            fields = self._client.hgetall(self._token(token.id))
        secret = fields.get(b"secret_sha256", b"").decode()
        if not hmac.compare_digest(secret, token.secret_sha256.hex()):
            raise JoinRefusedError("token", f"the scheduler knows no join token {token.id} with this secret")
        record = _token_record(token.id, fields)
        if record.revoked is not None:
            raise JoinRefusedError("token-revoked", f"the join token {token.id} was revoked")
        if record.expires is not None and now >= record.expires:
            raise JoinRefusedError("token-expired", f"the join token {token.id} has expired: create another")

    def revoke_token(self, token_id: str, now: float) -> bool:
        with self._calls.using():
            return bool(self._client.eval(_END, 1, self._token(token_id), _text(now)))

    # -- hosts -----------------------------------------------------------------------------------------------------

    def admit(self, token: JoinToken, host: str, key_sha256: bytes, serial: str, expires: float, now: float) -> None:
        self.check_token(token, now)
        arguments = (host, key_sha256.hex(), serial, _text(expires), _text(now), token.id, _text(SAME_REQUEST_S))
        self._checked(_ADMIT, [*self._keys, self._token(token.id)], arguments)

    def renew(self, host: str, key_sha256: bytes, serial: str, expires: float, now: float) -> None:
        self._checked(_RENEW, self._keys, (host, key_sha256.hex(), serial, _text(expires), _text(now)))

    def hosts(self) -> list[HostRecord]:
        with self._calls.using():
            rows = self._client.hgetall(self._keys[0])
            revoked = self._client.hgetall(self._keys[1])
        records = []
        for name in sorted(rows):
            with suppress(ValueError):  # it is no record of ours
                records.append(_host_record(name, rows[name], revoked.get(name)))
        return records

    def host_ids(self) -> frozenset[str]:
        with self._calls.using():
            return frozenset(name.decode() for name in self._client.hkeys(self._keys[0]))

    def revoke_host(self, host: str, now: float) -> None:
        with self._calls.using():
            self._client.eval(_REVOKE, 5, *self._keys, host, _text(now))

    def revoked(self, now: float) -> frozenset[str]:
        with self._calls.using():
            found = self._client.hkeys(self._keys[1])
            for name in self._known_revoked - {name.decode() for name in found}:  # rule 2
                self._client.eval(_REVOKE, 5, *self._keys, name, _text(now))
                found.append(name.encode())
            rows = self._client.hmget(self._keys[0], found) if found else []
        self._known_revoked = frozenset(name.decode() for name in found)
        earliest = now - CLOCK_SKEW.total_seconds()  # for hosts whose clocks are late
        told = zip(found, rows, strict=True)
        return frozenset(name.decode() for name, row in told if row is None or _expires(row) > earliest)

    # -- Redis -----------------------------------------------------------------------------------------------------

    def _checked(self, script: str, keys: list[str], arguments: tuple[str, ...]) -> None:
        with self._calls.using():
            reason, about = (each.decode() for each in self._client.eval(script, len(keys), *keys, *arguments))
        if reason == "revoked":
            raise JoinRefusedError("revoked", f"host {about} was revoked")
        if reason == "id-taken":
            raise JoinRefusedError("id-taken", f"the host id {about} belongs to another key")
        if reason == "token-revoked":
            raise JoinRefusedError(reason, f"the join token {arguments[5]} was revoked")
        if reason:
            raise JoinRefusedError(reason, f"the join token {arguments[5]} has no uses left: create another")

    def _token(self, name: str) -> str:
        return self._place.key(f"token:{name}")


def _text(number: float | None) -> str:
    """In full: no digit is lost, and Lua reads it."""
    return "" if number is None else repr(number)


def _expires(row: bytes) -> float:
    """When the certificate of a host is over; never, if the row says nothing that can be read."""
    try:
        return float(row.split()[-1])
    except (ValueError, IndexError):
        return math.inf


def _token_record(name: str, fields: dict[bytes, bytes]) -> TokenRecord:
    def number(key: bytes) -> float | None:
        text = fields.get(key, b"")
        return float(text) if text else None

    uses = number(b"uses_left")
    note = fields.get(b"note", b"").decode(errors="replace")
    left = None if uses is None else int(uses)
    return TokenRecord(name, note, number(b"created") or 0.0, number(b"expires"), left, number(b"revoked"))


def _host_record(name: bytes, row: bytes, revoked: bytes | None) -> HostRecord:
    _, token, first, _, renewed, serial, expires = row.decode().split(" ")
    since = None if revoked is None else float(revoked)
    return HostRecord(name.decode(), token, float(first), float(renewed), serial, float(expires), since)
