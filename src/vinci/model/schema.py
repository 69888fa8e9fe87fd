# SPDX-License-Identifier: GPL-2.0-or-later
"""The infrastructure file's JSON Schema, for editors."""

from __future__ import annotations

from vinci.model.infrastructure import Infrastructure


def schema() -> dict[str, object]:
    """The JSON Schema (draft 2020-12) of the infrastructure file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Infrastructure.model_json_schema(by_alias=True),
        "title": "Vinci infrastructure file",
    }
