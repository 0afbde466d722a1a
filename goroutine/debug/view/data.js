// The trace: typed arrays of what is in the page, and what follows from it.

const $ = (id) => document.getElementById(id);

// One column; page.py says how it is packed. Differences are added up where it is a begin.
function column(bytes, at, count, planes, differences) {
  const kind = planes > 3 || differences ? Float64Array : planes > 1 ? Int32Array : Uint8Array;
  const numbers = new kind(count);
  let unit = 1;
  for (let plane = 0; plane < planes; plane++, unit *= 256) {
    for (let i = 0; i < count; i++) numbers[i] += bytes[at + i] * unit;
    at += count;
  }
  if (differences) for (let i = 1; i < count; i++) numbers[i] += numbers[i - 1];
  return numbers;
}

async function inflated(text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The first i at which sorted[i] > x (from: where to begin).
function after(sorted, x, low = 0, high = sorted.length) {
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle] > x) high = middle;
    else low = middle + 1;
  }
  return low;
}

const trace = { lanes: [], functions: [], end: 0 };
const gs = {};

async function load() {
  const about = JSON.parse($("about").textContent);
  Object.assign(trace, { title: about.title, about: about.about, names: about.names, ends: about.ends });
  trace.lanes = about.lanes.map(([run, name], index) => ({ index, run, name, slices: {} }));
  const bytes = await inflated($("data").textContent);
  $("data").remove();
  const spans = { wait: {}, runnable: {} };
  let at = 0;
  for (const [where, name, count, planes] of about.columns) {
    const ofLane = Array.isArray(where);
    const numbers = column(bytes, at, count, planes, ofLane && name === "begin");
    at += count * planes;
    if (ofLane) {
      const slices = trace.lanes[where[0]].slices;
      (slices[where[1]] ??= { what: where[1], count })[name] = numbers;
    } else if (where === "goroutine") gs[name] = numbers;
    else spans[where][name] = numbers;
  }
  gs.count = gs.id.length;
  trace.lanes.forEach(finish);
  follow(spans);
  sumUp();
}

// Ends of slices, and how much of them there is before each.
function finish(lane) {
  for (const slices of Object.values(lane.slices)) {
    const { begin, length, count } = slices;
    const before = (slices.before = new Float64Array(count + 1));
    for (let i = 0; i < count; i++) {
      before[i + 1] = before[i] + length[i];
      trace.end = Math.max(trace.end, begin[i] + length[i]);
    }
  }
  lane.machine = /^M\d+$/.test(lane.name);
}

// All steps, by goroutine and in time: lane and index of each, in `steps`; gs.first[g] is where
// those of goroutine g begin.
const steps = { count: 0 };

function follow(spans) {
  const runs = trace.lanes.map((lane) => lane.slices.run).filter(Boolean);
  const home = trace.lanes.filter((lane) => lane.slices.run).map((lane) => lane.index);
  steps.count = runs.reduce((n, run) => n + run.count, 0);
  const first = (gs.first = new Int32Array(gs.count + 1));
  for (const run of runs) for (let i = 0; i < run.count; i++) first[run.g[i]]++;
  for (let g = 0; g < gs.count; g++) first[g + 1] += first[g];
  steps.lane = new Uint16Array(steps.count);
  steps.index = new Int32Array(steps.count);
  for (const run of runs) run.step = new Int32Array(run.count);
  const next = first.slice();
  const heads = runs.map(() => 0);
  for (let n = 0; n < steps.count; n++) {
    let which = -1;
    let least = Infinity;
    for (let k = 0; k < runs.length; k++) {
      const at = heads[k] < runs[k].count ? runs[k].begin[heads[k]] : Infinity;
      if (at < least) [which, least] = [k, at];
    }
    const run = runs[which];
    const i = heads[which]++;
    const place = next[run.g[i] - 1]++;
    steps.lane[place] = home[which];
    steps.index[place] = i;
    run.step[i] = place;
  }
  gs.before = new Map(); // goroutine -> what it waited for before its first step, and after its last
  for (const what of ["wait", "runnable"]) {
    const { g, end, begin, length } = spans[what];
    for (let i = 0; i < g.length; i++) {
      if (!gs.before.has(g[i])) gs.before.set(g[i], []);
      gs.before.get(g[i]).push({ what, begin: begin[i], end: begin[i] + length[i], why: end[i] });
      trace.end = Math.max(trace.end, begin[i] + length[i]);
    }
  }
  // Of many goroutines the trace has no more than their steps. (The life of the others is known.)
  for (let g = 0; g < gs.count; g++) {
    if (gs.end[g] || first[g] === first[g + 1]) continue;
    const last = first[g + 1] - 1;
    const why = stepOf("end", last) - 1;
    if (!["ends", "runs on", "gives way", ""].includes(trace.ends[why]?.[0] ?? "")) {
      gs.before.set(g, [...(gs.before.get(g) ?? []), { what: "wait", begin: stepEnd(last), end: trace.end, why }]);
    }
  }
}

const stepBegin = (s) => trace.lanes[steps.lane[s]].slices.run.begin[steps.index[s]];
const stepLength = (s) => trace.lanes[steps.lane[s]].slices.run.length[steps.index[s]];
const stepEnd = (s) => stepBegin(s) + stepLength(s);
const stepOf = (name, s) => trace.lanes[steps.lane[s]].slices.run[name][steps.index[s]];

// What came between two steps of a goroutine, up to step s: {what, begin, end, why}, one or two.
function between(g, s) {
  const found = [];
  if (s > gs.first[g]) {
    const last = stepEnd(s - 1);
    const begin = stepBegin(s);
    const woken = stepOf("woken", s) ? begin - (stepOf("woken", s) - 1) : begin;
    const why = stepOf("end", s - 1) - 1;
    const gaveWay = trace.ends[why]?.[0] === "gives way";
    const until = gaveWay ? last : Math.max(last, Math.min(woken, begin));
    if (until > last) found.push({ what: "wait", begin: last, end: until, why });
    if (begin > until) found.push({ what: "runnable", begin: until, end: begin, why });
  } else if (stepOf("woken", s) > 1) {
    const begin = stepBegin(s);
    found.push({ what: "runnable", begin: begin - (stepOf("woken", s) - 1), end: begin, why: -1 });
  }
  return found;
}

// Which goroutine ran on that lane at that time; -1: none, as in a poll or a blocking call.
function runningOn(lane, time) {
  const run = trace.lanes[lane].slices.run;
  if (!run) return -1;
  const i = after(run.begin, time) - 1;
  return i >= 0 && run.begin[i] + run.length[i] >= time - 1 ? run.g[i] - 1 : -1;
}

// Where the arrow to a step begins: lane (-1: there is none), and time.
const arrowLane = (s) => stepOf("lane", s) - 1;
const arrowAt = (s) => stepBegin(s) - (stepOf("mark", s) - 1);

// The goroutine that woke it for that step; -1: none, or it isn't known.
function wakerOf(s) {
  const lane = arrowLane(s);
  return lane < 0 ? -1 : runningOn(lane, arrowAt(s));
}

// What a goroutine waited for: reason, and place.
function reasonOf(why) {
  const [reason, at] = trace.ends[why] ?? ["", ""];
  return [reason || "waits", at];
}

// The steps that a goroutine caused, found once for all of them.
function causedBy(g) {
  if (!steps.cause) {
    steps.cause = new Int32Array(steps.count);
    for (let s = 0; s < steps.count; s++) steps.cause[s] = wakerOf(s);
  }
  const found = [];
  for (let s = 0; s < steps.count; s++) if (steps.cause[s] === g) found.push(s);
  return found;
}

const shortName = (name) => name.split(".").pop() || name || "?";
const nameOf = (g) => trace.names[gs.fn[g]];

// By goroutine and by function: how often it ran, and for how long it ran, could have, and waited.
function sumUp() {
  for (const name of ["running", "runnable", "waiting"]) gs[name] = new Float64Array(gs.count);
  const functions = new Map();
  for (let g = 0; g < gs.count; g++) {
    for (let s = gs.first[g]; s < gs.first[g + 1]; s++) {
      gs.running[g] += stepLength(s);
      for (const span of between(g, s)) {
        gs[span.what === "wait" ? "waiting" : "runnable"][g] += span.end - span.begin;
      }
    }
    for (const span of gs.before.get(g) ?? []) {
      gs[span.what === "wait" ? "waiting" : "runnable"][g] += span.end - span.begin;
    }
    const fn = gs.fn[g];
    if (!functions.has(fn)) {
      functions.set(fn, { fn, name: trace.names[fn], goroutines: 0, runs: 0, running: 0, runnable: 0, waiting: 0 });
    }
    const f = functions.get(fn);
    f.goroutines++;
    f.runs += gs.first[g + 1] - gs.first[g];
    for (const name of ["running", "runnable", "waiting"]) f[name] += gs[name][g];
  }
  trace.functions = [...functions.values()].sort((a, b) => b.running - a.running || b.waiting - a.waiting);
  trace.rank = new Int32Array(trace.names.length).fill(-1);
  trace.functions.forEach((f, i) => (trace.rank[f.fn] = i));
}

// A length of time, for people.
function duration(ns, digits = 3) {
  for (const [unit, size] of [["s", 1e9], ["ms", 1e6], ["µs", 1e3]]) {
    if (Math.abs(ns) >= size) return `${+(ns / size).toPrecision(digits)} ${unit}`;
  }
  return `${Math.round(ns)} ns`;
}

// A point in time, exact to what can be seen.
function moment(ns, seen = 1e3) {
  const digits = Math.max(0, Math.min(9, Math.ceil(9 - Math.log10(Math.max(1, seen)))));
  return ns < 1e6 ? duration(ns, 6) : ns < 1e9
    ? `${(ns / 1e6).toFixed(Math.max(0, digits - 3))} ms` : `${(ns / 1e9).toFixed(digits)} s`;
}
