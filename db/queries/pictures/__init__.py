"""Statements on pictures: recorded, found, judged, exported."""
