"""Reading what deploys imagemill as its own tools do, and what its services measure."""
