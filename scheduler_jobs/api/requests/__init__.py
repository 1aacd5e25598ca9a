"""What a client sends: bodies and forms, and the fields and pictures in them."""
