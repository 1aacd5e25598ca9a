"""Contact sheets: pages that show a job's pictures."""
