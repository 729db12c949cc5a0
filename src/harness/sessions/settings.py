"""The section `[sessions]` of harness.toml: approvals, inbox, transcripts and how long they are kept. Owns its defaults."""

from __future__ import annotations

import msgspec

from harness.settings import Count, Seconds, SecondsOrNone


class SessionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What sessions of this project are given if no flag says otherwise."""

    allow: tuple[str, ...] = ()  # tools that need no person: `Read`, `Bash(git status*)`
    deny: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    approval_seconds: SecondsOrNone = 600.0  # how long a person has; then it is denied
    inbox_ttl_seconds: Seconds = 120.0
    start_seconds: Seconds = 30.0  # until a session is registered
    transcript_megabytes: Count = 10  # of one file
    transcript_files: Count = 5  # full ones that are kept
    keep_days: SecondsOrNone = 30.0  # folders of ended sessions, for `harness gc`
