"""The image store: whatever a user names becomes OCI layers, unpacked once, that every form shares."""

from typing import TYPE_CHECKING

from isoform.images.images import Images

if TYPE_CHECKING:  # what the rarer verbs return: a name for annotations, not worth its import at every start
    from isoform.images.listing import ImageInfo as ImageInfo
    from isoform.images.listing import PruneReport as PruneReport

__all__ = ["Images"]
