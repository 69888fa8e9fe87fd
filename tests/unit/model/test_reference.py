# SPDX-License-Identifier: GPL-2.0-or-later
"""What is published about the file format is what the model says."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from pydantic import BaseModel
from strategies import declarations

from vinci.model.infrastructure import Infrastructure
from vinci.model.reference import PAGE, PARTS, SCHEMA, reference_page, schema_text
from vinci.model.schema import schema

ROOT = Path(__file__).parents[3]
REFERENCE = ROOT / "docs" / "reference"
VALIDATOR = jsonschema.Draft202012Validator(schema())
REMEDY = "run: .venv/bin/python -m vinci.model.reference docs/reference"


def test_the_published_schema_is_current() -> None:
    VALIDATOR.check_schema(schema())
    assert (REFERENCE / SCHEMA).read_text() == schema_text(), REMEDY


def test_the_reference_page_is_current() -> None:
    assert (REFERENCE / PAGE).read_text() == reference_page(), REMEDY


def test_every_part_of_the_file_is_on_the_page() -> None:
    definitions = schema()["$defs"]
    assert isinstance(definitions, dict)
    mappings = {name for name, part in definitions.items() if part.get("type") == "object"}
    assert mappings | {"Infrastructure"} == {model.__name__ for _, model in PARTS}


@pytest.mark.parametrize("model", [model for _, model in PARTS], ids=lambda model: model.__name__)
def test_every_key_is_described(model: type[BaseModel]) -> None:
    undescribed = [name for name, field in model.model_fields.items() if not field.description]
    assert undescribed == []
    assert model.__doc__


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_the_schema_accepts_the_examples(example: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(example.read_text()))


@given(declarations())
@settings(max_examples=50)
def test_the_schema_accepts_what_the_model_accepts(data: dict[str, object]) -> None:
    VALIDATOR.validate(json.loads(json.dumps(data)))
    Infrastructure.model_validate(data)


@pytest.mark.parametrize(
    ("key", "value"), [("communitys", {}), ("name", "A B"), ("vinci", 2), ("flows", {}), ("nodes", {})]
)
def test_the_schema_refuses_what_the_model_refuses(key: str, value: object) -> None:
    data = yaml.safe_load((ROOT / "examples" / "hospital.yaml").read_text())
    data[key] = value
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(data)
