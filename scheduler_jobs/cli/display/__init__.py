"""What commands print: tables, lines, progress and notes, for people and as JSON."""
