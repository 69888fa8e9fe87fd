# SPDX-License-Identifier: GPL-2.0-or-later
"""`vinci verify`: measures from inside the VMs that what is enforced is what was declared."""
