"""Commands that read a manifest: check it, queue it, render it."""
