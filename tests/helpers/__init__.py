"""What several tests share: servers, an engine without torch, a mill in a temporary folder."""
