"""Simulated devices: the other side of the wire, sharing no code with the bridge."""
