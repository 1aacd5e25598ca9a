"""Commands about the models, samplers and tokenizers that manifests may name."""
