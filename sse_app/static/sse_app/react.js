/**
 * Hooks for React 18 and later. A stream is opened in a layout effect, so that React renders again in the same task:
 * `useCollection()` then listens before the first event can arrive.
 */

import { useCallback, useLayoutEffect, useState, useSyncExternalStore } from "react";

import { collection } from "./collection.js";
import { connect } from "./sse.js";

const NONE = [];

/** The stream of `url` while the component is mounted, with its state. A change of `options` changes nothing. */
export function useStream(url, options) {
  const [stream, setStream] = useState(null);
  useLayoutEffect(() => {
    if (!url) return;
    const opened = connect(url, options);
    setStream(opened);
    return () => {
      opened.close();
      setStream(null);
    };
  }, [String(url ?? "")]);
  const subscribe = useCallback(
    (changed) => {
      stream?.on("state", changed);
      return () => stream?.off("state", changed);
    },
    [stream],
  );
  // A text, as React compares by identity.
  useSyncExternalStore(subscribe, () => `${stream?.state} ${stream?.reason}`, () => "");
  return { stream, state: stream?.state ?? "connecting", reason: stream?.reason ?? "" };
}

/** The rows of a live collection. A change of `options` changes nothing. */
export function useCollection(stream, name, options) {
  const [held, setHeld] = useState(null);
  useLayoutEffect(() => {
    if (!stream) return;
    const opened = collection(stream, name, options);
    setHeld(opened);
    return () => opened.close();
  }, [stream, name]);
  const subscribe = useCallback((changed) => held?.subscribe(changed) ?? (() => {}), [held]);
  // Rows and readiness change together, as the array of rows is new whenever one of them changes.
  const rows = useSyncExternalStore(subscribe, () => held?.rows ?? NONE, () => NONE);
  return { rows, ready: held?.ready ?? false, collection: held };
}
