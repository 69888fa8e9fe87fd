# SPDX-License-Identifier: GPL-2.0-or-later
"""SELinux in a guest, seen from outside: it enforces, and the policy in its kernel's memory is the trusted one."""

from vinci.introspect.selinux.check import SelinuxWatch

__all__ = ["SelinuxWatch"]
