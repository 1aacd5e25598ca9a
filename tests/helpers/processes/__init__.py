"""Commands of `imagemill` as forks of processes that have imported their libraries already."""
