"""Small models of every family, with random weights, made from their configurations."""
