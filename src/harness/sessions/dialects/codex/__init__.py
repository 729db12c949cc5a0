"""Parts of what Codex's app-server speaks in lines of JSON-RPC; `server` puts them together. No I/O."""
