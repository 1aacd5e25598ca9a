"""Commands that show jobs, images, errors, costs and pictures."""
