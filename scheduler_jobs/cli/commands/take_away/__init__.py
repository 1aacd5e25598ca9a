"""Commands that take pictures and tables to other tools, or from them."""
