"""What the model will see of a prompt: its tokens, its window, and syntax of other tools."""
