"""Image files: encoding, and what is written into them."""
