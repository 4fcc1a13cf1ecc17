"""Is the Redis of several schedulers reached, and does it keep what it is given?"""

from __future__ import annotations

from collections.abc import Iterator

from p2pd.config.settings import Settings
from p2pd.doctor.environment import Environment, UnreachableError
from p2pd.doctor.result import CheckResult, Level


def check_redis(settings: Settings, around: Environment) -> Iterator[CheckResult]:
    """Whether Redis answers, gives nothing up when it is full, and has its keys again after a restart."""
    if settings.redis is None:
        return
    try:
        facts = around.ask_redis(settings)
    except UnreachableError as error:
        advice = "start it, or correct redis; until then schedulers take no tokens, and none of them is ready"
        yield CheckResult(Level.FAIL, "redis", str(error), advice)
        return
    where = f"redis at {settings.redis}"
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        title = f"{where} gives up keys when it is full (maxmemory-policy {policy}), and with them tokens and hosts"
        yield CheckResult(Level.WARN, "redis", title, "set maxmemory-policy noeviction")
    if facts.get("aof_enabled") == "0":
        title = f"{where} writes no append-only file: a restart forgets tokens, hosts and revocations"
        yield CheckResult(Level.WARN, "redis", title, "set appendonly yes")
    yield CheckResult(Level.OK, "redis", f"{where} answers")
