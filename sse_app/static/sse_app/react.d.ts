import type { Collection, CollectionOptions } from "./collection.js";
import type { Options, State, Stream } from "./sse.js";

/** The stream of `url` while the component is mounted. A falsy `url` opens none. */
export function useStream<Events extends object = Record<string, any>>(
  url: string | URL | null | undefined,
  options?: Options,
): { stream: Stream<Events> | null; state: State; reason: string };

/** The rows of a live collection of `stream`. */
export function useCollection<Row = any, Key = any>(
  stream: Stream<any> | null,
  name: string,
  options?: CollectionOptions<Row>,
): { rows: readonly Row[]; ready: boolean; collection: Collection<Row, Key> | null };
