# SPDX-License-Identifier: GPL-2.0-or-later
"""Introspection as a service of the agent: a sweep over all VMs, the verdict on each, and the declared response.

`checker` runs the process that reads guest memory (the agent itself never does), `sweep` decides when which VM is
looked at, `assurance` what follows from a look (pure), `response` carries it out, `evidence` hands it to people.
"""
