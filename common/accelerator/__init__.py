"""What torch tells of a device: shared by every workload that computes with torch."""
