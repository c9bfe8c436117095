/** Composables for Vue 3. */

import { onScopeDispose, ref, shallowRef, toValue, watch } from "vue";

import { collection } from "./collection.js";
import { connect } from "./sse.js";

/** The stream of `url`, which may be a ref, until the component is unmounted, with its state. */
export function useStream(url, options) {
  const stream = shallowRef(null);
  const state = ref("connecting");
  const reason = ref("");
  const close = () => stream.value?.close();
  watch(
    () => String(toValue(url) ?? ""),
    (address) => {
      close();
      const opened = (stream.value = address ? connect(address, options) : null);
      const show = () => {
        if (stream.value !== opened) return;
        state.value = opened?.state ?? "connecting";
        reason.value = opened?.reason ?? "";
      };
      opened?.on("state", show);
      show();
    },
    { immediate: true, flush: "sync" },
  );
  onScopeDispose(close);
  return { stream, state, reason };
}

/** The rows of a live collection of `stream`, which may be a ref. */
export function useCollection(stream, name, options) {
  const rows = shallowRef([]);
  const ready = ref(false);
  const held = shallowRef(null);
  const close = () => held.value?.close();
  watch(
    // Synchronous, so that the collection listens before the stream's first event.
    [() => toValue(stream), () => toValue(name)],
    ([from, of]) => {
      close();
      const opened = (held.value = from ? collection(from, of, options) : null);
      const show = () => {
        rows.value = opened?.rows ?? [];
        ready.value = opened?.ready ?? false;
      };
      opened?.subscribe(show);
      show();
    },
    { immediate: true, flush: "sync" },
  );
  onScopeDispose(close);
  return { rows, ready, collection: held };
}
