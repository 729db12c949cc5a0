"""Looking after a session nobody watches: what its silence means (`clocks`, `signs`), what to do about it (`ladder`), and doing
it (`watcher`). All but `watcher` decide without I/O.
"""
