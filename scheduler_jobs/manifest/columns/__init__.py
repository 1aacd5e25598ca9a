"""What a column's name means, and the columns that fill other fields."""
