# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtual machines on a node, through libvirt (facts/runtime.md)."""
