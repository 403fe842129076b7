"""The network that all forms share: a link is a bridge, a port a veth or a tap, all in a namespace of their own."""

from isoform.fabric.fabric import Fabric
from isoform.fabric.names import mac_for
from isoform.fabric.state import FabricState, SeenPort
from isoform.fabric.tap import open_tap

__all__ = ["Fabric", "FabricState", "SeenPort", "mac_for", "open_tap"]
