"""What things cost beside the best alternative, measured in the same run."""
