"""`/api/incidents`: what happened, from the fault to its verification."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter(prefix="/api/incidents", tags=["incidents"])
