"""Where recovery keeps files in the home: one folder for each service. Names only; makes nothing."""

from __future__ import annotations

from pathlib import Path


def service_folder(home: Path, name: str) -> Path:
    """A service's own folder."""
    return home / "services" / name


def log_path(home: Path, name: str) -> Path:
    """Its captured output, which rotates; read it with `processes.LogReader`."""
    return service_folder(home, name) / "output.log"


def fifo_path(home: Path, name: str) -> Path:
    """What its output goes through, so that it survives its supervisor."""
    return service_folder(home, name) / "output.fifo"


def chaos_path(home: Path, name: str) -> Path:
    """The control file that tells a service of a fault to show."""
    return service_folder(home, name) / "chaos.json"


def versions_folder(home: Path, name: str) -> Path:
    """The versions of its configuration file."""
    return service_folder(home, name) / "config"


def lock_path(home: Path) -> Path:
    """Locked by the one supervisor of this home; holds its pid."""
    return home / "supervisor.lock"
