"""Old module names, re-exporting ours: nothing here does anything of its own. See docs/migrating.md."""
