# SPDX-License-Identifier: GPL-2.0-or-later
"""Who a user is: central authentication by the A-VM."""

from __future__ import annotations

import argon2

MAX_PASSWORD = 1024
FAILURES_ALLOWED = 5
FAILURE_WINDOW_SECONDS = 60.0

_HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
"""OWASP's choice for argon2id, 19 MiB and 2 passes: some logins at once must not outgrow the agent's memory.
The example's hashes are made so too: with other settings the time of an answer would tell which users exist."""
_NOBODY = _HASHER.hash("nobody has this password")


class DeniedError(Exception):
    """The login is refused. `reason` is for the audit; whoever asked only learns that it was refused."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def hash_password(password: str) -> str:
    """The argon2id hash (RFC 9106) to keep of a password."""
    return _HASHER.hash(password)


def verify_password(stored: str | None, untrusted_password: str) -> bool:
    """True when the password fits. Takes as long for a user that does not exist."""
    if len(untrusted_password) > MAX_PASSWORD:
        return False
    try:
        _HASHER.verify(stored or _NOBODY, untrusted_password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False
    return stored is not None


class FailureLimit:
    """Refuses further attempts for a user after too many wrong passwords within a short time.

    Attempts are counted by who makes them, the UID at the other end of the agent's socket: somebody who guesses locks
    out himself, not the user.
    """

    def __init__(self) -> None:
        self._failures: dict[tuple[int, str], list[float]] = {}

    def blocked(self, asker: int, user: str, now: float) -> bool:
        """True while this asker has used up the attempts for the user."""
        recent = [t for t in self._failures.get((asker, user), []) if now - t < FAILURE_WINDOW_SECONDS]
        if recent:
            self._failures[asker, user] = recent
        else:
            self._failures.pop((asker, user), None)
        return len(recent) >= FAILURES_ALLOWED

    def failed(self, asker: int, user: str, now: float) -> None:
        """Count a wrong password. Only declared users and members of the group are counted: the table is bounded."""
        self._failures.setdefault((asker, user), []).append(now)

    def passed(self, asker: int, user: str) -> None:
        """Forget the failures of a user who came in."""
        self._failures.pop((asker, user), None)
