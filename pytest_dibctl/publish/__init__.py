"""Publishing: what becomes of images in production, region by region.

``wanted`` says what an image shall be in an environment, ``lineage`` which image is current and what obsolete
means, ``replace`` puts a new image in the place of the older ones, ``stream`` feeds one read of a file to all
regions, ``upload`` joins them over many environments. ``obsolete`` marks chosen images, ``rotate`` deletes
what nobody needs any more, ``transfer`` copies an image to another region, ``listing`` shows what there is,
and ``opening`` logs in.
"""
