// Drawing: the lanes of what is seen, and the map of the whole. Only what is in sight is looked at:
// slices narrower than a pixel are skipped by binary search, and become one column of what they
// make up together.

const dark = matchMedia("(prefers-color-scheme: dark)");
const view = { from: 0, to: 1, top: 0, selected: -1, fn: -1, caused: [], rows: [], height: 0 };
const GUTTER = 96;
const AXIS = 24;
const STRIP = 5; // of sleep, poll and spin, below the steps
const SAMPLES = 48; // slices looked at in a column of many

const css = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();
let theme = {};

function setTheme() {
  const night = dark.matches;
  theme = {
    back: css("--back"), text: css("--text"), dim: css("--dim"), line: css("--line"), mark: css("--mark"),
    bar: css("--bar"), night,
    sleep: night ? "#262b34" : "#eceff3", poll: "#18a999", spin: "#e0a100", gc: "#d43d51",
    steal: "#b03fd0", runnable: night ? "#8a6a1d" : "#f6c657", wait: night ? "#2a303b" : "#e6eaf0",
    onSlice: night ? "#f2f4f8" : "#101418",
  };
  theme.fns = new Map();
}

function colour(fn) {
  let known = theme.fns.get(fn);
  if (!known) {
    const rank = Math.max(0, trace.rank[fn]);
    const hue = (212 + rank * 137.508) % 360;
    const light = theme.night ? 40 + (rank % 3) * 5 : 68 + (rank % 3) * 5;
    known = `hsl(${hue.toFixed(0)} ${theme.night ? 48 : 62}% ${light}%)`;
    theme.fns.set(fn, known);
  }
  return known;
}

// -- what is where ------------------------------------------------------------------------------

function layOut() {
  const rows = [];
  let y = AXIS + 4;
  const machines = trace.lanes.filter((lane) => lane.machine).length;
  const tall = machines > 12 ? 22 : machines > 6 ? 28 : 36;
  let run = 0;
  for (const lane of trace.lanes) {
    if (lane.run !== run) y += 10;
    run = lane.run;
    const height = lane.machine ? tall : 18;
    rows.push({ lane, y, height, name: lane.run ? `${lane.name} · run ${lane.run + 1}` : lane.name });
    y += height + (lane.machine ? STRIP + 7 : 6);
  }
  y += 12;
  view.divide = y - 8;
  for (const g of shown()) {
    rows.push({ g, y, height: 16, name: `${gs.id[g]} ${shortName(nameOf(g))}` });
    y += 21;
  }
  view.rows = rows;
  view.height = y + 10;
}

// The goroutines that have a lane: who is selected and whom it deals with, or who did most.
function shown() {
  if (view.selected < 0) {
    const all = [];
    for (let g = 0; g < gs.count; g++) if (view.fn < 0 || gs.fn[g] === view.fn) all.push(g);
    if (all.length > 14) all.sort((a, b) => gs.running[b] - gs.running[a] || a - b);
    return all.slice(0, 14).sort((a, b) => a - b);
  }
  const g = view.selected;
  const others = new Map();
  for (let s = gs.first[g]; s < gs.first[g + 1]; s++) {
    const by = wakerOf(s);
    if (by >= 0 && by !== g) others.set(by, (others.get(by) ?? 0) + 1);
  }
  for (const s of view.caused) {
    const of = stepOf("g", s) - 1;
    if (of !== g) others.set(of, (others.get(of) ?? 0) + 1);
  }
  const most = [...others].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, 8);
  return [g, ...most.map(([other]) => other)];
}

const timeAt = (x) => view.from + ((x - GUTTER) / (view.width - GUTTER)) * (view.to - view.from);
const xAt = (time) => GUTTER + ((time - view.from) / (view.to - view.from)) * (view.width - GUTTER);

// -- slices -------------------------------------------------------------------------------------

// Calls wide(i, x, width) for each slice that can be seen, and narrow(x, from, to, share) for each
// column of those that can't: share is how much of the column they cover.
function walk(slices, from, to, x0, x1, wide, narrow) {
  const { begin, length, before, count } = slices;
  const scale = (x1 - x0) / (to - from);
  let i = Math.max(0, after(begin, from) - 1);
  while (i < count && begin[i] < to) {
    const x = x0 + (begin[i] - from) * scale;
    if (length[i] * scale >= 1) {
      const left = Math.max(x, x0 - 2);
      const right = Math.min(x + length[i] * scale, x1 + 2);
      if (right > x0) wide(i, left, right - left);
      i++;
      continue;
    }
    const pixel = Math.floor(x);
    const until = from + (pixel + 1 - x0) / scale;
    let next = i + 1;
    if (next < count && begin[next] < until) {
      let step = 1; // (most columns are short: look near first)
      while (next + step < count && begin[next + step] < until) step *= 2;
      next = after(begin, until, next, Math.min(count, next + step + 1));
    }
    while (next > i + 1 && length[next - 1] * scale >= 1) next--; // a wide one at the column's end
    if (pixel >= x0 - 1) narrow(pixel, i, next, Math.min(1, (before[next] - before[i]) * scale));
    i = Math.max(next, i + 1);
  }
}

let rects = 0;

function rect(c, style, x, y, width, height) {
  c.fillStyle = style;
  c.fillRect(x, y, width, height);
  rects++;
}

// Whether what is selected leaves this step in its colour.
function bright(g) {
  if (view.selected >= 0) return g === view.selected;
  return view.fn < 0 || gs.fn[g] === view.fn;
}

function drawSteps(c, slices, from, to, x0, x1, y, height) {
  const picked = view.selected >= 0 || view.fn >= 0;
  const label = (g, x, width) => {
    if (width < 26) return;
    c.fillStyle = theme.onSlice;
    const text = width > 110 ? `${shortName(nameOf(g))} ${gs.id[g]}` : shortName(nameOf(g));
    fitted(c, text, x + 4, y + height / 2, width - 8);
  };
  walk(slices, from, to, x0, x1, (i, x, width) => {
    const g = slices.g[i] - 1;
    c.globalAlpha = bright(g) ? 1 : 0.22;
    rect(c, colour(gs.fn[g]), x, y, width > 3 ? width - 0.6 : width, height);
    if (c.canvas.id === "lanes") label(g, Math.max(x, x0), width - Math.max(0, x0 - x));
  }, (x, first, next, share) => {
    // What they are made of: by function, of some of them if they are many.
    const stride = Math.max(1, Math.floor((next - first) / SAMPLES));
    const parts = new Map();
    let sum = 0;
    for (let i = first; i < next; i += stride) {
      const g = slices.g[i] - 1;
      const key = picked && !bright(g) ? -2 - gs.fn[g] : gs.fn[g];
      parts.set(key, (parts.get(key) ?? 0) + slices.length[i]);
      sum += slices.length[i];
    }
    const tall = Math.max(2, height * share);
    let bottom = y + height;
    for (const [key, length] of [...parts].sort((a, b) => b[0] - a[0])) {
      const part = sum ? (length / sum) * tall : tall;
      c.globalAlpha = key < -1 ? 0.22 : 1;
      rect(c, colour(key < -1 ? -2 - key : key), x, bottom - part, 1, part);
      bottom -= part;
    }
  });
  c.globalAlpha = 1;
}

function drawPlain(c, slices, style, from, to, x0, x1, y, height) {
  walk(slices, from, to, x0, x1,
    (i, x, width) => rect(c, style, x, y, width, height),
    (x, first, next, share) => {
      c.globalAlpha = 0.3 + 0.7 * share;
      rect(c, style, x, y, 1, height);
    });
  c.globalAlpha = 1;
}

const widths = new Map();

function fitted(c, text, x, y, width) {
  let known = widths.get(text);
  if (known === undefined) {
    if (widths.size > 5000) widths.clear();
    widths.set(text, (known = c.measureText(text).width));
  }
  if (known > width) {
    const letters = Math.floor((text.length * width) / known) - 1;
    if (letters < 2) return;
    text = text.slice(0, letters) + "…";
  }
  c.fillText(text, x, y);
}

function drawLane(c, row, x0, x1) {
  const { slices, machine } = row.lane;
  const { y, height } = row;
  const { from, to } = view;
  if (machine) {
    rect(c, theme.bar, x0, y, x1 - x0, height);
    if (slices.sleep) drawPlain(c, slices.sleep, theme.sleep, from, to, x0, x1, y, height);
    rect(c, theme.line, x0, y + height + 1, x1 - x0, STRIP);
    const strip = [["sleep", theme.night ? "#4a5261" : "#b9c1ce"], ["spin", theme.spin], ["poll", theme.poll]];
    for (const [what, style] of strip) {
      if (slices[what]) drawPlain(c, slices[what], style, from, to, x0, x1, y + height + 1, STRIP);
    }
  }
  if (slices.run) drawSteps(c, slices.run, from, to, x0, x1, y, height);
  if (slices.call) drawCalls(c, slices.call, x0, x1, y, height);
  if (slices.gc) drawPlain(c, slices.gc, theme.gc, from, to, x0, x1, y, height);
  if (slices.steal) drawSteals(c, slices.steal, x0, x1, y);
}

function drawCalls(c, slices, x0, x1, y, height) {
  walk(slices, view.from, view.to, x0, x1, (i, x, width) => {
    c.globalAlpha = slices.g[i] && !bright(slices.g[i] - 1) ? 0.25 : 1;
    rect(c, theme.night ? "#5a6270" : "#c5ccd8", x, y, width, height);
    c.fillStyle = theme.onSlice;
    if (width > 26) fitted(c, shortName(trace.names[slices.name[i] - 1]), Math.max(x, x0) + 4, y + height / 2, width - 8);
  }, (x) => rect(c, theme.dim, x, y, 1, height));
  c.globalAlpha = 1;
}

// A small triangle above the lane of who stole.
function drawSteals(c, slices, x0, x1, y) {
  c.fillStyle = theme.steal;
  let last = -10;
  for (let i = after(slices.begin, view.from); i < slices.count && slices.begin[i] < view.to; i++) {
    const x = xAt(slices.begin[i]);
    if (x - last < 3) {
      i = after(slices.begin, timeAt(last + 3), i) - 1;
      continue;
    }
    last = x;
    c.beginPath();
    c.moveTo(x - 3.5, y - 4);
    c.lineTo(x + 3.5, y - 4);
    c.lineTo(x, y + 3);
    c.fill();
  }
}

// -- all of it ----------------------------------------------------------------------------------

function sized(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const c = canvas.getContext("2d");
  c.setTransform(ratio, 0, 0, ratio, 0, 0);
  c.textBaseline = "middle";
  c.font = "11px system-ui, sans-serif";
  return { c, width, height };
}

// The distance between two ticks: 1, 2 or 5 times a power of ten.
function tick(span, most) {
  const least = span / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= least);
}

function drawAxis(c, width, height) {
  rect(c, theme.back, 0, 0, width, AXIS);
  const span = view.to - view.from;
  const step = Math.max(1, tick(span, (width - GUTTER) / 95));
  // Far from the beginning, and near to look at: only what changes stands at each tick.
  let base = 0;
  if (view.from / step > 2000) base = Math.floor(view.from / (step * 1000)) * step * 1000;
  c.fillStyle = theme.dim;
  c.fillText(base ? `${moment(base, step * 1000)} +` : "", 6, AXIS / 2);
  const [unit, size] = step >= 1e8 ? ["s", 1e9] : step >= 1e5 ? ["ms", 1e6] : step >= 100 ? ["µs", 1e3] : ["ns", 1];
  for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step) {
    const x = xAt(at);
    c.fillStyle = theme.line;
    c.fillRect(x, AXIS - 5, 1, height);
    c.fillStyle = theme.dim;
    const text = `${+((at - base) / size).toFixed(3)} ${unit}`;
    if (x + 4 + c.measureText(text).width < width) c.fillText(text, x + 4, AXIS / 2);
  }
}

function draw() {
  const began = performance.now();
  const { c, width, height } = sized($("lanes"));
  Object.assign(view, { width, seen: height });
  view.top = Math.max(0, Math.min(view.top, view.height - height));
  rects = 0;
  rect(c, theme.back, 0, 0, width, height);
  c.save();
  c.translate(0, -view.top);
  const tall = height + view.top;
  c.save();
  c.translate(0, view.top);
  drawAxis(c, width, height);
  c.restore();
  c.beginPath();
  c.rect(GUTTER, AXIS + view.top, width - GUTTER, height);
  c.save();
  c.clip();
  const inSight = view.rows.filter((row) => row.y + row.height + 12 > view.top + AXIS && row.y < tall);
  for (const row of inSight) (row.lane ? drawLane : drawGoroutine)(c, row, GUTTER, width);
  drawArrows(c, GUTTER, width);
  c.restore();
  c.beginPath();
  c.rect(0, AXIS + view.top, GUTTER, height);
  c.clip();
  rect(c, theme.back, 0, view.top + AXIS, GUTTER, height);
  for (const row of inSight) {
    c.fillStyle = row.g === view.selected ? theme.mark : theme.text;
    fitted(c, row.name, 6, row.y + row.height / 2, GUTTER - 10);
  }
  rect(c, theme.line, 0, view.divide, GUTTER, 1);
  c.restore();
  if (view.band) {
    const [a, b] = view.band.slice().sort((p, q) => p - q);
    c.globalAlpha = 0.2;
    rect(c, theme.mark, a, 0, b - a, height);
    c.globalAlpha = 1;
    c.fillStyle = theme.text;
    c.fillText(duration(timeAt(b) - timeAt(a)), b + 5, AXIS + 10);
  }
  drawMap();
  Object.assign(document.body.dataset, { drawn: rects, frame: (performance.now() - began).toFixed(1) });
}

// How busy the machines are, all of them, over the whole trace; drawn once, until the size changes.
const whole = { key: "", canvas: document.createElement("canvas") };

function drawWhole(key, width, height, ratio) {
  whole.key = key;
  whole.canvas.width = Math.max(1, width * ratio);
  whole.canvas.height = Math.max(1, height * ratio);
  const c = whole.canvas.getContext("2d");
  c.setTransform(ratio, 0, 0, ratio, 0, 0);
  const machines = trace.lanes.filter((lane) => lane.machine && lane.slices.run);
  const each = (height - 6) / Math.max(1, machines.length);
  const { selected, fn } = view;
  Object.assign(view, { selected: -1, fn: -1 });
  machines.forEach((lane, i) => {
    drawSteps(c, lane.slices.run, 0, trace.end, GUTTER, width, 3 + i * each, Math.max(1, each - 1));
  });
  Object.assign(view, { selected, fn });
}

function drawMap() {
  const { c, width, height } = sized($("map"));
  const ratio = window.devicePixelRatio || 1;
  const key = `${width} ${height} ${ratio} ${theme.night}`;
  if (whole.key !== key) drawWhole(key, width, height, ratio);
  rect(c, theme.back, 0, 0, width, height);
  if (width) c.drawImage(whole.canvas, 0, 0, width, height);
  const x = (time) => GUTTER + (time / trace.end) * (width - GUTTER);
  c.globalAlpha = 0.65;
  rect(c, theme.back, GUTTER, 0, x(view.from) - GUTTER, height);
  rect(c, theme.back, x(view.to), 0, width - x(view.to), height);
  c.globalAlpha = 1;
  c.strokeStyle = theme.mark;
  c.strokeRect(x(view.from) + 0.5, 0.5, Math.max(2, x(view.to) - x(view.from) - 1), height - 1);
  c.fillStyle = theme.dim;
  c.fillText(duration(trace.end), 6, height / 2);
}
