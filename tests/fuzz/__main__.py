"""`python -m tests.fuzz [ARGUMENTS FOR PYTEST]`: all tests with Hypothesis, with new examples, again and again.

It ends with ^C, or after `FUZZ_S` seconds, and tells how many examples each test had. An example that fails is printed,
as an `@example` for its test where that can be; the test is left out from then on. The exit status is 1 if one failed.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis.statistics import collector

FALSIFYING = re.compile(r"(?:Falsifying example|Failing test case): \w+\((.*?\n)\)", re.DOTALL)
PASSED_OR_NOT = ("valid", "interesting")
"""The states of Hypothesis' examples that have run to their end: the others did not meet the test's assumptions."""


@dataclass(eq=False)
class Fuzzing:
    """A plugin of pytest, for all its sessions."""

    until: float
    examples: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    failed: set[str] = field(default_factory=set)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [each for each in items if each.get_closest_marker("hypothesis") and each.nodeid not in self.failed]
        items[:] = chosen

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> object:
        def count(statistics: dict[str, object]) -> None:
            for phase in statistics.values():
                cases = phase.get("test-cases", ()) if isinstance(phase, dict) else ()
                self.examples[item.nodeid] += sum(case["status"] in PASSED_OR_NOT for case in cases)

        began = time.monotonic()
        with collector.with_value(count):  # type: ignore[arg-type]  # it says None only
            try:
                return (yield)
            finally:
                self.seconds[item.nodeid] += int(1000 * (time.monotonic() - began))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)
            print(f"\n== {report.nodeid}\n{report.longreprtext}")
            for found in FALSIFYING.finditer(re.sub(r"^E? *\| ?|^E +", "", report.longreprtext, flags=re.MULTILINE)):
                print(f"== for {report.nodeid.rpartition('::')[2]}:\n@example({found[1]})")

    def pytest_runtest_logfinish(self) -> None:
        if time.monotonic() > self.until:
            raise KeyboardInterrupt

    def report(self) -> None:
        for name, count in sorted(self.examples.items()):
            print(f"{count:9,}  {self.seconds[name] / 1000:7.0f} s  {'FAILED ' if name in self.failed else ''}{name}")
        print(f"{self.examples.total():9,} examples of {len(self.examples)} tests; {len(self.failed)} failed")


def main(arguments: list[str]) -> int:
    """Run sessions of pytest until it is time."""
    fuzzing = Fuzzing(time.monotonic() + float(os.environ.get("FUZZ_S", "inf")))
    options = [
        "-qq",
        "--no-header",
        "--no-summary",
        "--timeout=0",
        "-p",
        "no:cacheprovider",
        "--hypothesis-profile=fuzz",
    ]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning", *arguments]  # all is imported already
    ended = pytest.ExitCode.OK
    while ended in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        ended = pytest.ExitCode(pytest.main(options, plugins=[fuzzing]))
        print(f"{fuzzing.examples.total():,} examples, {len(fuzzing.failed)} tests failed", flush=True)
    fuzzing.report()
    return 1 if fuzzing.failed or ended is not pytest.ExitCode.INTERRUPTED else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
