// The panel at the side: functions, or the life of one goroutine; and the tooltip.
// (What stands in the trace is only ever put in as text.)

function element(tag, more = {}, ...inside) {
  const made = document.createElement(tag);
  const { click, style, ...rest } = more;
  Object.assign(made, rest);
  if (style) for (const [name, value] of Object.entries(style)) made.style[name] = value;
  if (click) made.addEventListener("click", click);
  made.append(...inside.filter((part) => part !== null && part !== undefined));
  return made;
}

const dot = (style) => element("span", { className: "dot", style: { background: style } });
const link = (text, click) => element("span", { className: "go", click }, text);
const toG = (g) => link(`${gs.id[g]} ${shortName(nameOf(g))}`, () => select(g));

function table(heads, rows, here = -1) {
  const head = element("tr", {}, ...heads.map(([text, click]) => element("th", { click }, text)));
  const lines = rows.map((cells, i) =>
    element("tr", { className: i === here ? "here" : "" }, ...cells.map((cell) => element("td", {}, cell))));
  return element("table", {}, head, ...lines);
}

// A line of what the time went to.
function parts(running, runnable, waiting) {
  const sum = running + runnable + waiting || 1;
  const part = (length, style) => element("div", { style: { width: `${(100 * length) / sum}%`, background: style } });
  return element("div", { className: "parts" },
    part(running, theme.mark), part(runnable, theme.spin), part(waiting, theme.line));
}

let order = "running";

function functionTable() {
  const rows = [...trace.functions].sort((a, b) => (order === "name" ? a.name.localeCompare(b.name) : b[order] - a[order]));
  const head = (name, text = name) => [text + (order === name ? " ▾" : ""), () => { order = name; fill(); }];
  const shortest = rows.slice(0, 200);
  return element("div", {},
    element("h3", {}, "Functions"),
    table([head("name", "function"), head("runs"), head("running"), head("runnable"), head("waiting")],
      shortest.map((f) => [
        element("span", { className: "go", title: f.name, click: () => pick(f.fn) }, dot(colour(f.fn)), shortName(f.name) || "?",
          element("span", { className: "dim" }, f.goroutines > 1 ? ` ×${f.goroutines}` : "")),
        String(f.runs), duration(f.running), duration(f.runnable), duration(f.waiting),
      ]), shortest.findIndex((f) => f.fn === view.fn)),
    rows.length > 200 ? element("p", { className: "dim" }, `and ${rows.length - 200} more`) : null);
}

function machineTable() {
  const rows = [];
  for (const lane of trace.lanes) {
    if (!lane.machine) continue;
    const sum = (what) => lane.slices[what]?.before.at(-1) ?? 0;
    const share = (what) => `${((100 * sum(what)) / trace.end).toFixed(0)} %`;
    rows.push([lane.name, share("run"), share("sleep"), share("spin"), String(lane.slices.steal?.count ?? 0)]);
  }
  return element("div", {}, element("h3", {}, "Machines"),
    table([["machine"], ["running"], ["asleep"], ["looking"], ["steals"]], rows));
}

function legend() {
  const line = (style, text) => element("p", { className: "dim" }, dot(style), text);
  return element("div", {}, element("h3", {}, "Colours"),
    line(colour(trace.functions[0]?.fn ?? 0), "a step of a goroutine, by its function"),
    line(theme.night ? "#4a5261" : "#b9c1ce", "the machine is asleep"),
    line(theme.poll, "asks the kernel what is ready"),
    line(theme.spin, "looks for work, before it sleeps"),
    line(theme.steal, "▾ has stolen goroutines; arrows: whom the selected one woke"),
    line(theme.mark, "arrows: who woke the selected one"),
    line(theme.runnable, "could run, and no machine has time"),
    trace.lanes.some((lane) => lane.slices.gc) ? line(theme.gc, "the collector") : null);
}

function goroutineList(fn) {
  const found = [];
  for (let g = 0; g < gs.count; g++) if (gs.fn[g] === fn) found.push(g);
  found.sort((a, b) => gs.running[b] - gs.running[a]);
  return element("div", {},
    element("h2", {}, dot(colour(fn)), trace.names[fn]),
    element("h3", {}, `${found.length} goroutine${found.length > 1 ? "s" : ""}, by running time`),
    table([["goroutine"], ["runs"], ["running"], ["runnable"], ["waiting"]],
      found.slice(0, 100).map((g) => [toG(g), String(gs.first[g + 1] - gs.first[g]),
        duration(gs.running[g]), duration(gs.runnable[g]), duration(gs.waiting[g])])));
}

// What it waited for, by reason and place: how often, how long, the longest one.
function waitsOf(g) {
  const sums = new Map();
  const add = ({ what, begin, end, why }) => {
    const key = what === "wait" ? why : -1;
    if (!sums.has(key)) sums.set(key, { why: key, count: 0, length: 0, longest: null });
    const sum = sums.get(key);
    sum.count++;
    sum.length += end - begin;
    if (!sum.longest || end - begin > sum.longest[1] - sum.longest[0]) sum.longest = [begin, end];
  };
  for (let s = gs.first[g]; s < gs.first[g + 1]; s++) between(g, s).forEach(add);
  (gs.before.get(g) ?? []).forEach(add);
  return [...sums.values()].sort((a, b) => b.length - a.length);
}

// "worker (/a/b/app.py:12)" -> "worker, app.py:12"
const place = (at) => (at ? at.replace(/ \((?:.*\/)?([^/]*)\)$/, ", $1") : "");

function most(title, counts) {
  const rows = [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  if (!rows.length) return null;
  return element("div", {}, element("h3", {}, title),
    table([["goroutine"], ["times"]], rows.slice(0, 12).map(([g, n]) => [toG(g), String(n)])));
}

function life(g) {
  const [first, last] = [gs.first[g], gs.first[g + 1]];
  const runs = last - first;
  const [begin, end] = lifeOf(g);
  const creator = gs.end[g] || !runs ? gs.by[g] - 1 : wakerOf(first);
  const ended = runs && trace.ends[stepOf("end", last - 1) - 1]?.[0] === "ends";
  let longest = first;
  const wakers = new Map();
  for (let s = first; s < last; s++) {
    if (stepLength(s) > stepLength(longest)) longest = s;
    const by = wakerOf(s);
    if (by >= 0) wakers.set(by, (wakers.get(by) ?? 0) + 1);
  }
  const woke = new Map();
  for (const s of view.caused) {
    const of = stepOf("g", s) - 1;
    woke.set(of, (woke.get(of) ?? 0) + 1);
  }
  const waits = waitsOf(g).map(({ why, count, length, longest: [from, to] }) => {
    const [reason, at] = why < 0 ? ["runnable", ""] : reasonOf(why);
    return [element("span", {}, dot(why < 0 ? theme.spin : theme.line), reason,
      element("div", { className: "dim", title: at }, place(at))),
    String(count), duration(length), link(duration(to - from), () => show(from, to))];
  });
  return element("div", {},
    element("h2", {}, dot(colour(gs.fn[g])), `goroutine ${gs.id[g]}  ${nameOf(g)}`),
    creator >= 0 ? element("p", {}, "created by ", toG(creator)) : null,
    element("p", {}, link(`${moment(begin)} – ${moment(end)}`, () => show(begin, end)),
      ended ? ", then it ended" : ", it lives on"),
    parts(gs.running[g], gs.runnable[g], gs.waiting[g]),
    element("p", {}, `${runs} run${runs === 1 ? "" : "s"}: ${duration(gs.running[g])} running, `
      + `${duration(gs.runnable[g])} runnable, ${duration(gs.waiting[g])} waiting`),
    runs ? element("p", {}, "longest run: ", link(duration(stepLength(longest)), () => show(stepBegin(longest), stepEnd(longest)))) : null,
    waits.length ? element("h3", {}, "What it waited for") : null,
    waits.length ? table([["reason"], ["times"], ["total"], ["longest"]], waits) : null,
    most("Woken by", wakers), most("Has woken", woke));
}

function lifeOf(g) {
  const [first, last] = [gs.first[g], gs.first[g + 1]];
  const begin = gs.begin[g] ? gs.begin[g] - 1 : last > first ? stepBegin(first) : 0;
  const end = gs.end[g] ? gs.end[g] - 1 : last > first ? stepEnd(last - 1) : trace.end;
  return [begin, end];
}

function fill() {
  const panel = $("panel");
  const inside = [];
  if (view.selected >= 0) inside.push(life(view.selected));
  else if (view.fn >= 0) inside.push(goroutineList(view.fn));
  inside.push(functionTable());
  if (view.selected < 0 && view.fn < 0) inside.push(machineTable(), legend());
  panel.replaceChildren(...inside);
  panel.scrollTop = 0;
}

// -- search -------------------------------------------------------------------------------------

function found(text) {
  text = text.trim().toLowerCase();
  const functions = trace.functions.filter((f) => f.name.toLowerCase().includes(text)).slice(0, 50);
  const goroutines = [];
  const number = text.replace(/^(goroutine|g)?\s*/, "");
  if (/^\d+$/.test(number)) {
    for (let g = 0; g < gs.count; g++) if (String(gs.id[g]) === number) goroutines.push(g);
    for (let g = 0; g < gs.count && goroutines.length < 50; g++) {
      if (String(gs.id[g]).startsWith(number) && String(gs.id[g]) !== number) goroutines.push(g);
    }
  }
  return { functions, goroutines };
}

function search(text, go) {
  if (!text.trim()) return fill();
  const { functions, goroutines } = found(text);
  if (go && goroutines.length) return select(goroutines[0], true);
  if (go && functions.length) return pick(functions[0].fn);
  return $("panel").replaceChildren(
    element("h3", {}, functions.length + goroutines.length ? "Found" : "Nothing found"),
    ...goroutines.map((g) => element("p", {}, dot(colour(gs.fn[g])), toG(g))),
    ...functions.map((f) => element("p", {}, dot(colour(f.fn)), link(f.name, () => pick(f.fn)))));
}

// -- what is under the pointer ------------------------------------------------------------------

// {lines, g, begin, end} or null.
function under(x, y) {
  if (x < GUTTER || y < AXIS) return null;
  const time = timeAt(x);
  const near = (view.to - view.from) / (view.width - GUTTER) * 2;
  const at = y + view.top;
  for (const row of view.rows) {
    if (at < row.y - 4 || at > row.y + row.height + STRIP + 3) continue;
    return row.lane ? underLane(row, time, near, at) : underGoroutine(row.g, time, near);
  }
  return null;
}

function hit(slices, time, near) {
  if (!slices) return -1;
  const i = after(slices.begin, time) - 1;
  if (i >= 0 && slices.begin[i] + slices.length[i] >= time) return i;
  if (i >= 0 && slices.begin[i] + slices.length[i] >= time - near) return i;
  return i + 1 < slices.count && slices.begin[i + 1] <= time + near ? i + 1 : -1;
}

function underLane(row, time, near, at) {
  const { slices, name } = row.lane;
  const steal = hit(slices.steal, time, 2 * near);
  if (steal >= 0 && at < row.y + 4) {
    const from = trace.lanes[slices.steal.lane[steal] - 1]?.name;
    return { lines: [`${name} has stolen ${slices.steal.n[steal] - 1} from ${from}`, moment(slices.steal.begin[steal], near)], g: -1 };
  }
  const strip = row.lane.machine && at > row.y + row.height;
  const kinds = strip ? ["poll", "spin", "sleep", "run"] : ["run", "call", "gc", "poll", "sleep", "spin"];
  for (const within of [0, near]) {
    for (const what of kinds) {
      const i = hit(slices[what], time, within);
      if (i >= 0) return underSlice(row.lane, slices[what], i, near);
    }
  }
  return null;
}

function underSlice(lane, slices, i, near) {
  const begin = slices.begin[i];
  const end = begin + slices.length[i];
  const when = `${duration(slices.length[i])} on ${lane.name}, at ${moment(begin, near)}`;
  const n = slices.n ? slices.n[i] - 1 : -1;
  const woke = n >= 0 ? `${n} goroutine${n === 1 ? "" : "s"} made ready` : "until the trace ended";
  switch (slices.what) {
    case "run":
      return underStep(slices.g[i] - 1, slices.step[i], when);
    case "poll":
      return { lines: ["asks the kernel what is ready", when, woke], g: -1, begin, end };
    case "sleep":
      return { lines: ["asleep: there was nothing to do", when, woke], g: -1, begin, end };
    case "spin":
      return { lines: ["looks for work", when, n > 0 ? "found some" : "found none"], g: -1, begin, end };
    case "gc":
      return { lines: [`collects generation ${slices.generation[i] - 1}`, when, `${n} objects freed`], g: -1, begin, end };
    default: {
      const g = slices.g[i] - 1;
      const of = g >= 0 ? `for goroutine ${gs.id[g]} ${nameOf(g)}` : "";
      return { lines: [trace.names[slices.name[i] - 1], when, of], g, begin, end };
    }
  }
}

function underStep(g, s, when) {
  const [end, at] = reasonOf(stepOf("end", s) - 1);
  const lines = [`goroutine ${gs.id[g]}  ${nameOf(g)}`, when];
  const then = { "gives way": "then it gave way", ends: "then it ended", "runs on": "and ran on when the trace ended" };
  lines.push(then[end] ?? `then it waited: ${end}${at ? ` in ${place(at)}` : ""}`);
  for (const span of between(g, s)) {
    const what = span.what === "wait" ? `waited ${duration(span.end - span.begin)} (${reasonOf(span.why)[0]})`
      : `was runnable for ${duration(span.end - span.begin)}`;
    lines.push(`before, it ${what}`);
  }
  const by = wakerOf(s);
  if (by >= 0) lines.push(`woken by ${gs.id[by]} ${shortName(nameOf(by))}`);
  return { lines, g, begin: stepBegin(s), end: stepEnd(s) };
}

function underGoroutine(g, time, near) {
  const s = stepAfter(g, time);
  const is = (span) => span.begin <= time && time <= span.end;
  const [first, last] = [gs.first[g], gs.first[g + 1]];
  if (s < last && stepBegin(s) <= time + near) {
    return underStep(g, s, `${duration(stepLength(s))} on ${trace.lanes[steps.lane[s]].name}, at ${moment(stepBegin(s), near)}`);
  }
  const spans = [...(s < last && s >= first ? between(g, s) : []), ...(gs.before.get(g) ?? [])];
  const span = spans.find(is);
  if (!span) return { lines: [`goroutine ${gs.id[g]}  ${nameOf(g)}`], g };
  const [reason, at] = span.what === "wait" ? reasonOf(span.why) : ["runnable: no machine had time", ""];
  const lines = [`goroutine ${gs.id[g]}  ${nameOf(g)}`, `${reason}, ${duration(span.end - span.begin)}`];
  if (at) lines.push(`in ${place(at)}`);
  return { lines, g, begin: span.begin, end: span.end };
}

function tip(event) {
  const box = $("tip");
  const thing = event ? under(event.offsetX, event.offsetY) : null;
  box.hidden = !thing;
  if (!thing) return;
  const [head, ...rest] = thing.lines.filter(Boolean);
  box.replaceChildren(element("b", {}, head), `\n${rest.join("\n")}`);
  const { innerWidth, innerHeight } = window;
  const { offsetWidth: width, offsetHeight: height } = box;
  box.style.left = `${Math.max(4, event.clientX + 14 + width > innerWidth ? event.clientX - width - 10 : event.clientX + 14)}px`;
  box.style.top = `${Math.max(4, Math.min(event.clientY + 16, innerHeight - height - 6))}px`;
}
