"""From records and the metrics that a workload declares to tables and pictures."""
