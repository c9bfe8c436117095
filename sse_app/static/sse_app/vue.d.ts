import type { MaybeRefOrGetter, Ref, ShallowRef } from "vue";
import type { Collection, CollectionOptions } from "./collection.js";
import type { Options, State, Stream } from "./sse.js";

/** The stream of `url` until the component is unmounted. A falsy `url` opens none. */
export function useStream<Events extends object = Record<string, any>>(
  url: MaybeRefOrGetter<string | URL | null | undefined>,
  options?: Options,
): { stream: ShallowRef<Stream<Events> | null>; state: Ref<State>; reason: Ref<string> };

/** The rows of a live collection of `stream`. */
export function useCollection<Row = any, Key = any>(
  stream: MaybeRefOrGetter<Stream<any> | null>,
  name: MaybeRefOrGetter<string>,
  options?: CollectionOptions<Row>,
): { rows: ShallowRef<readonly Row[]>; ready: Ref<boolean>; collection: ShallowRef<Collection<Row, Key> | null> };
