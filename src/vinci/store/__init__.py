# SPDX-License-Identifier: GPL-2.0-or-later
"""Durable state of a node."""
