"""No import circle leads through a package's own `__init__`. All other circles are import-linter's to find.

import-linter compares the modules within a package with each other, and not with the package itself.
"""

from __future__ import annotations

import grimp

PACKAGES = ("p2pd", "proxy", "peer", "scheduler", "benchmarks")


def test_no_package_imports_a_module_that_imports_the_package() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    upward = [
        (module, imported)
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if module.startswith(f"{imported}.")
    ]
    circles = [(module, package) for module, package in upward if graph.chain_exists(package, module)]
    assert circles == []
