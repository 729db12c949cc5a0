"""Workflows: functions whose steps, waits and pauses are recorded, so that they go on after a kill."""
