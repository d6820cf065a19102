"""A repository of images as a whole: what it begins with, what changed in it, and what CI does with it."""
