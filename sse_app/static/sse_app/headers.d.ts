import type { Stream } from "./sse.js";

/**
 * The header that names the page's streams, for requests of your own; see docs/delivery/page.md. The streams are those of
 * the page's elements and the given ones.
 */
export function headers(...streams: Stream<any>[]): { "Sse-Connection": string };
