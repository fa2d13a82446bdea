/**
 * Landfast: instances that one stays attached to. Every failure is a `LandfastError`.
 *
 * @module
 */

export { Attachment, type AttachOptions } from "./attachment.js";
export { Browser, type ScreenshotOptions } from "./browser.js";
export type { Abortable } from "./caller.js";
export { Landfast, type LandfastOptions } from "./client.js";
export type { Exited, Gap, InputUnsure, Output, ProcessEvent, ReplayEnd, Start } from "./conversation.js";
export * from "./errors.js";
export { Events, type PageOptions, type StreamOptions, type Watched } from "./events.js";
export {
  type ContentOptions,
  type FilePath,
  Files,
  type MakeOptions,
  type MoveOptions,
  type WatchOptions,
  type WriteOptions,
} from "./files.js";
export { Forward, type ForwardOptions } from "./forward.js";
export {
  type CreateOptions,
  Instance,
  type InstanceSpec,
  Instances,
  type ListOptions,
  type WaitOptions,
} from "./instances.js";
export {
  type Command,
  type CommandOptions,
  Process,
  Processes,
  type RunOptions,
  type StartOptions,
  type TerminalOptions,
} from "./processes.js";
export {
  type BrowserRecord,
  Completed,
  type Event,
  type EventGap,
  type EventPage,
  Exit,
  type FileChange,
  type FileInfo,
  type InstanceRecord,
  type LogPart,
  type Phase,
  type ProcessRecord,
  type ServiceRecord,
  type Token,
  type Unpacked,
} from "./records.js";
export { type Route, RouteCache } from "./routes.js";
export { Services } from "./services.js";
export type { WebSocketConstructor, WebSocketLike } from "./socket.js";
export type { Fetch } from "./wire.js";
