# SPDX-License-Identifier: GPL-2.0-or-later
"""Cross checks of a declaration, one module per part of the file. Each yields what it finds; none raises."""
