"""A repository of images as a whole: its first files, its changes, and its jobs in CI."""
