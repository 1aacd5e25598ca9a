"""Models on a device: loading, adapters, precision, and the environment that they make up."""
