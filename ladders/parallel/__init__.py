"""Many devices: what distribution costs, and what it saves."""
