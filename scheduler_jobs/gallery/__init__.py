"""The gallery: jobs in a browser, as they are now, for the person who started it."""
