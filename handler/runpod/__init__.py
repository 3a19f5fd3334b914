"""What only the RunPod worker needs."""
