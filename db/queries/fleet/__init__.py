"""What people and the dispatcher ask about workers, owners and jobs, and what work costs."""
