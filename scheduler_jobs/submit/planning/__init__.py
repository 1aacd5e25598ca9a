"""From a manifest's rows to the images they ask for, with a value for every parameter."""
