"""What each address of the API does: images and chats, files, batches, models."""
