"""The control side: manifests, planning, submitting, dispatching. Never imports torch."""
