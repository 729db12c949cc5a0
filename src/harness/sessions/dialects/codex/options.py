"""How a thread is started, or taken up again: what the app-server is asked for when it is ready."""

from __future__ import annotations

import msgspec


class ThreadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the thread is started or taken up again. What is empty is left to the user's own configuration."""

    cwd: str = ""
    model: str = ""
    approval_policy: str = ""  # untrusted, on-request, never
    sandbox: str = ""  # read-only, workspace-write, danger-full-access
    reviewer: str = ""  # user, auto_review
    roots: tuple[str, ...] = ()  # folders that belong to the workspace beside `cwd`
    ephemeral: bool = False
    resume: str = ""  # id of the thread to continue

    def request(self) -> tuple[str, dict[str, object]]:
        """Method and parameters."""
        named: dict[str, object] = {
            "cwd": self.cwd, "model": self.model, "approvalPolicy": self.approval_policy, "sandbox": self.sandbox,
            "approvalsReviewer": self.reviewer,
        }  # fmt: skip
        given = {name: value for name, value in named.items() if value}
        if self.roots:
            given["runtimeWorkspaceRoots"] = [*([self.cwd] if self.cwd else []), *self.roots]
        if self.resume:
            page = {"limit": 1, "itemsView": "summary"}
            return "thread/resume", {"threadId": self.resume, "excludeTurns": True, "initialTurnsPage": page, **given}
        return "thread/start", {**given, "ephemeral": True} if self.ephemeral else given
