"""`imagemill serve`: pictures over HTTP, in the words of OpenAI's API for images and batches."""
