"""The live part of the explorer: which features fire on an input, and what turning them does. Endpoints in `router`, the work in `service`."""
