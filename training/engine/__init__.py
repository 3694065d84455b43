"""What all trainers share: the loop on Accelerate, its state, settings, sharding, costs, charts."""
