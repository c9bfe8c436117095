/** The page's end of a stream of events; see docs/delivery/page.md. */

/** "offline": the browser says that there is no network. "closed" is for good. */
export type State = "connecting" | "open" | "reconnecting" | "offline" | "closed";

export interface EventDetail {
  /** The event's name. */
  event: string;
  /** Stands for the event, to recognise it again; empty for one that is not durable. */
  id: string;
  /** Its group; undefined for control events and where the server does not say. */
  group?: string;
}

export interface Reset {
  group: string;
  reason: "trimmed" | "epoch" | "future" | "limit" | "unknown";
}

export interface Options {
  /** The same as `on("sse.reset", …)`. */
  reset?: ResetListener;
  /** A CSS selector of what is to be replaced by what the server renders now. */
  fragment?: string;
  /** The CSRF token, where it is neither in the cookie `csrftoken` nor in the page. For the page's own origin only. */
  csrf?: () => string;
  /** `false`: a connection of its own. */
  share?: boolean;
}

export interface SendOptions {
  /** Default: the stream's first group. */
  group?: string;
  /** The idempotency key; default: a random one for each call. */
  key?: string;
}

/** The data is parsed if it is JSON, else it is the text. */
export type EventListener<Data = any> = (data: Data, detail: EventDetail) => void;
/**
 * Loads again what the page shows of a group. Events wait for its promise, and if that is rejected
 * it is called again. Without one the fragment is reloaded, else the page.
 */
export type ResetListener = (reset: Reset, detail: EventDetail) => unknown;
export type StateListener = (state: State, detail: { reason: string }) => void;

export interface Stream {
  readonly state: State;
  /** Why it is in this state, such as "auth", "session" or "busy: user"; empty if there is nothing to say. */
  readonly reason: string;
  /** The id of the place to go on from. */
  readonly cursor: string;
  on(event: "state", fn: StateListener): this;
  on(event: "sse.reset", fn: ResetListener): this;
  /** "*" is every event, control events too. */
  on<Data = any>(event: string, fn: EventListener<Data>): this;
  off(event: "state", fn: StateListener): this;
  off(event: string, fn: EventListener): this;
  /** Send an event up; the promise is for the handler's answer. Rejects with `RequestError`. */
  send<Answer = any>(event: string, data?: unknown, options?: SendOptions): Promise<Answer>;
  /** End it for good. */
  close(): void;
}

/** No answer of the app's: an error, or something else that answered, such as a login page or a proxy. */
export class RequestError extends Error {
  /** 302 for every redirect; the script follows none. */
  readonly status: number;
  /** The body, parsed if it is JSON. */
  readonly answer: any;
  /** `type` is the answer's content type. */
  constructor(status: number, answer: any, type: string);
}

export function connect(url: string | URL, options?: Options): Stream;

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
