"""The image store: whatever a user names becomes OCI layers, unpacked once, that every form shares."""

from isoform.images.images import Images
from isoform.images.listing import ImageInfo, PruneReport

__all__ = ["ImageInfo", "Images", "PruneReport"]
