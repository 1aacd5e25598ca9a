"""Pictures of pictures: contact sheets of a job."""
