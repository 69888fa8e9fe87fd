# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes `tests/unit/strategies.py` importable, and hypothesis deterministic: a red test is red again."""

from hypothesis import HealthCheck, settings

settings.register_profile("vinci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vinci")
