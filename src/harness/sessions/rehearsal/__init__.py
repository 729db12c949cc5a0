"""Agent programs that misbehave on demand, to rehearse what a supervisor does about it. They call no model.

`terminal` is a program for a terminal, `claude` and `codex` speak the protocols of the programs of these names; all take
the flags of `flags`, `catalogue` knows them by name. Standard library only, without `dataclasses` and `argparse`, so
each starts some 30 ms after a bare interpreter.
"""
