"""imagemill beside what people use otherwise, on the same manifests and the same model."""
