# SPDX-License-Identifier: GPL-2.0-or-later
"""A verification as a JUnit report, for continuous integration."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET


def junit_xml(report: dict[str, Any]) -> str:
    """The report of `vinci verify --json` as JUnit XML: one test case a check."""
    checks = report["checks"]
    suite = ET.Element(
        "testsuite", name="vinci verify", tests=str(len(checks)), failures=str(len(report["mismatches"]))
    )
    for check in checks:
        case = ET.SubElement(suite, "testcase", classname=check["kind"], name=check["name"])
        if check["expected"] != check["measured"]:
            ET.SubElement(case, "failure", message=check["message"])
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)
