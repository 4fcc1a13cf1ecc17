"""What holds in every test: Hypothesis without deadlines, for machines differ, and with the same examples each time.

`make fuzz` (`tests.fuzz`) runs the same tests with other examples: `--hypothesis-profile=fuzz`.
"""

from hypothesis import HealthCheck, settings

from tests.support.redis_server import own_redis, redis_place, shared_redis

__all__ = ["own_redis", "redis_place", "shared_redis"]

settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile(
    "fuzz",
    deadline=None,
    derandomize=False,
    max_examples=500,
    # It may run beside other work, and each session of pytest makes the classes of tests anew.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
settings.load_profile("same")
