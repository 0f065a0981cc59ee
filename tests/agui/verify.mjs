// Judges AG-UI event streams as AG-UI's own client does. One stream a line on stdin, one verdict a line on stdout:
// {"events": [...], "is_whole": bool} -> {"violations": [...], "messages": [...]}.
// `messages` is what the client would show in the end. A whole stream must also end, with nothing left open.
import { createInterface } from "node:readline";
import { defaultApplyEvents, enforceEvents, verifyEvents } from "@ag-ui/client";
import { from, lastValueFrom, toArray } from "rxjs";

const ENDS = new Set(["RUN_FINISHED", "RUN_ERROR"]);
const THREAD = { threadId: "t", runId: "r", state: {}, messages: [], tools: [], context: [], forwardedProps: {} };

const warnings = [];
console.warn = (...words) => warnings.push(words.join(" "));

const play = (events) => lastValueFrom(from(events).pipe(enforceEvents(), verifyEvents(), toArray()));

async function judge({ events, is_whole }) {
  warnings.length = 0;
  const violations = [];
  let messages = [];
  try {
    const verified = await play(events);
    const applied = defaultApplyEvents(THREAD, from(verified), { messages: [], state: {} }, []);
    for (const change of await lastValueFrom(applied.pipe(toArray()))) messages = change.messages ?? messages;
    if (is_whole) {
      const last = events.at(-1);
      if (!ENDS.has(last?.type)) violations.push(`ends with ${last?.type}`);
      // The client lets RUN_ERROR leave things open. RUN_FINISHED in its place says what is.
      await play([...events.slice(0, -1), { type: "RUN_FINISHED", threadId: "t", runId: "r" }]);
    }
  } catch (violation) {
    violations.push(violation.message);
  }
  return { violations: [...violations, ...warnings], messages };
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await judge(JSON.parse(line))));
}
