"""Descriptors and values: what is desired and what was seen. No I/O; knows no other package."""

from isoform.model.codec import dump, dump_instance, fingerprint, load, load_instance
from isoform.model.hosts import hosts_file
from isoform.model.image import Image, Layer, User
from isoform.model.instance import (
    Attachment,
    ExecSpec,
    File,
    Instance,
    Lack,
    Link,
    LogLine,
    Mount,
    Observation,
    Port,
    Process,
    Route,
    Size,
)
from isoform.model.progress import Progress, silent

__all__ = [
    "Attachment",
    "ExecSpec",
    "File",
    "Image",
    "Instance",
    "Lack",
    "Layer",
    "Link",
    "LogLine",
    "Mount",
    "Observation",
    "Port",
    "Process",
    "Progress",
    "Route",
    "Size",
    "User",
    "dump",
    "dump_instance",
    "fingerprint",
    "hosts_file",
    "load",
    "load_instance",
    "silent",
]
