"""Commands that hold stored files against what is recorded. Those that render: `worker.cli`."""
