"""One shift: claim images of a group, render them, store and record them."""
