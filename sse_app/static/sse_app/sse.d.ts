/** The page's side of an event stream; see docs/delivery/page.md. */

/** "offline": the browser reports that there is no network. "closed" is final. */
export type State = "connecting" | "open" | "reconnecting" | "offline" | "closed";

export interface EventDetail {
  /** The event's name. */
  event: string;
  /** Identifies the event, to recognise a repeat; empty if the event is not durable. */
  id: string;
  /** The event's group; undefined for control events and if the server does not name it. */
  group?: string;
  /** About how many streams of the server process get the event; 1 if they are few. */
  streams?: number;
}

export interface Reset {
  group: string;
  reason: "trimmed" | "epoch" | "future" | "limit" | "unknown";
}

export interface Options {
  /** The same as `on("sse.reset", …)`. */
  reset?: ResetListener;
  /** A CSS selector of elements; a reset replaces them by those that the server renders then. */
  fragment?: string;
  /** The CSRF token, where it is neither in the cookie `csrftoken` nor in the page. For the page's own origin only. */
  csrf?: () => string;
  /** `false`: the stream does not share a connection. */
  share?: boolean;
}

export interface SendOptions {
  /** Default: the stream's first group. */
  group?: string;
  /** The idempotency key; default: a random one for each call. */
  key?: string;
}

/** `data` is parsed if it is JSON, else it is the text. */
export type EventListener<Data = any> = (data: Data, detail: EventDetail) => void;
/**
 * Loads the page's state of a group again. Events wait for its promise; if the promise is rejected,
 * the function is called again. Without such a function, or if all of them return `false`, the fragment is reloaded,
 * else the page.
 */
export type ResetListener = (reset: Reset, detail: EventDetail) => unknown;
export type StateListener = (state: State, detail: { reason: string }) => void;

/** `Events` has the type of the data by event name, such as `{"order.updated": Order}`. */
export interface Stream<Events extends object = Record<string, any>> {
  readonly state: State;
  /** Why it is in this state, such as "auth", "session", "busy: user" or "buffered"; empty without a reason. */
  readonly reason: string;
  readonly groups: readonly string[];
  /** The id to continue from. */
  readonly cursor: string;
  on(event: "state", fn: StateListener): this;
  on(event: "sse.reset", fn: ResetListener): this;
  /** "*" is every event, control events too. */
  on(event: "*" | `sse.${string}`, fn: EventListener): this;
  on<Name extends keyof Events & string>(event: Name, fn: EventListener<Events[Name]>): this;
  /** Without `Events`, the type of one event's data. */
  on<Data>(event: string extends keyof Events ? string : never, fn: EventListener<Data>): this;
  off(event: "state", fn: StateListener): this;
  off(event: string, fn: EventListener): this;
  /** Send an event to the server; resolves to the handler's answer, or rejects with `RequestError`. */
  send<Answer = any>(event: string, data?: unknown, options?: SendOptions): Promise<Answer>;
  /** Close the stream for good. */
  close(): void;
}

/** Not an answer of a handler: an error, or an answer of a login page or a proxy. */
export class RequestError extends Error {
  /** 302 for every redirect; the script follows none. */
  readonly status: number;
  /** The body, parsed if it is JSON. */
  readonly answer: any;
  /** `type` is the answer's content type. */
  constructor(status: number, answer: any, type: string);
}

export function connect<Events extends object = Record<string, any>>(
  url: string | URL,
  options?: Options,
): Stream<Events>;

/** `<sse-stream url="…" fragment="#board" state="open">` */
export class StreamElement extends HTMLElement {
  static connect: typeof connect;
  readonly stream: Stream | null;
}

declare global {
  interface HTMLElementTagNameMap {
    "sse-stream": StreamElement;
  }
}
