"""The plugin under xdist: scheduling, and the controller."""
