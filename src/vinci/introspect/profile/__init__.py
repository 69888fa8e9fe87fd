# SPDX-License-Identifier: GPL-2.0-or-later
"""The trusted profile of a set of images: what its kernel and files are, from the images' own files only."""

from vinci.introspect.profile.store import Profile, ensure_profile, load_profile, profile_directory

__all__ = ["Profile", "ensure_profile", "load_profile", "profile_directory"]
