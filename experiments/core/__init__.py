"""What every study shares: the job around it, its base class, and its findings."""
