# SPDX-License-Identifier: GPL-2.0-or-later
"""Gateways of inspected flows: runs in an FW-VM on Python's minimal library. docs/explanation/gateways.md tells how."""
