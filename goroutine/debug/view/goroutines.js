// Drawing: the lanes of goroutines, and the arrows to and from the one that is selected.

// Where the first step of g is that may be seen.
function stepAfter(g, time) {
  let [low, high] = [gs.first[g], gs.first[g + 1]];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (stepEnd(middle) >= time) high = middle;
    else low = middle + 1;
  }
  return low;
}

function drawGoroutine(c, row, x0, x1) {
  const { g, y, height } = row;
  const scale = (x1 - x0) / (view.to - view.from);
  const put = (begin, end, style, text, inset) => {
    const x = Math.max(x0, xAt(begin));
    const width = Math.min(x1, xAt(end)) - x;
    if (width <= 0) return;
    if (inset) c.globalAlpha = Math.min(1, width); // (of a wait that can't be seen, only a breath)
    rect(c, style, x, y + inset, Math.max(1, width), height - 2 * inset);
    if (text && width > 26) {
      c.fillStyle = inset ? theme.dim : theme.onSlice;
      fitted(c, text, x + 4, y + height / 2, width - 8);
    }
    c.globalAlpha = 1;
  };
  const span = ({ what, begin, end, why }) => {
    const text = what === "wait" ? reasonOf(why)[0] : "runnable";
    put(begin, end, theme[what], text, 3);
  };
  for (const other of gs.before.get(g) ?? []) span(other);
  const last = gs.first[g + 1];
  for (let s = stepAfter(g, view.from); s < last; ) {
    const spans = between(g, s);
    const begin = stepBegin(s);
    if ((spans[0]?.begin ?? begin) > view.to) break;
    spans.forEach(span);
    // (One that can't be seen is as bright as its part of the time up to its end.)
    const end = stepEnd(s);
    const share = (end - begin) / (end - (spans[0]?.begin ?? begin) || 1);
    c.globalAlpha = (end - begin) * scale < 1 ? 0.55 + 0.45 * share : 1;
    put(begin, end, colour(gs.fn[g]), shortName(nameOf(g)), 0);
    // On to the next that isn't in the same pixel.
    const edge = timeAt(Math.floor(xAt(stepEnd(s))) + 1);
    s = stepLength(s) * scale < 1 ? Math.max(s + 1, stepAfter(g, edge)) : s + 1;
  }
}


function drawArrows(c, x0, x1) {
  const g = view.selected;
  if (g < 0) return;
  const places = new Map(view.rows.filter((row) => row.lane).map((row) => [row.lane.index, row]));
  let left = 1500;
  let [lastFrom, lastTo] = [-9, -9];
  const draw = (s, style) => {
    const source = places.get(arrowLane(s));
    if (!source) return;
    const [x, to] = [xAt(arrowAt(s)), xAt(stepBegin(s))];
    if (to < x0 || x > x1 || (Math.abs(x - lastFrom) < 2 && Math.abs(to - lastTo) < 2)) return;
    const target = places.get(steps.lane[s]);
    [lastFrom, lastTo] = [x, to];
    left--;
    const y = source.y + source.height * (source === target ? 0.15 : 0.5);
    const end = target.y + target.height * (source === target ? 0.15 : 0.5);
    const bend = Math.max(12, Math.min(60, Math.abs(to - x) / 2));
    c.strokeStyle = c.fillStyle = style;
    c.beginPath();
    c.moveTo(x, y);
    if (source === target) c.quadraticCurveTo((x + to) / 2, y - 18, to, end);
    else c.bezierCurveTo(x + bend, y, to - bend, end, to, end);
    c.stroke();
    c.beginPath();
    c.moveTo(to, end);
    c.lineTo(to - 6, end - 3);
    c.lineTo(to - 6, end + 3);
    c.fill();
  };
  c.lineWidth = 1.2;
  const mark = theme.mark;
  const last = gs.first[g + 1];
  for (let s = stepAfter(g, view.from); s < last && left > 0; s++) {
    if ((arrowLane(s) < 0 ? stepBegin(s) : arrowAt(s)) > view.to) break;
    draw(s, mark);
  }
  [lastFrom, lastTo] = [-9, -9];
  const caused = view.caused;
  for (let i = 0; i < caused.length && left > 0; i++) {
    if (stepBegin(caused[i]) >= view.from) draw(caused[i], theme.steal);
  }
  if (left <= 0) {
    c.fillStyle = theme.mark;
    c.fillText("more arrows than can be told apart: zoom in", x0 + 8, view.divide + 2);
  }
}
