"""What outlives or crosses a process: settings, specs, states, errors, tables, queries, storage."""
