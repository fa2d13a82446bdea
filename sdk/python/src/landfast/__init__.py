"""Landfast: instances that one stays attached to.

`Landfast` is for threads, `AsyncLandfast` for tasks; they are the same otherwise. Every failure is a `LandfastError`.
"""

from __future__ import annotations

from . import _errors, errors
from ._async.attachment import AsyncAttachment
from ._async.browser import AsyncBrowser
from ._async.client import AsyncLandfast
from ._async.events import AsyncEvents
from ._async.files import AsyncFiles
from ._async.forward import AsyncForward
from ._async.instances import AsyncInstance, AsyncInstances
from ._async.processes import AsyncProcess, AsyncProcesses
from ._async.services import AsyncServices
from ._conversation import Exited, Gap, InputUnsure, Output, ProcessEvent, ReplayEnd
from ._errors import *  # noqa: F403 - the rows of the error table are part of the package
from ._records import (
    BrowserRecord,
    Completed,
    Event,
    EventGap,
    EventPage,
    Exit,
    FileChange,
    FileInfo,
    InstanceRecord,
    LogPart,
    ProcessRecord,
    ServiceRecord,
    Token,
    Unpacked,
)
from ._sync.attachment import Attachment
from ._sync.browser import Browser
from ._sync.client import Landfast
from ._sync.events import Events
from ._sync.files import Files
from ._sync.forward import Forward
from ._sync.instances import Instance, Instances
from ._sync.processes import Process, Processes
from ._sync.services import Services
from .errors import (
    Broken,
    CallerError,
    InstanceError,
    LandfastError,
    Misused,
    OrdinaryEnd,
    PlatformError,
    ProtocolFailure,
    Refused,
    Retry,
    TimedOut,
    TransportFailure,
    UnknownRefusal,
    Unreachable,
)

__version__ = "0.1.0"

__all__ = [
    "AsyncAttachment",
    "AsyncBrowser",
    "AsyncEvents",
    "AsyncFiles",
    "AsyncForward",
    "AsyncInstance",
    "AsyncInstances",
    "AsyncLandfast",
    "AsyncProcess",
    "AsyncProcesses",
    "AsyncServices",
    "Attachment",
    "Broken",
    "Browser",
    "BrowserRecord",
    "CallerError",
    "Completed",
    "Event",
    "EventGap",
    "EventPage",
    "Events",
    "Exit",
    "Exited",
    "FileChange",
    "FileInfo",
    "Files",
    "Forward",
    "Gap",
    "InputUnsure",
    "Instance",
    "InstanceError",
    "InstanceRecord",
    "Instances",
    "Landfast",
    "LandfastError",
    "LogPart",
    "Misused",
    "OrdinaryEnd",
    "Output",
    "PlatformError",
    "Process",
    "ProcessEvent",
    "ProcessRecord",
    "Processes",
    "ProtocolFailure",
    "Refused",
    "ReplayEnd",
    "Retry",
    "ServiceRecord",
    "Services",
    "TimedOut",
    "Token",
    "TransportFailure",
    "UnknownRefusal",
    "Unpacked",
    "Unreachable",
    "errors",
]
__all__ += _errors.__all__
