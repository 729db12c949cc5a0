"""Looking after a session nobody watches: what its silence means (`clocks`, `signs`), what to do about it (`ladder`), what a
successor is given and told (`succession`, `handoff`), and doing it (`watcher`).

All but `watcher`, and the look of `signs` at a file, decide without I/O.
"""
