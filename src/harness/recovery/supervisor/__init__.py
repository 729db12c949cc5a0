"""Supervision: what to do about a service (`machine`, pure), how it is done (`unit`), and the whole (`core`)."""
