"""The layouts, a module each: `write` writes an export, `checked` refuses what it can't hold."""
