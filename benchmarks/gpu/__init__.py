"""The figures of one GPU: `python -m benchmarks.gpu`."""
