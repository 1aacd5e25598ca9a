"""Everything on one machine: `imagemill run` and the processes that it starts."""
