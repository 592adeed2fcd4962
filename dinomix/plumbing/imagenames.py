"""Which files of a folder are images, told by their names; nothing here loads torch."""

# Pillow cannot decode HEIC, the telephones' format, but it is listed, so that such a photo is an
# error that names it and is not silently left out.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".heic", ".heif", ".avif"),
)


def is_image(name: str) -> bool:
    """Whether a file of this name should be an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_visible_image(name: str) -> bool:
    """Whether it should be one and is not hidden, as half-written files are."""
    return is_image(name) and not name.startswith(".")
