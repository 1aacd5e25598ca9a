"""Text files of prompts, with the syntax of the tools that wrote them."""
