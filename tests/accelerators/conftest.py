"""What tests for accelerators found out is told at the end, whichever process ran them."""

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    told = {value for report in reports for name, value in getattr(report, "user_properties", ()) if name == "kernels"}
    if told:
        terminalreporter.section("kernels")
        terminalreporter.write_line("\n".join(sorted(told)))
