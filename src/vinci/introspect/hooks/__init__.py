# SPDX-License-Identifier: GPL-2.0-or-later
"""Data through which control of a kernel can be taken without a byte of its text: pointers, chains, tables, paths."""

from vinci.introspect.hooks.check import check_hooks
from vinci.introspect.hooks.trusted import HookTables

__all__ = ["HookTables", "check_hooks"]
