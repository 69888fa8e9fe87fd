# SPDX-License-Identifier: GPL-2.0-or-later
"""One look at a running VM's processes, pages, sniffers and hooks, and what it found."""

from __future__ import annotations

from dataclasses import dataclass

from vinci.images.build import Images
from vinci.images.manifest import read_manifest
from vinci.introspect.certified import CertifiedFiles
from vinci.introspect.findings import CheckResult, Finding
from vinci.introspect.guest import Guest
from vinci.introspect.hooks import HookTables, check_hooks
from vinci.introspect.network import check_network
from vinci.introspect.processes import check_processes
from vinci.introspect.profile import Profile, ensure_profile
from vinci.introspect.user_pages import check_user_pages


@dataclass
class Trusted:
    """What a guest is compared with."""

    images: Images
    profile: Profile
    tables: HookTables
    app: CertifiedFiles
    service: CertifiedFiles

    @classmethod
    def of(cls, images: Images) -> Trusted:
        """What belongs to these images."""
        profile = ensure_profile(images)
        app, service = (CertifiedFiles.of(read_manifest(m)) for m in (images.app_manifest, images.service_manifest))
        return cls(images, profile, HookTables(profile), app, service)


def results(guest: Guest, trusted: Trusted, files: CertifiedFiles) -> list[CheckResult]:
    """One look, without SELinux."""
    guest.begin()
    return [
        check_processes(guest, files),
        check_user_pages(guest, files),
        check_network(guest),
        check_hooks(guest, trusted.tables),
    ]


def findings(guest: Guest, trusted: Trusted, files: CertifiedFiles) -> list[Finding]:
    """What one look finds."""
    return [finding for result in results(guest, trusted, files) for finding in result.findings]


def lines(found: list[Finding]) -> str:
    """Findings as text."""
    return "\n".join(f"{finding.check}: {finding.severity}: {finding.what} | {finding.where}" for finding in found)
