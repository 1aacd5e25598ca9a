"""Arrow's formats, read by batches: Parquet, streams, Feather."""
