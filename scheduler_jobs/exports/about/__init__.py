"""What an export says of itself, to people and to programs: facts, a card, Croissant."""
