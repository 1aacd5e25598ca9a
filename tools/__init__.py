"""Programs for the people who build imagemill; nothing here is installed."""
