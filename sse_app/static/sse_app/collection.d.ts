/** Live collections; see docs/delivery/collections.md. */
import type { Stream } from "./sse.js";

export interface CollectionOptions<Row = any> {
  /** The name of the row's key; default: "pk". */
  key?: string;
  /** Follow only this group of the stream, as the stream's other groups may have rows of the same kind. */
  group?: string;
  /** A field, "-field" for the reverse order, or a function as of `Array.sort()`. Default: in the order of arrival. */
  order?: (keyof Row & string) | `-${keyof Row & string}` | ((a: Row, b: Row) => number);
  /** The rows that the page has already; the stream continues `after` their position. */
  rows?: Iterable<Row>;
  /** Reads all rows: at the beginning without `rows`, after a reset, and after an event that has no fields. */
  load?: () => Iterable<Row> | Promise<Iterable<Row>>;
}

export interface Collection<Row = any, Key = any> extends ReadonlyMap<Key, Row> {
  /** Whether the rows are complete: not before the first state, nor between a reset and the next state. */
  readonly ready: boolean;
  /** The rows in their order. The array is the same until a row changes. */
  readonly rows: readonly Row[];
  /** Call `fn` after changes, once for all of the same moment. Returns a function that ends this. */
  subscribe(fn: (collection: Collection<Row, Key>) => unknown): () => void;
  /** Stop following the stream; the rows stay. */
  close(): void;
}

/** The rows of the events `<name>.created`, `<name>.updated` and `<name>.deleted`. */
export function collection<Row = any, Key = any>(
  stream: Stream<any>,
  name: string,
  options?: CollectionOptions<Row>,
): Collection<Row, Key>;
