// The page: what is seen and selected, and what the pointer and the keys do.
// A link to what is seen: #g=7&t=0.001-0.002 (seconds).

addEventListener("error", (event) => (document.body.dataset.error = String(event.message)));
addEventListener("unhandledrejection", (event) => {
  document.body.dataset.error = String(event.reason);
  $("run").textContent = `This browser can't show it: ${event.reason}`;
});

let asked = false;

// Draw it soon, once.
function redraw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    draw();
  });
}

function see(from, to) {
  const least = 50; // ns
  let span = Math.max(least, Math.min(to - from, trace.end));
  if (!(span > 0)) span = trace.end;
  from = Math.max(0, Math.min(from, trace.end - span));
  Object.assign(view, { from, to: from + span });
  tip(null);
  redraw();
}

const all = () => see(0, trace.end);

// That span, and something around it.
function show(from, to) {
  const margin = Math.max(200, (to - from) * 0.15);
  see(from - margin, to + margin);
}

function zoom(factor, x = (GUTTER + view.width) / 2) {
  const time = timeAt(Math.max(GUTTER, x));
  const span = Math.max(50, Math.min((view.to - view.from) * factor, trace.end));
  const from = time - ((time - view.from) / (view.to - view.from)) * span;
  see(from, from + span);
}

const move = (share) => {
  const by = (view.to - view.from) * share;
  see(view.from + by, view.to + by);
};

function select(g, go = false) {
  Object.assign(view, { selected: g, fn: -1, caused: g < 0 ? [] : causedBy(g) });
  document.body.dataset.selected = g < 0 ? "" : gs.id[g];
  document.body.dataset.arrows = view.caused.length;
  if (go && g >= 0) {
    const [begin, end] = lifeOf(g);
    if (end < view.from || begin > view.to) show(begin, end);
  }
  layOut();
  fill();
  redraw();
}

function pick(fn) {
  Object.assign(view, { selected: -1, fn: view.fn === fn ? -1 : fn, caused: [] });
  document.body.dataset.selected = "";
  layOut();
  fill();
  redraw();
}

// The step of the selected goroutine before or after what is in the middle.
function next(forward) {
  const g = view.selected;
  if (g < 0 || gs.first[g] === gs.first[g + 1]) return;
  const span = view.to - view.from;
  const middle = view.from + span / 2;
  let s = stepAfter(g, middle);
  const there = s < gs.first[g + 1] && Math.abs((stepBegin(s) + stepEnd(s)) / 2 - middle) < span / 1e4 + 1;
  if (forward) s = there ? s + 1 : s;
  else s--;
  s = Math.max(gs.first[g], Math.min(s, gs.first[g + 1] - 1));
  const center = (stepBegin(s) + stepEnd(s)) / 2;
  see(center - span / 2, center + span / 2);
}

const KEYS = {
  w: () => zoom(0.7), s: () => zoom(1 / 0.7), a: () => move(-0.2), d: () => move(0.2),
  ArrowUp: () => zoom(0.7), ArrowDown: () => zoom(1 / 0.7), ArrowLeft: () => move(-0.2), ArrowRight: () => move(0.2),
  "+": () => zoom(0.7), "-": () => zoom(1 / 0.7), 0: all, Home: all,
  Escape: () => select(-1), ",": () => next(false), ".": () => next(true),
  "/": () => $("search").focus(),
};

function listen() {
  const lanes = $("lanes");
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === $("search")) {
      if (event.key === "Escape") $("search").blur();
      return;
    }
    const key = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!key) return;
    event.preventDefault();
    key();
  });
  lanes.addEventListener("wheel", (event) => {
    event.preventDefault();
    const unit = event.deltaMode === 1 ? 16 : 1;
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      move((((event.deltaX || event.deltaY) * unit) / (view.width - GUTTER)) * 0.8);
    } else if (event.offsetX < GUTTER) {
      view.top += event.deltaY * unit;
      redraw();
    } else zoom(Math.exp(Math.max(-240, Math.min(240, event.deltaY * unit)) * 0.0022), event.offsetX);
  }, { passive: false });

  let held = null;
  lanes.addEventListener("pointerdown", (event) => {
    if (event.button > 1) return;
    lanes.setPointerCapture(event.pointerId);
    held = { x: event.offsetX, y: event.offsetY, from: view.from, to: view.to, top: view.top, moved: false, band: event.shiftKey };
  });
  lanes.addEventListener("pointermove", (event) => {
    if (!held) {
      tip(event);
      return;
    }
    const [dx, dy] = [event.offsetX - held.x, event.offsetY - held.y];
    if (!held.moved && Math.hypot(dx, dy) < 4) return;
    held.moved = true;
    tip(null);
    if (held.band) {
      view.band = [held.x, event.offsetX];
      redraw();
    } else {
      view.top = held.top - dy;
      const by = (-dx / (view.width - GUTTER)) * (held.to - held.from);
      see(held.from + by, held.to + by);
    }
  });
  lanes.addEventListener("pointerup", (event) => {
    const was = held;
    held = null;
    if (view.band) {
      const [a, b] = view.band.map(timeAt).sort((p, q) => p - q);
      view.band = null;
      see(a, b);
    } else if (was && !was.moved) click(event);
  });
  lanes.addEventListener("dblclick", (event) => {
    const thing = under(event.offsetX, event.offsetY);
    if (thing?.end > thing?.begin) show(thing.begin, thing.end);
  });
  lanes.addEventListener("pointerleave", () => tip(null));

  const map = $("map");
  const seek = (event) => {
    const center = ((event.offsetX - GUTTER) / (view.width - GUTTER)) * trace.end;
    const span = view.to - view.from >= trace.end ? trace.end / 10 : view.to - view.from;
    see(center - span / 2, center + span / 2);
  };
  map.addEventListener("pointerdown", (event) => {
    map.setPointerCapture(event.pointerId);
    seek(event);
  });
  map.addEventListener("pointermove", (event) => event.buttons && seek(event));
  map.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(event.deltaY * 0.0022));
  }, { passive: false });

  $("search").addEventListener("input", (event) => search(event.target.value, false));
  $("search").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    search(event.target.value, true);
    lanes.focus();
  });
  new ResizeObserver(draw).observe($("drawn"));
  dark.addEventListener("change", () => {
    setTheme();
    fill();
    redraw();
  });
  addEventListener("hashchange", follows);
}

function click(event) {
  if (event.offsetX < GUTTER) {
    const row = view.rows.find((r) => r.g !== undefined && Math.abs(event.offsetY + view.top - r.y - 8) < 10);
    if (row) select(row.g);
    return;
  }
  const thing = under(event.offsetX, event.offsetY);
  select(thing && thing.g >= 0 ? thing.g : -1);
}

// What the address asks for.
function follows() {
  const asks = new URLSearchParams(location.hash.slice(1));
  const [from, to] = (asks.get("t") ?? "").split("-").map((text) => parseFloat(text) * 1e9);
  if (to > from) see(from, to);
  if (asks.has("g")) select(gs.id.indexOf(Number(asks.get("g"))));
}

async function begin() {
  const started = performance.now();
  setTheme();
  await load();
  const { about } = trace;
  const dropped = about.dropped ? `, the first events only: ${about.dropped} were dropped` : "";
  $("title").textContent = trace.title;
  $("run").textContent = `${duration(trace.end)}, ${steps.count} steps of ${gs.count} goroutines, Python ${about.python}${dropped}`;
  view.width = $("lanes").clientWidth;
  layOut();
  all();
  fill();
  listen();
  follows();
  draw();
  Object.assign(document.body.dataset, {
    ready: 1, steps: steps.count, goroutines: gs.count, lanes: trace.lanes.length, end: trace.end,
    functions: JSON.stringify(trace.functions), took: (performance.now() - started).toFixed(0),
  });
}

begin();
