"""Every way in which Landfast says no, an exception each.

Made from crates/core/src/error.rs by `cargo xtask docs`.
"""

from __future__ import annotations

from ._failure import CallerError, InstanceError, OrdinaryEnd, PlatformError, Refused, Retry

__all__ = [
    "AgentSilent",
    "ArchiveUnavailable",
    "AuthExpired",
    "AuthForbidden",
    "AuthInvalid",
    "AuthMissing",
    "AuthRevoked",
    "BrowserDown",
    "ClientClose",
    "ClientLost",
    "ConfigInvalid",
    "FileArchive",
    "FileChanged",
    "FileDenied",
    "FileEscape",
    "FileExists",
    "FileFailed",
    "FileNoSpace",
    "FileNotADirectory",
    "FileNotAFile",
    "FileNotEmpty",
    "FileNotFound",
    "FileOtherDevice",
    "FileRange",
    "GatewayDraining",
    "GatewayUnreachable",
    "InstanceFailed",
    "InstanceGone",
    "InstanceLost",
    "InstanceMoving",
    "InstanceSleeping",
    "InstanceStarting",
    "InstanceStopped",
    "InstanceUnknown",
    "InstanceWaking",
    "Internal",
    "KeyLast",
    "KeyUnknown",
    "LimitBody",
    "LimitHeader",
    "LimitInFlight",
    "LimitMessage",
    "LimitProcesses",
    "LimitRate",
    "LimitSessions",
    "LimitWatches",
    "LinkProtocol",
    "LinkRecordTooLarge",
    "LinkVersion",
    "LinkWindow",
    "ListenInUse",
    "MoveFailed",
    "MoveRefused",
    "NameTaken",
    "NodeDraining",
    "NodeNoneFits",
    "NodeNotHere",
    "NodeStaleGeneration",
    "NodeUnknown",
    "NodeUnreachable",
    "NodeUntrusted",
    "PoolInUse",
    "ProcessExited",
    "ProcessNoTerminal",
    "ProcessNotRunning",
    "ProcessSpawn",
    "ProcessStdinClosed",
    "ProcessUnknown",
    "RegistryUnavailable",
    "RequestConflict",
    "RequestExpectation",
    "RequestInvalid",
    "RequestKeyReused",
    "RequestMethod",
    "RequestNotFound",
    "RequestRepeated",
    "RequestTimeout",
    "RequestVersion",
    "ServiceUnknown",
    "SessionForbidden",
    "SessionSlowClient",
    "SessionSuperseded",
    "SessionUnknown",
    "SleepRefused",
    "StoreCorrupt",
    "StoreFull",
    "StoreLeaseLapsed",
    "StoreVersion",
    "UpstreamChanged",
    "UpstreamEnded",
    "UpstreamFlapping",
    "UpstreamLost",
    "UpstreamProtocol",
    "UpstreamRefused",
    "UpstreamTimeout",
]


class RequestInvalid(CallerError):
    """The request could not be understood. Correct what the detail names and send it again."""

    code = "request.invalid"
    status = 400
    close_code = 1002
    retry = Retry.NEVER
    sentence = "The request could not be understood."
    advice = "Correct what the detail names and send it again."


class RequestNotFound(CallerError):
    """There is nothing at this path. Compare the path with the API reference."""

    code = "request.not_found"
    status = 404
    close_code = 4404
    retry = Retry.NEVER
    sentence = "There is nothing at this path."
    advice = "Compare the path with the API reference."


class RequestMethod(CallerError):
    """This path does not take this method. Use a method the Allow header lists."""

    code = "request.method"
    status = 405
    close_code = None
    retry = Retry.NEVER
    sentence = "This path does not take this method."
    advice = "Use a method the Allow header lists."


class RequestVersion(CallerError):
    """This HTTP version is not spoken here. Use HTTP/1.1 or HTTP/2."""

    code = "request.version"
    status = 505
    close_code = None
    retry = Retry.NEVER
    sentence = "This HTTP version is not spoken here."
    advice = "Use HTTP/1.1 or HTTP/2."


class RequestExpectation(CallerError):
    """This expectation cannot be met. Send Expect: 100-continue, or none."""

    code = "request.expectation"
    status = 417
    close_code = None
    retry = Retry.NEVER
    sentence = "This expectation cannot be met."
    advice = "Send Expect: 100-continue, or none."


class RequestConflict(CallerError):
    """Another request changed the same record first. Read the record again and repeat the change."""

    code = "request.conflict"
    status = 409
    close_code = None
    retry = Retry.SAFE
    sentence = "Another request changed the same record first."
    advice = "Read the record again and repeat the change."


class RequestKeyReused(CallerError):
    """This Idempotency-Key was used with another request. Use a new key for a new request."""

    code = "request.key_reused"
    status = 422
    close_code = None
    retry = Retry.NEVER
    sentence = "This Idempotency-Key was used with another request."
    advice = "Use a new key for a new request."


class RequestRepeated(CallerError):
    """This repeats a request that was sent before, and what came of that one is not known any more. Look at what it should have done, then send a new one."""

    code = "request.repeated"
    status = 409
    close_code = None
    retry = Retry.NEVER
    sentence = "This repeats a request that was sent before, and what came of that one is not known any more."
    advice = "Look at what it should have done, then send a new one."


class NameTaken(CallerError):
    """Something else has this name. Choose another name, or end what has it."""

    code = "name.taken"
    status = 409
    close_code = None
    retry = Retry.NEVER
    sentence = "Something else has this name."
    advice = "Choose another name, or end what has it."


class PoolInUse(CallerError):
    """Browsers of the pool are acquired. Release them first, or say force."""

    code = "pool.in_use"
    status = 409
    close_code = None
    retry = Retry.NEVER
    sentence = "Browsers of the pool are acquired."
    advice = "Release them first, or say force."


class AuthMissing(CallerError):
    """The request carries no token. Send an access token for this instance, or an API key to the control plane, as Authorization: Bearer."""

    code = "auth.missing"
    status = 401
    close_code = 1008
    retry = Retry.NEVER
    sentence = "The request carries no token."
    advice = "Send an access token for this instance, or an API key to the control plane, as Authorization: Bearer."


class AuthInvalid(CallerError):
    """The token is not one of ours. Ask the control plane for a new token."""

    code = "auth.invalid"
    status = 401
    close_code = 1008
    retry = Retry.NEVER
    sentence = "The token is not one of ours."
    advice = "Ask the control plane for a new token."


class AuthExpired(CallerError):
    """The token has expired. Ask the control plane for a new token."""

    code = "auth.expired"
    status = 401
    close_code = 1008
    retry = Retry.NEVER
    sentence = "The token has expired."
    advice = "Ask the control plane for a new token."


class AuthForbidden(CallerError):
    """The token does not allow this. Use a token for this instance with the scope the detail names."""

    code = "auth.forbidden"
    status = 403
    close_code = 1008
    retry = Retry.NEVER
    sentence = "The token does not allow this."
    advice = "Use a token for this instance with the scope the detail names."


class AuthRevoked(CallerError):
    """The token has been revoked. Ask the control plane for a new token."""

    code = "auth.revoked"
    status = 403
    close_code = 1008
    retry = Retry.NEVER
    sentence = "The token has been revoked."
    advice = "Ask the control plane for a new token."


class KeyUnknown(CallerError):
    """There is no API key with this id. `landfast key ls` lists them."""

    code = "key.unknown"
    status = 404
    close_code = None
    retry = Retry.NEVER
    sentence = "There is no API key with this id."
    advice = "`landfast key ls` lists them."


class KeyLast(CallerError):
    """This is the last API key; without one nobody could make another. Make another key first."""

    code = "key.last"
    status = 409
    close_code = None
    retry = Retry.NEVER
    sentence = "This is the last API key; without one nobody could make another."
    advice = "Make another key first."


class InstanceUnknown(CallerError):
    """There has never been an instance with this id. Check the id; `landfast ls` lists the live ones."""

    code = "instance.unknown"
    status = 404
    close_code = 4404
    retry = Retry.NEVER
    sentence = "There has never been an instance with this id."
    advice = "Check the id; `landfast ls` lists the live ones."


class InstanceGone(CallerError):
    """The instance was deleted. Create a new one."""

    code = "instance.gone"
    status = 410
    close_code = 4410
    retry = Retry.NEVER
    sentence = "The instance was deleted."
    advice = "Create a new one."


class InstanceStopped(CallerError):
    """The instance was stopped on request. Create a new one."""

    code = "instance.stopped"
    status = 409
    close_code = 1000
    retry = Retry.NEVER
    sentence = "The instance was stopped on request."
    advice = "Create a new one."


class InstanceFailed(InstanceError):
    """The instance failed. Read its reason with `landfast get`, then create a new one."""

    code = "instance.failed"
    status = 502
    close_code = 1011
    retry = Retry.NEVER
    sentence = "The instance failed."
    advice = "Read its reason with `landfast get`, then create a new one."


class InstanceLost(PlatformError):
    """The node that ran the instance was lost. Create a new one, or use restart: always."""

    code = "instance.lost"
    status = 502
    close_code = 1011
    retry = Retry.NEVER
    sentence = "The node that ran the instance was lost."
    advice = "Create a new one, or use restart: always."


class InstanceStarting(PlatformError):
    """The instance is starting. Try again shortly."""

    code = "instance.starting"
    status = 503
    close_code = 1013
    retry = Retry.SAFE
    sentence = "The instance is starting."
    advice = "Try again shortly."


class InstanceMoving(PlatformError):
    """The instance is moving to another node. Try again shortly."""

    code = "instance.moving"
    status = 503
    close_code = 1013
    retry = Retry.SAFE
    sentence = "The instance is moving to another node."
    advice = "Try again shortly."


class InstanceWaking(PlatformError):
    """The instance is waking. Try again shortly."""

    code = "instance.waking"
    status = 503
    close_code = 1013
    retry = Retry.SAFE
    sentence = "The instance is waking."
    advice = "Try again shortly."


class InstanceSleeping(CallerError):
    """The instance is asleep. Wake it with `landfast wake`, or send it a request."""

    code = "instance.sleeping"
    status = 409
    close_code = None
    retry = Retry.NEVER
    sentence = "The instance is asleep."
    advice = "Wake it with `landfast wake`, or send it a request."


class SleepRefused(CallerError):
    """The instance cannot be put to sleep. Choose a running instance that a node of the cell runs."""

    code = "sleep.refused"
    status = 409
    close_code = None
    retry = Retry.NEVER
    sentence = "The instance cannot be put to sleep."
    advice = "Choose a running instance that a node of the cell runs."


class MoveRefused(CallerError):
    """The instance cannot be moved there. Choose a running instance and a live node on the same host."""

    code = "move.refused"
    status = 409
    close_code = None
    retry = Retry.NEVER
    sentence = "The instance cannot be moved there."
    advice = "Choose a running instance and a live node on the same host."


class MoveFailed(PlatformError):
    """The move was given up; the instance stays where it was. Try again, or choose another node."""

    code = "move.failed"
    status = 502
    close_code = None
    retry = Retry.SAFE
    sentence = "The move was given up; the instance stays where it was."
    advice = "Try again, or choose another node."


class ProcessUnknown(CallerError):
    """The instance has no process with this id. List its processes."""

    code = "process.unknown"
    status = 404
    close_code = 4404
    retry = Retry.NEVER
    sentence = "The instance has no process with this id."
    advice = "List its processes."


class ProcessExited(OrdinaryEnd):
    """The process has exited. Its exit status was sent before this."""

    code = "process.exited"
    status = None
    close_code = 1000
    retry = Retry.NEVER
    sentence = "The process has exited."
    advice = "Its exit status was sent before this."


class ProcessNotRunning(CallerError):
    """The process has exited already. Read its exit status."""

    code = "process.not_running"
    status = 409
    close_code = None
    retry = Retry.NEVER
    sentence = "The process has exited already."
    advice = "Read its exit status."


class ProcessNoTerminal(CallerError):
    """The process has no terminal. Start it with tty to resize it or to attach from its screen."""

    code = "process.no_terminal"
    status = 409
    close_code = None
    retry = Retry.NEVER
    sentence = "The process has no terminal."
    advice = "Start it with tty to resize it or to attach from its screen."


class ProcessStdinClosed(CallerError):
    """The input of the process is closed. Start it with stdin open, and write before end of input."""

    code = "process.stdin_closed"
    status = 409
    close_code = None
    retry = Retry.NEVER
    sentence = "The input of the process is closed."
    advice = "Start it with stdin open, and write before end of input."


class ProcessSpawn(CallerError):
    """The command could not be started. Correct what the detail names."""

    code = "process.spawn"
    status = 422
    close_code = None
    retry = Retry.NEVER
    sentence = "The command could not be started."
    advice = "Correct what the detail names."


class SessionUnknown(CallerError):
    """The session has ended, or never was. Open a new one; a process can be attached again by offset."""

    code = "session.unknown"
    status = 404
    close_code = 4404
    retry = Retry.NEVER
    sentence = "The session has ended, or never was."
    advice = "Open a new one; a process can be attached again by offset."


class SessionForbidden(CallerError):
    """The session's secret is wrong. Use the secret that came with the session."""

    code = "session.forbidden"
    status = 403
    close_code = 1008
    retry = Retry.NEVER
    sentence = "The session's secret is wrong."
    advice = "Use the secret that came with the session."


class SessionSuperseded(CallerError):
    """A newer link carries this session. Let the newer link go on, or close it."""

    code = "session.superseded"
    status = 409
    close_code = 4409
    retry = Retry.NEVER
    sentence = "A newer link carries this session."
    advice = "Let the newer link go on, or close it."


class SessionSlowClient(CallerError):
    """The client took no byte for too long. Read faster, or attach again by offset."""

    code = "session.slow_client"
    status = None
    close_code = 1008
    retry = Retry.NEVER
    sentence = "The client took no byte for too long."
    advice = "Read faster, or attach again by offset."


class ClientClose(OrdinaryEnd):
    """The client closed the session. Nothing to do."""

    code = "client.close"
    status = None
    close_code = 1000
    retry = Retry.NEVER
    sentence = "The client closed the session."
    advice = "Nothing to do."


class ClientLost(CallerError):
    """The client's connection was lost. Attach again; processes go on running."""

    code = "client.lost"
    status = None
    close_code = 1001
    retry = Retry.NEVER
    sentence = "The client's connection was lost."
    advice = "Attach again; processes go on running."


class LinkProtocol(CallerError):
    """The peer broke the link protocol. Use a client that speaks landfast-link/1 correctly; the detail names the record."""

    code = "link.protocol"
    status = 400
    close_code = 1002
    retry = Retry.NEVER
    sentence = "The peer broke the link protocol."
    advice = "Use a client that speaks landfast-link/1 correctly; the detail names the record."


class LinkRecordTooLarge(CallerError):
    """A link record was larger than its kind allows. Send at most 65,536 bytes of data in a record."""

    code = "link.record_too_large"
    status = None
    close_code = 1002
    retry = Retry.NEVER
    sentence = "A link record was larger than its kind allows."
    advice = "Send at most 65,536 bytes of data in a record."


class LinkWindow(CallerError):
    """A link record went past the window. Send no more than the window beyond what was acknowledged."""

    code = "link.window"
    status = None
    close_code = 1002
    retry = Retry.NEVER
    sentence = "A link record went past the window."
    advice = "Send no more than the window beyond what was acknowledged."


class LinkVersion(CallerError):
    """This link version is not spoken here. Use landfast-link/1."""

    code = "link.version"
    status = 426
    close_code = 1002
    retry = Retry.NEVER
    sentence = "This link version is not spoken here."
    advice = "Use landfast-link/1."


class ServiceUnknown(CallerError):
    """The instance has no service with this name. Read the instance's spec, or reach a port by its number."""

    code = "service.unknown"
    status = 404
    close_code = 4404
    retry = Retry.NEVER
    sentence = "The instance has no service with this name."
    advice = "Read the instance's spec, or reach a port by its number."


class FileNotFound(CallerError):
    """There is no file or directory with this path. Check the path; relative ones begin at the instance's home."""

    code = "file.not_found"
    status = 404
    close_code = None
    retry = Retry.NEVER
    sentence = "There is no file or directory with this path."
    advice = "Check the path; relative ones begin at the instance's home."


class FileExists(CallerError):
    """Something is there already. Remove it first, choose another path, or ask to overwrite."""

    code = "file.exists"
    status = 409
    close_code = None
    retry = Retry.NEVER
    sentence = "Something is there already."
    advice = "Remove it first, choose another path, or ask to overwrite."


class FileNotAFile(CallerError):
    """What is there is no file with content. For a directory use its own calls; pipes, sockets and devices are for programs."""

    code = "file.not_a_file"
    status = 409
    close_code = None
    retry = Retry.NEVER
    sentence = "What is there is no file with content."
    advice = "For a directory use its own calls; pipes, sockets and devices are for programs."


class FileNotADirectory(CallerError):
    """What is there is no directory. Check the path."""

    code = "file.not_a_directory"
    status = 409
    close_code = None
    retry = Retry.NEVER
    sentence = "What is there is no directory."
    advice = "Check the path."


class FileNotEmpty(CallerError):
    """The directory is not empty. Remove the tree, if all of it is to go."""

    code = "file.not_empty"
    status = 409
    close_code = None
    retry = Retry.NEVER
    sentence = "The directory is not empty."
    advice = "Remove the tree, if all of it is to go."


class FileDenied(CallerError):
    """The instance's user may not do this with the file. Change the file's mode, or choose another path."""

    code = "file.denied"
    status = 403
    close_code = None
    retry = Retry.NEVER
    sentence = "The instance's user may not do this with the file."
    advice = "Change the file's mode, or choose another path."


class FileEscape(CallerError):
    """An entry of the archive would lead out of where it is put. Pack the tree without what the detail names."""

    code = "file.escape"
    status = 422
    close_code = None
    retry = Retry.NEVER
    sentence = "An entry of the archive would lead out of where it is put."
    advice = "Pack the tree without what the detail names."


class FileArchive(CallerError):
    """The body is no tar archive that can be unpacked here. Send a whole tar archive without compression."""

    code = "file.archive"
    status = 422
    close_code = None
    retry = Retry.NEVER
    sentence = "The body is no tar archive that can be unpacked here."
    advice = "Send a whole tar archive without compression."


class FileRange(CallerError):
    """The file has no such part. Content-Range says its size."""

    code = "file.range"
    status = 416
    close_code = None
    retry = Retry.NEVER
    sentence = "The file has no such part."
    advice = "Content-Range says its size."


class FileChanged(CallerError):
    """The file is not the one that was named. Read it again, then decide."""

    code = "file.changed"
    status = 412
    close_code = None
    retry = Retry.NEVER
    sentence = "The file is not the one that was named."
    advice = "Read it again, then decide."


class FileNoSpace(InstanceError):
    """There is no space left for the file. Free space in the instance; what was there before is still there."""

    code = "file.no_space"
    status = 507
    close_code = None
    retry = Retry.NEVER
    sentence = "There is no space left for the file."
    advice = "Free space in the instance; what was there before is still there."


class FileOtherDevice(CallerError):
    """A directory cannot be moved to another file system. Copy it as a tree, then remove it."""

    code = "file.other_device"
    status = 409
    close_code = None
    retry = Retry.NEVER
    sentence = "A directory cannot be moved to another file system."
    advice = "Copy it as a tree, then remove it."


class FileFailed(InstanceError):
    """The instance's file system failed. The detail has its words."""

    code = "file.failed"
    status = 500
    close_code = None
    retry = Retry.NEVER
    sentence = "The instance's file system failed."
    advice = "The detail has its words."


class BrowserDown(InstanceError):
    """The browser does not run, and is not started again by itself. Read GET /browser for the cause, then start it anew with POST /browser/restart."""

    code = "browser.down"
    status = 503
    close_code = 1011
    retry = Retry.NEVER
    sentence = "The browser does not run, and is not started again by itself."
    advice = "Read GET /browser for the cause, then start it anew with POST /browser/restart."


class UpstreamRefused(InstanceError):
    """Nothing listens on this port of the instance. Start the program, or check the port."""

    code = "upstream.refused"
    status = 502
    close_code = 1014
    retry = Retry.SAFE
    sentence = "Nothing listens on this port of the instance."
    advice = "Start the program, or check the port."


class UpstreamLost(InstanceError):
    """The connection to the instance's program was lost. Repeat the request if that is safe."""

    code = "upstream.lost"
    status = 502
    close_code = 1014
    retry = Retry.IF_IDEMPOTENT
    sentence = "The connection to the instance's program was lost."
    advice = "Repeat the request if that is safe."


class UpstreamEnded(OrdinaryEnd):
    """The instance's program ended the connection. Nothing to do; connect again to say more."""

    code = "upstream.ended"
    status = None
    close_code = None
    retry = Retry.NEVER
    sentence = "The instance's program ended the connection."
    advice = "Nothing to do; connect again to say more."


class UpstreamProtocol(InstanceError):
    """The instance's program answered with something that is not HTTP. Look at the program's log; the detail says what came."""

    code = "upstream.protocol"
    status = 502
    close_code = 1014
    retry = Retry.NEVER
    sentence = "The instance's program answered with something that is not HTTP."
    advice = "Look at the program's log; the detail says what came."


class UpstreamTimeout(InstanceError):
    """The instance's program did not answer in time. Repeat the request if that is safe."""

    code = "upstream.timeout"
    status = 504
    close_code = 1014
    retry = Retry.IF_IDEMPOTENT
    sentence = "The instance's program did not answer in time."
    advice = "Repeat the request if that is safe."


class UpstreamChanged(InstanceError):
    """The service was started anew; what it held in memory is lost. Connect again."""

    code = "upstream.changed"
    status = 502
    close_code = 1012
    retry = Retry.NEVER
    sentence = "The service was started anew; what it held in memory is lost."
    advice = "Connect again."


class UpstreamFlapping(InstanceError):
    """The connection was lost again and again without progress. Look at the instance's events and logs."""

    code = "upstream.flapping"
    status = 502
    close_code = 1011
    retry = Retry.NEVER
    sentence = "The connection was lost again and again without progress."
    advice = "Look at the instance's events and logs."


class NodeNotHere(PlatformError):
    """This node does not run the instance. Resolve the instance again."""

    code = "node.not_here"
    status = 503
    close_code = None
    retry = Retry.SAFE
    sentence = "This node does not run the instance."
    advice = "Resolve the instance again."


class NodeStaleGeneration(PlatformError):
    """The route is of an older life of the instance. Resolve the instance again."""

    code = "node.stale_generation"
    status = 503
    close_code = None
    retry = Retry.SAFE
    sentence = "The route is of an older life of the instance."
    advice = "Resolve the instance again."


class NodeDraining(PlatformError):
    """The node takes nothing new. Resolve the instance again."""

    code = "node.draining"
    status = 503
    close_code = None
    retry = Retry.SAFE
    sentence = "The node takes nothing new."
    advice = "Resolve the instance again."


class NodeUnreachable(PlatformError):
    """The node could not be reached. Try again shortly."""

    code = "node.unreachable"
    status = 503
    close_code = 1013
    retry = Retry.SAFE
    sentence = "The node could not be reached."
    advice = "Try again shortly."


class NodeUntrusted(PlatformError):
    """What answers at the node's address does not prove that it is a node of this cell. Compare the certificates of both ends: `landfast ca issue` makes new ones."""

    code = "node.untrusted"
    status = 503
    close_code = 1013
    retry = Retry.SAFE
    sentence = "What answers at the node's address does not prove that it is a node of this cell."
    advice = "Compare the certificates of both ends: `landfast ca issue` makes new ones."


class NodeUnknown(CallerError):
    """There is no live node with this id or name. `landfast node ls` lists the live ones."""

    code = "node.unknown"
    status = 404
    close_code = None
    retry = Retry.NEVER
    sentence = "There is no live node with this id or name."
    advice = "`landfast node ls` lists the live ones."


class NodeNoneFits(PlatformError):
    """No live node can take the instance. Start a node, free capacity, or relax the labels."""

    code = "node.none_fits"
    status = 503
    close_code = None
    retry = Retry.SAFE
    sentence = "No live node can take the instance."
    advice = "Start a node, free capacity, or relax the labels."


class RegistryUnavailable(PlatformError):
    """The registry cannot be reached. Try again shortly."""

    code = "registry.unavailable"
    status = 503
    close_code = 1013
    retry = Retry.SAFE
    sentence = "The registry cannot be reached."
    advice = "Try again shortly."


class ArchiveUnavailable(PlatformError):
    """The archive of events does not answer at present. Try again shortly; live events are not affected."""

    code = "archive.unavailable"
    status = 503
    close_code = None
    retry = Retry.SAFE
    sentence = "The archive of events does not answer at present."
    advice = "Try again shortly; live events are not affected."


class StoreCorrupt(PlatformError):
    """The store's file is damaged. Restore it from a backup, or move it away to begin an empty cell."""

    code = "store.corrupt"
    status = 500
    close_code = None
    retry = Retry.NEVER
    sentence = "The store's file is damaged."
    advice = "Restore it from a backup, or move it away to begin an empty cell."


class StoreFull(PlatformError):
    """The disk that holds the store is full. Free space; nothing acknowledged was lost."""

    code = "store.full"
    status = 507
    close_code = None
    retry = Retry.SAFE
    sentence = "The disk that holds the store is full."
    advice = "Free space; nothing acknowledged was lost."


class StoreVersion(PlatformError):
    """The store was written by a newer release. Run that release or a newer one."""

    code = "store.version"
    status = 500
    close_code = None
    retry = Retry.NEVER
    sentence = "The store was written by a newer release."
    advice = "Run that release or a newer one."


class StoreLeaseLapsed(PlatformError):
    """The lease that the change depends on has lapsed. Try again shortly."""

    code = "store.lease_lapsed"
    status = 503
    close_code = None
    retry = Retry.SAFE
    sentence = "The lease that the change depends on has lapsed."
    advice = "Try again shortly."


class ListenInUse(CallerError):
    """Another program listens on this address. Stop it, or choose another address; port 0 takes any free one."""

    code = "listen.in_use"
    status = None
    close_code = None
    retry = Retry.NEVER
    sentence = "Another program listens on this address."
    advice = "Stop it, or choose another address; port 0 takes any free one."


class ConfigInvalid(CallerError):
    """The configuration is not valid. Correct what the detail names."""

    code = "config.invalid"
    status = None
    close_code = None
    retry = Retry.NEVER
    sentence = "The configuration is not valid."
    advice = "Correct what the detail names."


class GatewayDraining(PlatformError):
    """The gateway is shutting down. Connect again; another gateway answers."""

    code = "gateway.draining"
    status = 503
    close_code = 1012
    retry = Retry.SAFE
    sentence = "The gateway is shutting down."
    advice = "Connect again; another gateway answers."


class GatewayUnreachable(PlatformError):
    """The gateway could not be reached. Start it, or check its address, the network between, and its certificate."""

    code = "gateway.unreachable"
    status = None
    close_code = None
    retry = Retry.SAFE
    sentence = "The gateway could not be reached."
    advice = "Start it, or check its address, the network between, and its certificate."


class AgentSilent(PlatformError):
    """An agent does not answer its node. Read agent.log in the instance's directory on the node; a machine without memory or processors left is the usual cause."""

    code = "agent.silent"
    status = None
    close_code = None
    retry = Retry.SAFE
    sentence = "An agent does not answer its node."
    advice = "Read agent.log in the instance's directory on the node; a machine without memory or processors left is the usual cause."


class LimitRate(CallerError):
    """Too many requests. Slow down; Retry-After says for how long."""

    code = "limit.rate"
    status = 429
    close_code = 1013
    retry = Retry.SAFE
    sentence = "Too many requests."
    advice = "Slow down; Retry-After says for how long."


class LimitInFlight(CallerError):
    """Too many requests at once. Wait for some to finish."""

    code = "limit.in_flight"
    status = 429
    close_code = 1013
    retry = Retry.SAFE
    sentence = "Too many requests at once."
    advice = "Wait for some to finish."


class LimitSessions(CallerError):
    """Too many open sessions. Close some."""

    code = "limit.sessions"
    status = 429
    close_code = 1013
    retry = Retry.SAFE
    sentence = "Too many open sessions."
    advice = "Close some."


class LimitProcesses(CallerError):
    """Too many processes in this instance. Delete some that have exited."""

    code = "limit.processes"
    status = 429
    close_code = None
    retry = Retry.SAFE
    sentence = "Too many processes in this instance."
    advice = "Delete some that have exited."


class LimitWatches(CallerError):
    """Too much is watched at once. End another watch, or watch fewer directories."""

    code = "limit.watches"
    status = 429
    close_code = None
    retry = Retry.SAFE
    sentence = "Too much is watched at once."
    advice = "End another watch, or watch fewer directories."


class LimitBody(CallerError):
    """The body is too large. Send less, or send it in parts."""

    code = "limit.body"
    status = 413
    close_code = 1009
    retry = Retry.NEVER
    sentence = "The body is too large."
    advice = "Send less, or send it in parts."


class LimitHeader(CallerError):
    """The request's head is too large. Send fewer or shorter headers; 64 KiB is the most."""

    code = "limit.header"
    status = 431
    close_code = 1009
    retry = Retry.NEVER
    sentence = "The request's head is too large."
    advice = "Send fewer or shorter headers; 64 KiB is the most."


class LimitMessage(CallerError):
    """The message is too large. Send smaller messages."""

    code = "limit.message"
    status = None
    close_code = 1009
    retry = Retry.NEVER
    sentence = "The message is too large."
    advice = "Send smaller messages."


class RequestTimeout(CallerError):
    """The request did not arrive in time. Send its head at once, within 10 seconds if the gateway does not say otherwise, and its body without long pauses."""

    code = "request.timeout"
    status = 408
    close_code = None
    retry = Retry.SAFE
    sentence = "The request did not arrive in time."
    advice = "Send its head at once, within 10 seconds if the gateway does not say otherwise, and its body without long pauses."


class Internal(PlatformError):
    """Something went wrong inside Landfast. Report it with the request id."""

    code = "internal"
    status = 500
    close_code = 1011
    retry = Retry.NEVER
    sentence = "Something went wrong inside Landfast."
    advice = "Report it with the request id."


TABLE: dict[str, type[Refused]] = {
    "request.invalid": RequestInvalid,
    "request.not_found": RequestNotFound,
    "request.method": RequestMethod,
    "request.version": RequestVersion,
    "request.expectation": RequestExpectation,
    "request.conflict": RequestConflict,
    "request.key_reused": RequestKeyReused,
    "request.repeated": RequestRepeated,
    "name.taken": NameTaken,
    "pool.in_use": PoolInUse,
    "auth.missing": AuthMissing,
    "auth.invalid": AuthInvalid,
    "auth.expired": AuthExpired,
    "auth.forbidden": AuthForbidden,
    "auth.revoked": AuthRevoked,
    "key.unknown": KeyUnknown,
    "key.last": KeyLast,
    "instance.unknown": InstanceUnknown,
    "instance.gone": InstanceGone,
    "instance.stopped": InstanceStopped,
    "instance.failed": InstanceFailed,
    "instance.lost": InstanceLost,
    "instance.starting": InstanceStarting,
    "instance.moving": InstanceMoving,
    "instance.waking": InstanceWaking,
    "instance.sleeping": InstanceSleeping,
    "sleep.refused": SleepRefused,
    "move.refused": MoveRefused,
    "move.failed": MoveFailed,
    "process.unknown": ProcessUnknown,
    "process.exited": ProcessExited,
    "process.not_running": ProcessNotRunning,
    "process.no_terminal": ProcessNoTerminal,
    "process.stdin_closed": ProcessStdinClosed,
    "process.spawn": ProcessSpawn,
    "session.unknown": SessionUnknown,
    "session.forbidden": SessionForbidden,
    "session.superseded": SessionSuperseded,
    "session.slow_client": SessionSlowClient,
    "client.close": ClientClose,
    "client.lost": ClientLost,
    "link.protocol": LinkProtocol,
    "link.record_too_large": LinkRecordTooLarge,
    "link.window": LinkWindow,
    "link.version": LinkVersion,
    "service.unknown": ServiceUnknown,
    "file.not_found": FileNotFound,
    "file.exists": FileExists,
    "file.not_a_file": FileNotAFile,
    "file.not_a_directory": FileNotADirectory,
    "file.not_empty": FileNotEmpty,
    "file.denied": FileDenied,
    "file.escape": FileEscape,
    "file.archive": FileArchive,
    "file.range": FileRange,
    "file.changed": FileChanged,
    "file.no_space": FileNoSpace,
    "file.other_device": FileOtherDevice,
    "file.failed": FileFailed,
    "browser.down": BrowserDown,
    "upstream.refused": UpstreamRefused,
    "upstream.lost": UpstreamLost,
    "upstream.ended": UpstreamEnded,
    "upstream.protocol": UpstreamProtocol,
    "upstream.timeout": UpstreamTimeout,
    "upstream.changed": UpstreamChanged,
    "upstream.flapping": UpstreamFlapping,
    "node.not_here": NodeNotHere,
    "node.stale_generation": NodeStaleGeneration,
    "node.draining": NodeDraining,
    "node.unreachable": NodeUnreachable,
    "node.untrusted": NodeUntrusted,
    "node.unknown": NodeUnknown,
    "node.none_fits": NodeNoneFits,
    "registry.unavailable": RegistryUnavailable,
    "archive.unavailable": ArchiveUnavailable,
    "store.corrupt": StoreCorrupt,
    "store.full": StoreFull,
    "store.version": StoreVersion,
    "store.lease_lapsed": StoreLeaseLapsed,
    "listen.in_use": ListenInUse,
    "config.invalid": ConfigInvalid,
    "gateway.draining": GatewayDraining,
    "gateway.unreachable": GatewayUnreachable,
    "agent.silent": AgentSilent,
    "limit.rate": LimitRate,
    "limit.in_flight": LimitInFlight,
    "limit.sessions": LimitSessions,
    "limit.processes": LimitProcesses,
    "limit.watches": LimitWatches,
    "limit.body": LimitBody,
    "limit.header": LimitHeader,
    "limit.message": LimitMessage,
    "request.timeout": RequestTimeout,
    "internal": Internal,
}
