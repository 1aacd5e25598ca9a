"""The control side: manifests, planning, submitting, dispatching and watching. Never imports torch."""
