"""The host of one session: owns the agent program, talks to it, and records it. Nothing of it is imported by clients.

It is the one process there are many of, so it loads asyncio, msgspec and sqlite3 and nothing heavier.
"""
