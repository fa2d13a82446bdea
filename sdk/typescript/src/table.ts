/**
 * Every way in which Landfast says no, a class each.
 *
 * Made from crates/core/src/error.rs by `cargo xtask docs`.
 *
 * @module
 */

import { CallerError, InstanceError, OrdinaryEnd, PlatformError, type Row, type Told } from "./failure.js";

/** The request could not be understood. Correct what the detail names and send it again. */
export class RequestInvalid extends CallerError {
  static override readonly row: Row = {
    name: "RequestInvalid",
    code: "request.invalid",
    status: 400,
    closeCode: 1002,
    retry: "never",
    sentence: "The request could not be understood.",
    advice: "Correct what the detail names and send it again.",
  };
}

/** There is nothing at this path. Compare the path with the API reference. */
export class RequestNotFound extends CallerError {
  static override readonly row: Row = {
    name: "RequestNotFound",
    code: "request.not_found",
    status: 404,
    closeCode: 4404,
    retry: "never",
    sentence: "There is nothing at this path.",
    advice: "Compare the path with the API reference.",
  };
}

/** This path does not take this method. Use a method the Allow header lists. */
export class RequestMethod extends CallerError {
  static override readonly row: Row = {
    name: "RequestMethod",
    code: "request.method",
    status: 405,
    retry: "never",
    sentence: "This path does not take this method.",
    advice: "Use a method the Allow header lists.",
  };
}

/** This HTTP version is not spoken here. Use HTTP/1.1 or HTTP/2. */
export class RequestVersion extends CallerError {
  static override readonly row: Row = {
    name: "RequestVersion",
    code: "request.version",
    status: 505,
    retry: "never",
    sentence: "This HTTP version is not spoken here.",
    advice: "Use HTTP/1.1 or HTTP/2.",
  };
}

/** This expectation cannot be met. Send Expect: 100-continue, or none. */
export class RequestExpectation extends CallerError {
  static override readonly row: Row = {
    name: "RequestExpectation",
    code: "request.expectation",
    status: 417,
    retry: "never",
    sentence: "This expectation cannot be met.",
    advice: "Send Expect: 100-continue, or none.",
  };
}

/** Another request changed the same record first. Read the record again and repeat the change. */
export class RequestConflict extends CallerError {
  static override readonly row: Row = {
    name: "RequestConflict",
    code: "request.conflict",
    status: 409,
    retry: "safe",
    sentence: "Another request changed the same record first.",
    advice: "Read the record again and repeat the change.",
  };
}

/** This Idempotency-Key was used with another request. Use a new key for a new request. */
export class RequestKeyReused extends CallerError {
  static override readonly row: Row = {
    name: "RequestKeyReused",
    code: "request.key_reused",
    status: 422,
    retry: "never",
    sentence: "This Idempotency-Key was used with another request.",
    advice: "Use a new key for a new request.",
  };
}

/** This repeats a request that was sent before, and what came of that one is not known any more. Look at what it should have done, then send a new one. */
export class RequestRepeated extends CallerError {
  static override readonly row: Row = {
    name: "RequestRepeated",
    code: "request.repeated",
    status: 409,
    retry: "never",
    sentence: "This repeats a request that was sent before, and what came of that one is not known any more.",
    advice: "Look at what it should have done, then send a new one.",
  };
}

/** Something else has this name. Choose another name, or end what has it. */
export class NameTaken extends CallerError {
  static override readonly row: Row = {
    name: "NameTaken",
    code: "name.taken",
    status: 409,
    retry: "never",
    sentence: "Something else has this name.",
    advice: "Choose another name, or end what has it.",
  };
}

/** Browsers of the pool are acquired. Release them first, or say force. */
export class PoolInUse extends CallerError {
  static override readonly row: Row = {
    name: "PoolInUse",
    code: "pool.in_use",
    status: 409,
    retry: "never",
    sentence: "Browsers of the pool are acquired.",
    advice: "Release them first, or say force.",
  };
}

/** The request carries no token. Send an access token for this instance, or an API key to the control plane, as Authorization: Bearer. */
export class AuthMissing extends CallerError {
  static override readonly row: Row = {
    name: "AuthMissing",
    code: "auth.missing",
    status: 401,
    closeCode: 1008,
    retry: "never",
    sentence: "The request carries no token.",
    advice: "Send an access token for this instance, or an API key to the control plane, as Authorization: Bearer.",
  };
}

/** The token is not one of ours. Ask the control plane for a new token. */
export class AuthInvalid extends CallerError {
  static override readonly row: Row = {
    name: "AuthInvalid",
    code: "auth.invalid",
    status: 401,
    closeCode: 1008,
    retry: "never",
    sentence: "The token is not one of ours.",
    advice: "Ask the control plane for a new token.",
  };
}

/** The token has expired. Ask the control plane for a new token. */
export class AuthExpired extends CallerError {
  static override readonly row: Row = {
    name: "AuthExpired",
    code: "auth.expired",
    status: 401,
    closeCode: 1008,
    retry: "never",
    sentence: "The token has expired.",
    advice: "Ask the control plane for a new token.",
  };
}

/** The token does not allow this. Use a token for this instance with the scope the detail names. */
export class AuthForbidden extends CallerError {
  static override readonly row: Row = {
    name: "AuthForbidden",
    code: "auth.forbidden",
    status: 403,
    closeCode: 1008,
    retry: "never",
    sentence: "The token does not allow this.",
    advice: "Use a token for this instance with the scope the detail names.",
  };
}

/** The token has been revoked. Ask the control plane for a new token. */
export class AuthRevoked extends CallerError {
  static override readonly row: Row = {
    name: "AuthRevoked",
    code: "auth.revoked",
    status: 403,
    closeCode: 1008,
    retry: "never",
    sentence: "The token has been revoked.",
    advice: "Ask the control plane for a new token.",
  };
}

/** There is no API key with this id. `landfast key ls` lists them. */
export class KeyUnknown extends CallerError {
  static override readonly row: Row = {
    name: "KeyUnknown",
    code: "key.unknown",
    status: 404,
    retry: "never",
    sentence: "There is no API key with this id.",
    advice: "`landfast key ls` lists them.",
  };
}

/** This is the last API key; without one nobody could make another. Make another key first. */
export class KeyLast extends CallerError {
  static override readonly row: Row = {
    name: "KeyLast",
    code: "key.last",
    status: 409,
    retry: "never",
    sentence: "This is the last API key; without one nobody could make another.",
    advice: "Make another key first.",
  };
}

/** There has never been an instance with this id. Check the id; `landfast ls` lists the live ones. */
export class InstanceUnknown extends CallerError {
  static override readonly row: Row = {
    name: "InstanceUnknown",
    code: "instance.unknown",
    status: 404,
    closeCode: 4404,
    retry: "never",
    sentence: "There has never been an instance with this id.",
    advice: "Check the id; `landfast ls` lists the live ones.",
  };
}

/** The instance was deleted. Create a new one. */
export class InstanceGone extends CallerError {
  static override readonly row: Row = {
    name: "InstanceGone",
    code: "instance.gone",
    status: 410,
    closeCode: 4410,
    retry: "never",
    sentence: "The instance was deleted.",
    advice: "Create a new one.",
  };
}

/** The instance was stopped on request. Create a new one. */
export class InstanceStopped extends CallerError {
  static override readonly row: Row = {
    name: "InstanceStopped",
    code: "instance.stopped",
    status: 409,
    closeCode: 1000,
    retry: "never",
    sentence: "The instance was stopped on request.",
    advice: "Create a new one.",
  };
}

/** The instance failed. Read its reason with `landfast get`, then create a new one. */
export class InstanceFailed extends InstanceError {
  static override readonly row: Row = {
    name: "InstanceFailed",
    code: "instance.failed",
    status: 502,
    closeCode: 1011,
    retry: "never",
    sentence: "The instance failed.",
    advice: "Read its reason with `landfast get`, then create a new one.",
  };
}

/** The node that ran the instance was lost. Create a new one, or use restart: always. */
export class InstanceLost extends PlatformError {
  static override readonly row: Row = {
    name: "InstanceLost",
    code: "instance.lost",
    status: 502,
    closeCode: 1011,
    retry: "never",
    sentence: "The node that ran the instance was lost.",
    advice: "Create a new one, or use restart: always.",
  };
}

/** The instance is starting. Try again shortly. */
export class InstanceStarting extends PlatformError {
  static override readonly row: Row = {
    name: "InstanceStarting",
    code: "instance.starting",
    status: 503,
    closeCode: 1013,
    retry: "safe",
    sentence: "The instance is starting.",
    advice: "Try again shortly.",
  };
}

/** The instance is moving to another node. Try again shortly. */
export class InstanceMoving extends PlatformError {
  static override readonly row: Row = {
    name: "InstanceMoving",
    code: "instance.moving",
    status: 503,
    closeCode: 1013,
    retry: "safe",
    sentence: "The instance is moving to another node.",
    advice: "Try again shortly.",
  };
}

/** The instance is waking. Try again shortly. */
export class InstanceWaking extends PlatformError {
  static override readonly row: Row = {
    name: "InstanceWaking",
    code: "instance.waking",
    status: 503,
    closeCode: 1013,
    retry: "safe",
    sentence: "The instance is waking.",
    advice: "Try again shortly.",
  };
}

/** The instance is asleep. Wake it with `landfast wake`, or send it a request. */
export class InstanceSleeping extends CallerError {
  static override readonly row: Row = {
    name: "InstanceSleeping",
    code: "instance.sleeping",
    status: 409,
    retry: "never",
    sentence: "The instance is asleep.",
    advice: "Wake it with `landfast wake`, or send it a request.",
  };
}

/** The instance cannot be put to sleep. Choose a running instance that a node of the cell runs. */
export class SleepRefused extends CallerError {
  static override readonly row: Row = {
    name: "SleepRefused",
    code: "sleep.refused",
    status: 409,
    retry: "never",
    sentence: "The instance cannot be put to sleep.",
    advice: "Choose a running instance that a node of the cell runs.",
  };
}

/** The instance cannot be moved there. Choose a running instance and a live node on the same host. */
export class MoveRefused extends CallerError {
  static override readonly row: Row = {
    name: "MoveRefused",
    code: "move.refused",
    status: 409,
    retry: "never",
    sentence: "The instance cannot be moved there.",
    advice: "Choose a running instance and a live node on the same host.",
  };
}

/** The move was given up; the instance stays where it was. Try again, or choose another node. */
export class MoveFailed extends PlatformError {
  static override readonly row: Row = {
    name: "MoveFailed",
    code: "move.failed",
    status: 502,
    retry: "safe",
    sentence: "The move was given up; the instance stays where it was.",
    advice: "Try again, or choose another node.",
  };
}

/** The instance has no process with this id. List its processes. */
export class ProcessUnknown extends CallerError {
  static override readonly row: Row = {
    name: "ProcessUnknown",
    code: "process.unknown",
    status: 404,
    closeCode: 4404,
    retry: "never",
    sentence: "The instance has no process with this id.",
    advice: "List its processes.",
  };
}

/** The process has exited. Its exit status was sent before this. */
export class ProcessExited extends OrdinaryEnd {
  static override readonly row: Row = {
    name: "ProcessExited",
    code: "process.exited",
    closeCode: 1000,
    retry: "never",
    sentence: "The process has exited.",
    advice: "Its exit status was sent before this.",
  };
}

/** The process has exited already. Read its exit status. */
export class ProcessNotRunning extends CallerError {
  static override readonly row: Row = {
    name: "ProcessNotRunning",
    code: "process.not_running",
    status: 409,
    retry: "never",
    sentence: "The process has exited already.",
    advice: "Read its exit status.",
  };
}

/** The process has no terminal. Start it with tty to resize it or to attach from its screen. */
export class ProcessNoTerminal extends CallerError {
  static override readonly row: Row = {
    name: "ProcessNoTerminal",
    code: "process.no_terminal",
    status: 409,
    retry: "never",
    sentence: "The process has no terminal.",
    advice: "Start it with tty to resize it or to attach from its screen.",
  };
}

/** The input of the process is closed. Start it with stdin open, and write before end of input. */
export class ProcessStdinClosed extends CallerError {
  static override readonly row: Row = {
    name: "ProcessStdinClosed",
    code: "process.stdin_closed",
    status: 409,
    retry: "never",
    sentence: "The input of the process is closed.",
    advice: "Start it with stdin open, and write before end of input.",
  };
}

/** The command could not be started. Correct what the detail names. */
export class ProcessSpawn extends CallerError {
  static override readonly row: Row = {
    name: "ProcessSpawn",
    code: "process.spawn",
    status: 422,
    retry: "never",
    sentence: "The command could not be started.",
    advice: "Correct what the detail names.",
  };
}

/** The session has ended, or never was. Open a new one; a process can be attached again by offset. */
export class SessionUnknown extends CallerError {
  static override readonly row: Row = {
    name: "SessionUnknown",
    code: "session.unknown",
    status: 404,
    closeCode: 4404,
    retry: "never",
    sentence: "The session has ended, or never was.",
    advice: "Open a new one; a process can be attached again by offset.",
  };
}

/** The session's secret is wrong. Use the secret that came with the session. */
export class SessionForbidden extends CallerError {
  static override readonly row: Row = {
    name: "SessionForbidden",
    code: "session.forbidden",
    status: 403,
    closeCode: 1008,
    retry: "never",
    sentence: "The session's secret is wrong.",
    advice: "Use the secret that came with the session.",
  };
}

/** A newer link carries this session. Let the newer link go on, or close it. */
export class SessionSuperseded extends CallerError {
  static override readonly row: Row = {
    name: "SessionSuperseded",
    code: "session.superseded",
    status: 409,
    closeCode: 4409,
    retry: "never",
    sentence: "A newer link carries this session.",
    advice: "Let the newer link go on, or close it.",
  };
}

/** The client took no byte for too long. Read faster, or attach again by offset. */
export class SessionSlowClient extends CallerError {
  static override readonly row: Row = {
    name: "SessionSlowClient",
    code: "session.slow_client",
    closeCode: 1008,
    retry: "never",
    sentence: "The client took no byte for too long.",
    advice: "Read faster, or attach again by offset.",
  };
}

/** The client closed the session. Nothing to do. */
export class ClientClose extends OrdinaryEnd {
  static override readonly row: Row = {
    name: "ClientClose",
    code: "client.close",
    closeCode: 1000,
    retry: "never",
    sentence: "The client closed the session.",
    advice: "Nothing to do.",
  };
}

/** The client's connection was lost. Attach again; processes go on running. */
export class ClientLost extends CallerError {
  static override readonly row: Row = {
    name: "ClientLost",
    code: "client.lost",
    closeCode: 1001,
    retry: "never",
    sentence: "The client's connection was lost.",
    advice: "Attach again; processes go on running.",
  };
}

/** The peer broke the link protocol. Use a client that speaks landfast-link/1 correctly; the detail names the record. */
export class LinkProtocol extends CallerError {
  static override readonly row: Row = {
    name: "LinkProtocol",
    code: "link.protocol",
    status: 400,
    closeCode: 1002,
    retry: "never",
    sentence: "The peer broke the link protocol.",
    advice: "Use a client that speaks landfast-link/1 correctly; the detail names the record.",
  };
}

/** A link record was larger than its kind allows. Send at most 65,536 bytes of data in a record. */
export class LinkRecordTooLarge extends CallerError {
  static override readonly row: Row = {
    name: "LinkRecordTooLarge",
    code: "link.record_too_large",
    closeCode: 1002,
    retry: "never",
    sentence: "A link record was larger than its kind allows.",
    advice: "Send at most 65,536 bytes of data in a record.",
  };
}

/** A link record went past the window. Send no more than the window beyond what was acknowledged. */
export class LinkWindow extends CallerError {
  static override readonly row: Row = {
    name: "LinkWindow",
    code: "link.window",
    closeCode: 1002,
    retry: "never",
    sentence: "A link record went past the window.",
    advice: "Send no more than the window beyond what was acknowledged.",
  };
}

/** This link version is not spoken here. Use landfast-link/1. */
export class LinkVersion extends CallerError {
  static override readonly row: Row = {
    name: "LinkVersion",
    code: "link.version",
    status: 426,
    closeCode: 1002,
    retry: "never",
    sentence: "This link version is not spoken here.",
    advice: "Use landfast-link/1.",
  };
}

/** The instance has no service with this name. Read the instance's spec, or reach a port by its number. */
export class ServiceUnknown extends CallerError {
  static override readonly row: Row = {
    name: "ServiceUnknown",
    code: "service.unknown",
    status: 404,
    closeCode: 4404,
    retry: "never",
    sentence: "The instance has no service with this name.",
    advice: "Read the instance's spec, or reach a port by its number.",
  };
}

/** There is no file or directory with this path. Check the path; relative ones begin at the instance's home. */
export class FileNotFound extends CallerError {
  static override readonly row: Row = {
    name: "FileNotFound",
    code: "file.not_found",
    status: 404,
    retry: "never",
    sentence: "There is no file or directory with this path.",
    advice: "Check the path; relative ones begin at the instance's home.",
  };
}

/** Something is there already. Remove it first, choose another path, or ask to overwrite. */
export class FileExists extends CallerError {
  static override readonly row: Row = {
    name: "FileExists",
    code: "file.exists",
    status: 409,
    retry: "never",
    sentence: "Something is there already.",
    advice: "Remove it first, choose another path, or ask to overwrite.",
  };
}

/** What is there is no file with content. For a directory use its own calls; pipes, sockets and devices are for programs. */
export class FileNotAFile extends CallerError {
  static override readonly row: Row = {
    name: "FileNotAFile",
    code: "file.not_a_file",
    status: 409,
    retry: "never",
    sentence: "What is there is no file with content.",
    advice: "For a directory use its own calls; pipes, sockets and devices are for programs.",
  };
}

/** What is there is no directory. Check the path. */
export class FileNotADirectory extends CallerError {
  static override readonly row: Row = {
    name: "FileNotADirectory",
    code: "file.not_a_directory",
    status: 409,
    retry: "never",
    sentence: "What is there is no directory.",
    advice: "Check the path.",
  };
}

/** The directory is not empty. Remove the tree, if all of it is to go. */
export class FileNotEmpty extends CallerError {
  static override readonly row: Row = {
    name: "FileNotEmpty",
    code: "file.not_empty",
    status: 409,
    retry: "never",
    sentence: "The directory is not empty.",
    advice: "Remove the tree, if all of it is to go.",
  };
}

/** The instance's user may not do this with the file. Change the file's mode, or choose another path. */
export class FileDenied extends CallerError {
  static override readonly row: Row = {
    name: "FileDenied",
    code: "file.denied",
    status: 403,
    retry: "never",
    sentence: "The instance's user may not do this with the file.",
    advice: "Change the file's mode, or choose another path.",
  };
}

/** An entry of the archive would lead out of where it is put. Pack the tree without what the detail names. */
export class FileEscape extends CallerError {
  static override readonly row: Row = {
    name: "FileEscape",
    code: "file.escape",
    status: 422,
    retry: "never",
    sentence: "An entry of the archive would lead out of where it is put.",
    advice: "Pack the tree without what the detail names.",
  };
}

/** The body is no tar archive that can be unpacked here. Send a whole tar archive without compression. */
export class FileArchive extends CallerError {
  static override readonly row: Row = {
    name: "FileArchive",
    code: "file.archive",
    status: 422,
    retry: "never",
    sentence: "The body is no tar archive that can be unpacked here.",
    advice: "Send a whole tar archive without compression.",
  };
}

/** The file has no such part. Content-Range says its size. */
export class FileRange extends CallerError {
  static override readonly row: Row = {
    name: "FileRange",
    code: "file.range",
    status: 416,
    retry: "never",
    sentence: "The file has no such part.",
    advice: "Content-Range says its size.",
  };
}

/** The file is not the one that was named. Read it again, then decide. */
export class FileChanged extends CallerError {
  static override readonly row: Row = {
    name: "FileChanged",
    code: "file.changed",
    status: 412,
    retry: "never",
    sentence: "The file is not the one that was named.",
    advice: "Read it again, then decide.",
  };
}

/** There is no space left for the file. Free space in the instance; what was there before is still there. */
export class FileNoSpace extends InstanceError {
  static override readonly row: Row = {
    name: "FileNoSpace",
    code: "file.no_space",
    status: 507,
    retry: "never",
    sentence: "There is no space left for the file.",
    advice: "Free space in the instance; what was there before is still there.",
  };
}

/** A directory cannot be moved to another file system. Copy it as a tree, then remove it. */
export class FileOtherDevice extends CallerError {
  static override readonly row: Row = {
    name: "FileOtherDevice",
    code: "file.other_device",
    status: 409,
    retry: "never",
    sentence: "A directory cannot be moved to another file system.",
    advice: "Copy it as a tree, then remove it.",
  };
}

/** The instance's file system failed. The detail has its words. */
export class FileFailed extends InstanceError {
  static override readonly row: Row = {
    name: "FileFailed",
    code: "file.failed",
    status: 500,
    retry: "never",
    sentence: "The instance's file system failed.",
    advice: "The detail has its words.",
  };
}

/** The browser does not run, and is not started again by itself. Read GET /browser for the cause, then start it anew with POST /browser/restart. */
export class BrowserDown extends InstanceError {
  static override readonly row: Row = {
    name: "BrowserDown",
    code: "browser.down",
    status: 503,
    closeCode: 1011,
    retry: "never",
    sentence: "The browser does not run, and is not started again by itself.",
    advice: "Read GET /browser for the cause, then start it anew with POST /browser/restart.",
  };
}

/** Nothing listens on this port of the instance. Start the program, or check the port. */
export class UpstreamRefused extends InstanceError {
  static override readonly row: Row = {
    name: "UpstreamRefused",
    code: "upstream.refused",
    status: 502,
    closeCode: 1014,
    retry: "safe",
    sentence: "Nothing listens on this port of the instance.",
    advice: "Start the program, or check the port.",
  };
}

/** The connection to the instance's program was lost. Repeat the request if that is safe. */
export class UpstreamLost extends InstanceError {
  static override readonly row: Row = {
    name: "UpstreamLost",
    code: "upstream.lost",
    status: 502,
    closeCode: 1014,
    retry: "if idempotent",
    sentence: "The connection to the instance's program was lost.",
    advice: "Repeat the request if that is safe.",
  };
}

/** The instance's program ended the connection. Nothing to do; connect again to say more. */
export class UpstreamEnded extends OrdinaryEnd {
  static override readonly row: Row = {
    name: "UpstreamEnded",
    code: "upstream.ended",
    retry: "never",
    sentence: "The instance's program ended the connection.",
    advice: "Nothing to do; connect again to say more.",
  };
}

/** The instance's program answered with something that is not HTTP. Look at the program's log; the detail says what came. */
export class UpstreamProtocol extends InstanceError {
  static override readonly row: Row = {
    name: "UpstreamProtocol",
    code: "upstream.protocol",
    status: 502,
    closeCode: 1014,
    retry: "never",
    sentence: "The instance's program answered with something that is not HTTP.",
    advice: "Look at the program's log; the detail says what came.",
  };
}

/** The instance's program did not answer in time. Repeat the request if that is safe. */
export class UpstreamTimeout extends InstanceError {
  static override readonly row: Row = {
    name: "UpstreamTimeout",
    code: "upstream.timeout",
    status: 504,
    closeCode: 1014,
    retry: "if idempotent",
    sentence: "The instance's program did not answer in time.",
    advice: "Repeat the request if that is safe.",
  };
}

/** The service was started anew; what it held in memory is lost. Connect again. */
export class UpstreamChanged extends InstanceError {
  static override readonly row: Row = {
    name: "UpstreamChanged",
    code: "upstream.changed",
    status: 502,
    closeCode: 1012,
    retry: "never",
    sentence: "The service was started anew; what it held in memory is lost.",
    advice: "Connect again.",
  };
}

/** The connection was lost again and again without progress. Look at the instance's events and logs. */
export class UpstreamFlapping extends InstanceError {
  static override readonly row: Row = {
    name: "UpstreamFlapping",
    code: "upstream.flapping",
    status: 502,
    closeCode: 1011,
    retry: "never",
    sentence: "The connection was lost again and again without progress.",
    advice: "Look at the instance's events and logs.",
  };
}

/** This node does not run the instance. Resolve the instance again. */
export class NodeNotHere extends PlatformError {
  static override readonly row: Row = {
    name: "NodeNotHere",
    code: "node.not_here",
    status: 503,
    retry: "safe",
    sentence: "This node does not run the instance.",
    advice: "Resolve the instance again.",
  };
}

/** The route is of an older life of the instance. Resolve the instance again. */
export class NodeStaleGeneration extends PlatformError {
  static override readonly row: Row = {
    name: "NodeStaleGeneration",
    code: "node.stale_generation",
    status: 503,
    retry: "safe",
    sentence: "The route is of an older life of the instance.",
    advice: "Resolve the instance again.",
  };
}

/** The node takes nothing new. Resolve the instance again. */
export class NodeDraining extends PlatformError {
  static override readonly row: Row = {
    name: "NodeDraining",
    code: "node.draining",
    status: 503,
    retry: "safe",
    sentence: "The node takes nothing new.",
    advice: "Resolve the instance again.",
  };
}

/** The node could not be reached. Try again shortly. */
export class NodeUnreachable extends PlatformError {
  static override readonly row: Row = {
    name: "NodeUnreachable",
    code: "node.unreachable",
    status: 503,
    closeCode: 1013,
    retry: "safe",
    sentence: "The node could not be reached.",
    advice: "Try again shortly.",
  };
}

/** What answers at the node's address does not prove that it is a node of this cell. Compare the certificates of both ends: `landfast ca issue` makes new ones. */
export class NodeUntrusted extends PlatformError {
  static override readonly row: Row = {
    name: "NodeUntrusted",
    code: "node.untrusted",
    status: 503,
    closeCode: 1013,
    retry: "safe",
    sentence: "What answers at the node's address does not prove that it is a node of this cell.",
    advice: "Compare the certificates of both ends: `landfast ca issue` makes new ones.",
  };
}

/** There is no live node with this id or name. `landfast node ls` lists the live ones. */
export class NodeUnknown extends CallerError {
  static override readonly row: Row = {
    name: "NodeUnknown",
    code: "node.unknown",
    status: 404,
    retry: "never",
    sentence: "There is no live node with this id or name.",
    advice: "`landfast node ls` lists the live ones.",
  };
}

/** No live node can take the instance. Start a node, free capacity, or relax the labels. */
export class NodeNoneFits extends PlatformError {
  static override readonly row: Row = {
    name: "NodeNoneFits",
    code: "node.none_fits",
    status: 503,
    retry: "safe",
    sentence: "No live node can take the instance.",
    advice: "Start a node, free capacity, or relax the labels.",
  };
}

/** The registry cannot be reached. Try again shortly. */
export class RegistryUnavailable extends PlatformError {
  static override readonly row: Row = {
    name: "RegistryUnavailable",
    code: "registry.unavailable",
    status: 503,
    closeCode: 1013,
    retry: "safe",
    sentence: "The registry cannot be reached.",
    advice: "Try again shortly.",
  };
}

/** The archive of events does not answer at present. Try again shortly; live events are not affected. */
export class ArchiveUnavailable extends PlatformError {
  static override readonly row: Row = {
    name: "ArchiveUnavailable",
    code: "archive.unavailable",
    status: 503,
    retry: "safe",
    sentence: "The archive of events does not answer at present.",
    advice: "Try again shortly; live events are not affected.",
  };
}

/** The store's file is damaged. Restore it from a backup, or move it away to begin an empty cell. */
export class StoreCorrupt extends PlatformError {
  static override readonly row: Row = {
    name: "StoreCorrupt",
    code: "store.corrupt",
    status: 500,
    retry: "never",
    sentence: "The store's file is damaged.",
    advice: "Restore it from a backup, or move it away to begin an empty cell.",
  };
}

/** The disk that holds the store is full. Free space; nothing acknowledged was lost. */
export class StoreFull extends PlatformError {
  static override readonly row: Row = {
    name: "StoreFull",
    code: "store.full",
    status: 507,
    retry: "safe",
    sentence: "The disk that holds the store is full.",
    advice: "Free space; nothing acknowledged was lost.",
  };
}

/** The store was written by a newer release. Run that release or a newer one. */
export class StoreVersion extends PlatformError {
  static override readonly row: Row = {
    name: "StoreVersion",
    code: "store.version",
    status: 500,
    retry: "never",
    sentence: "The store was written by a newer release.",
    advice: "Run that release or a newer one.",
  };
}

/** The lease that the change depends on has lapsed. Try again shortly. */
export class StoreLeaseLapsed extends PlatformError {
  static override readonly row: Row = {
    name: "StoreLeaseLapsed",
    code: "store.lease_lapsed",
    status: 503,
    retry: "safe",
    sentence: "The lease that the change depends on has lapsed.",
    advice: "Try again shortly.",
  };
}

/** Another program listens on this address. Stop it, or choose another address; port 0 takes any free one. */
export class ListenInUse extends CallerError {
  static override readonly row: Row = {
    name: "ListenInUse",
    code: "listen.in_use",
    retry: "never",
    sentence: "Another program listens on this address.",
    advice: "Stop it, or choose another address; port 0 takes any free one.",
  };
}

/** The configuration is not valid. Correct what the detail names. */
export class ConfigInvalid extends CallerError {
  static override readonly row: Row = {
    name: "ConfigInvalid",
    code: "config.invalid",
    retry: "never",
    sentence: "The configuration is not valid.",
    advice: "Correct what the detail names.",
  };
}

/** The gateway is shutting down. Connect again; another gateway answers. */
export class GatewayDraining extends PlatformError {
  static override readonly row: Row = {
    name: "GatewayDraining",
    code: "gateway.draining",
    status: 503,
    closeCode: 1012,
    retry: "safe",
    sentence: "The gateway is shutting down.",
    advice: "Connect again; another gateway answers.",
  };
}

/** The gateway could not be reached. Start it, or check its address, the network between, and its certificate. */
export class GatewayUnreachable extends PlatformError {
  static override readonly row: Row = {
    name: "GatewayUnreachable",
    code: "gateway.unreachable",
    retry: "safe",
    sentence: "The gateway could not be reached.",
    advice: "Start it, or check its address, the network between, and its certificate.",
  };
}

/** An agent does not answer its node. Read agent.log in the instance's directory on the node; a machine without memory or processors left is the usual cause. */
export class AgentSilent extends PlatformError {
  static override readonly row: Row = {
    name: "AgentSilent",
    code: "agent.silent",
    retry: "safe",
    sentence: "An agent does not answer its node.",
    advice: "Read agent.log in the instance's directory on the node; a machine without memory or processors left is the usual cause.",
  };
}

/** Too many requests. Slow down; Retry-After says for how long. */
export class LimitRate extends CallerError {
  static override readonly row: Row = {
    name: "LimitRate",
    code: "limit.rate",
    status: 429,
    closeCode: 1013,
    retry: "safe",
    sentence: "Too many requests.",
    advice: "Slow down; Retry-After says for how long.",
  };
}

/** Too many requests at once. Wait for some to finish. */
export class LimitInFlight extends CallerError {
  static override readonly row: Row = {
    name: "LimitInFlight",
    code: "limit.in_flight",
    status: 429,
    closeCode: 1013,
    retry: "safe",
    sentence: "Too many requests at once.",
    advice: "Wait for some to finish.",
  };
}

/** Too many open sessions. Close some. */
export class LimitSessions extends CallerError {
  static override readonly row: Row = {
    name: "LimitSessions",
    code: "limit.sessions",
    status: 429,
    closeCode: 1013,
    retry: "safe",
    sentence: "Too many open sessions.",
    advice: "Close some.",
  };
}

/** Too many processes in this instance. Delete some that have exited. */
export class LimitProcesses extends CallerError {
  static override readonly row: Row = {
    name: "LimitProcesses",
    code: "limit.processes",
    status: 429,
    retry: "safe",
    sentence: "Too many processes in this instance.",
    advice: "Delete some that have exited.",
  };
}

/** Too much is watched at once. End another watch, or watch fewer directories. */
export class LimitWatches extends CallerError {
  static override readonly row: Row = {
    name: "LimitWatches",
    code: "limit.watches",
    status: 429,
    retry: "safe",
    sentence: "Too much is watched at once.",
    advice: "End another watch, or watch fewer directories.",
  };
}

/** The body is too large. Send less, or send it in parts. */
export class LimitBody extends CallerError {
  static override readonly row: Row = {
    name: "LimitBody",
    code: "limit.body",
    status: 413,
    closeCode: 1009,
    retry: "never",
    sentence: "The body is too large.",
    advice: "Send less, or send it in parts.",
  };
}

/** The request's head is too large. Send fewer or shorter headers; 64 KiB is the most. */
export class LimitHeader extends CallerError {
  static override readonly row: Row = {
    name: "LimitHeader",
    code: "limit.header",
    status: 431,
    closeCode: 1009,
    retry: "never",
    sentence: "The request's head is too large.",
    advice: "Send fewer or shorter headers; 64 KiB is the most.",
  };
}

/** The message is too large. Send smaller messages. */
export class LimitMessage extends CallerError {
  static override readonly row: Row = {
    name: "LimitMessage",
    code: "limit.message",
    closeCode: 1009,
    retry: "never",
    sentence: "The message is too large.",
    advice: "Send smaller messages.",
  };
}

/** The request did not arrive in time. Send its head at once, within 10 seconds if the gateway does not say otherwise, and its body without long pauses. */
export class RequestTimeout extends CallerError {
  static override readonly row: Row = {
    name: "RequestTimeout",
    code: "request.timeout",
    status: 408,
    retry: "safe",
    sentence: "The request did not arrive in time.",
    advice: "Send its head at once, within 10 seconds if the gateway does not say otherwise, and its body without long pauses.",
  };
}

/** Something went wrong inside Landfast. Report it with the request id. */
export class Internal extends PlatformError {
  static override readonly row: Row = {
    name: "Internal",
    code: "internal",
    status: 500,
    closeCode: 1011,
    retry: "never",
    sentence: "Something went wrong inside Landfast.",
    advice: "Report it with the request id.",
  };
}

/** A class of the error table. */
export interface RefusalClass {
  readonly row: Row;
  new (detail?: string, told?: Told): CallerError | InstanceError | OrdinaryEnd | PlatformError;
}

/** The classes by their codes. */
export const TABLE: ReadonlyMap<string, RefusalClass> = new Map<string, RefusalClass>([
  ["request.invalid", RequestInvalid],
  ["request.not_found", RequestNotFound],
  ["request.method", RequestMethod],
  ["request.version", RequestVersion],
  ["request.expectation", RequestExpectation],
  ["request.conflict", RequestConflict],
  ["request.key_reused", RequestKeyReused],
  ["request.repeated", RequestRepeated],
  ["name.taken", NameTaken],
  ["pool.in_use", PoolInUse],
  ["auth.missing", AuthMissing],
  ["auth.invalid", AuthInvalid],
  ["auth.expired", AuthExpired],
  ["auth.forbidden", AuthForbidden],
  ["auth.revoked", AuthRevoked],
  ["key.unknown", KeyUnknown],
  ["key.last", KeyLast],
  ["instance.unknown", InstanceUnknown],
  ["instance.gone", InstanceGone],
  ["instance.stopped", InstanceStopped],
  ["instance.failed", InstanceFailed],
  ["instance.lost", InstanceLost],
  ["instance.starting", InstanceStarting],
  ["instance.moving", InstanceMoving],
  ["instance.waking", InstanceWaking],
  ["instance.sleeping", InstanceSleeping],
  ["sleep.refused", SleepRefused],
  ["move.refused", MoveRefused],
  ["move.failed", MoveFailed],
  ["process.unknown", ProcessUnknown],
  ["process.exited", ProcessExited],
  ["process.not_running", ProcessNotRunning],
  ["process.no_terminal", ProcessNoTerminal],
  ["process.stdin_closed", ProcessStdinClosed],
  ["process.spawn", ProcessSpawn],
  ["session.unknown", SessionUnknown],
  ["session.forbidden", SessionForbidden],
  ["session.superseded", SessionSuperseded],
  ["session.slow_client", SessionSlowClient],
  ["client.close", ClientClose],
  ["client.lost", ClientLost],
  ["link.protocol", LinkProtocol],
  ["link.record_too_large", LinkRecordTooLarge],
  ["link.window", LinkWindow],
  ["link.version", LinkVersion],
  ["service.unknown", ServiceUnknown],
  ["file.not_found", FileNotFound],
  ["file.exists", FileExists],
  ["file.not_a_file", FileNotAFile],
  ["file.not_a_directory", FileNotADirectory],
  ["file.not_empty", FileNotEmpty],
  ["file.denied", FileDenied],
  ["file.escape", FileEscape],
  ["file.archive", FileArchive],
  ["file.range", FileRange],
  ["file.changed", FileChanged],
  ["file.no_space", FileNoSpace],
  ["file.other_device", FileOtherDevice],
  ["file.failed", FileFailed],
  ["browser.down", BrowserDown],
  ["upstream.refused", UpstreamRefused],
  ["upstream.lost", UpstreamLost],
  ["upstream.ended", UpstreamEnded],
  ["upstream.protocol", UpstreamProtocol],
  ["upstream.timeout", UpstreamTimeout],
  ["upstream.changed", UpstreamChanged],
  ["upstream.flapping", UpstreamFlapping],
  ["node.not_here", NodeNotHere],
  ["node.stale_generation", NodeStaleGeneration],
  ["node.draining", NodeDraining],
  ["node.unreachable", NodeUnreachable],
  ["node.untrusted", NodeUntrusted],
  ["node.unknown", NodeUnknown],
  ["node.none_fits", NodeNoneFits],
  ["registry.unavailable", RegistryUnavailable],
  ["archive.unavailable", ArchiveUnavailable],
  ["store.corrupt", StoreCorrupt],
  ["store.full", StoreFull],
  ["store.version", StoreVersion],
  ["store.lease_lapsed", StoreLeaseLapsed],
  ["listen.in_use", ListenInUse],
  ["config.invalid", ConfigInvalid],
  ["gateway.draining", GatewayDraining],
  ["gateway.unreachable", GatewayUnreachable],
  ["agent.silent", AgentSilent],
  ["limit.rate", LimitRate],
  ["limit.in_flight", LimitInFlight],
  ["limit.sessions", LimitSessions],
  ["limit.processes", LimitProcesses],
  ["limit.watches", LimitWatches],
  ["limit.body", LimitBody],
  ["limit.header", LimitHeader],
  ["limit.message", LimitMessage],
  ["request.timeout", RequestTimeout],
  ["internal", Internal],
]);
