# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent's API may be asked: each request's form and bounds, before anything is done with it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from vinci.node.authenticate import MAX_PASSWORD

Text = Annotated[str, Field(max_length=256)]
Word = Annotated[str, Field(max_length=4096)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TerminalRequest(_Request):
    """The client's terminal."""

    kind: Annotated[str, Field(pattern=r"^[A-Za-z0-9._+-]{1,64}$")]
    columns: Annotated[int, Field(ge=1, le=10_000)]
    rows: Annotated[int, Field(ge=1, le=10_000)]


class LoginMessage(_Request):
    """The first message of a login."""

    user: Text
    password: Annotated[str, Field(max_length=MAX_PASSWORD)]
    community: Text | None = None
    command: Annotated[list[Word], Field(max_length=1024)] | None = None
    terminal: TerminalRequest | None = None


class ExecMessage(_Request):
    """The first message of an administrator's command in a VM."""

    vm: Text
    command: Annotated[list[Word], Field(min_length=1, max_length=1024)]
    terminal: TerminalRequest | None = None


class PasswordRequest(_Request):
    """A new password for a user."""

    user: Text
    password: Annotated[str, Field(min_length=8, max_length=MAX_PASSWORD)]


class InspectRequest(_Request):
    """Look now: at one VM, or at all that run."""

    vm: Text | None = None


class AttachmentRequest(_Request):
    """Where a VM's memory is."""

    vm: Text


class EvidenceMessage(_Request):
    """The first message of an administrator who saves evidence."""

    vm: Text
    pause: bool = False


class ManifestMessage(_Request):
    """The second: what was saved, to be signed."""

    manifest: Annotated[str, Field(max_length=64 * 1024)]


class ReleaseRequest(_Request):
    """An administrator's word that a VM may be trusted again."""

    vm: Text
    reason: Annotated[str, Field(min_length=1, max_length=500)]
