"""From a recipe to an image file, by disk-image-create."""
