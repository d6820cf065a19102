"""One run: its options, its targets, and the steps from a build to a booted guest."""
