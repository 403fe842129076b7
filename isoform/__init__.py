"""isoform: one network function as a container, a virtual machine, or a container inside a virtual machine."""

__version__ = "0.1.0"
