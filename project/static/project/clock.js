// The clock page: a one-off stream that nobody else listens to.

import { follow, showTime } from "./live.js";

const clock = document.getElementById("clock");
follow({ tick: ({ time }) => showTime(clock, time) });
