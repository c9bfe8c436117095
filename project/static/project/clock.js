// The clock page: a one-off stream that nobody else listens to.

import { connect, showTime } from "./live.js";

const clock = document.getElementById("clock");
connect(clock.dataset.stream, { tick: ({ time }) => showTime(clock, time) });
