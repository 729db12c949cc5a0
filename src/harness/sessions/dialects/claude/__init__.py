"""Parts of what Claude Code speaks in lines of JSON; `claude_stream` puts them together. No I/O, and no state is shared."""
