# SPDX-License-Identifier: GPL-2.0-or-later
"""No test reads the settings of the machine that it runs on."""

import os
from pathlib import Path

os.environ["VINCI_CONFIG"] = str(Path(__file__).parent)  # no snippet (*.toml) lies here
for _name in ("VINCI_NODE", "VINCI_URI"):
    os.environ.pop(_name, None)
