"""What runs inside a TEE: attests, has keys released, opens artifacts into memory, runs the workload."""
