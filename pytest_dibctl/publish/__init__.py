"""Publishing: images in production, region by region.

``desired`` describes the desired image of an environment. ``image_state`` says which image is current and
what obsolete means. ``replace`` puts a new image in the place of the older ones. ``unfinished`` removes the
leftovers of a publication that was cut off. ``upload`` serves many environments at once. ``obsolete`` marks
chosen images, ``rotate`` deletes obsolete ones that no server or volume uses, ``transfer`` copies an image to
another region, ``listing`` shows a project's images, ``package_diff`` compares the packages of two, and
``connect`` logs in.
"""
