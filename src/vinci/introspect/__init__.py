# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks into running VMs from outside, through their memory: is each still the one that was started?

The way of the data: images -> `profile` (trusted, made once) -> `attach` (a VM's memory and registers) -> `checks`
(each a function of an attached VM to a `CheckResult`) -> `look` (all checks, once) -> `findings`.
"""
