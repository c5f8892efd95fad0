// Links the panels of one picture: a crosshair and each panel's own value where one is pointed at, and one zoom.
//
// A panel says in `linked` which picture it lies over (see core/views/panels.py). Axes are in pixels of the
// picture, so a point or a range of one panel is the same in another, of whatever size. Nothing here asks the
// server. The crosshair is laid over the figures: as shapes of theirs it would take Plotly longer than a frame.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.linked) return;

  const zooms = new Map(); // by picture, the ranges of the axes; none while all of it is shown
  const changed = new Set(); // pictures whose crosshairs wait for the next frame
  let point = null; // { x, y, of }: where, and the card pointed at

  const node = (tag, name) => Object.assign(document.createElement(tag), { className: name });

  const cardsOf = (picture) => [...document.querySelectorAll(".ts-card")]
    .map((figure) => figure.card)
    .filter((card) => card?.panel?.linked === picture && card.drawn);

  const rangesOf = ({ xaxis, yaxis }) => [xaxis.range, yaxis.range].map((range) => range.map(Number));

  // ------------------------------------------------------------------ pointing

  // The value of a map's trace at a point of the picture; undefined outside the map.
  function valueAt(trace, x, y) {
    const rows = trace.customdata ?? trace.z;
    return rows[Math.round((y - trace.y0) / trace.dy)]?.[Math.round((x - trace.x0) / trace.dx)];
  }

  // As many digits as a reader can use.
  const told = (value) => (value === undefined ? "not seen" : String(Number(value.toPrecision(3))));

  function crossOf(card) {
    if (!card.cross) {
      card.cross = node("div", "ts-cross");
      card.cross.setAttribute("aria-hidden", "true");
      card.cross.append(node("i", "ts-across"), node("i", "ts-down"), node("span", "ts-value"));
      card.frame.append(card.cross);
    }
    return card.cross;
  }

  // Where the crosshair of a card goes, and what it says; null for none.
  function placed(card) {
    if (!point || !card.near || card.panel.linked !== point.of.panel.linked) return null;
    const [[left, right], [bottom, top]] = rangesOf(card.plot.layout);
    const across = (point.x - left) / (right - left);
    const down = (point.y - top) / (bottom - top);
    if (Math.min(across, down) < 0 || Math.max(across, down) > 1) return null;
    const area = card.plot.querySelector(".nsewdrag").getBoundingClientRect();
    const { left: x, top: y } = card.frame.getBoundingClientRect();
    const says = card.panel.map && card !== point.of ? told(valueAt(card.plot.data[0], point.x, point.y)) : "";
    return { across, down, says, left: area.left - x, top: area.top - y, width: area.width, height: area.height };
  }

  function draw(card, place) {
    const cross = crossOf(card);
    cross.hidden = !place;
    if (!place) return;
    for (const side of ["left", "top", "width", "height"]) cross.style[side] = `${place[side]}px`;
    cross.style.setProperty("--ts-x", `${100 * place.across}%`);
    cross.style.setProperty("--ts-y", `${100 * place.down}%`);
    const value = cross.lastChild;
    value.textContent = place.says;
    // On the side that has room.
    value.style.translate = `${place.across > 0.5 ? "calc(-100% - 6px)" : "6px"} ${place.down > 0.5 ? "calc(-100% - 6px)" : "6px"}`;
  }

  // At most once a frame, for a pointer moves faster than the screen repaints.
  function mark(picture) {
    changed.add(picture);
    if (changed.size > 1) return;
    requestAnimationFrame(() => {
      const cards = [...changed].flatMap(cardsOf);
      changed.clear();
      cards.map((card) => [card, placed(card)]).forEach(([card, place]) => draw(card, place));
    });
  }

  function pointed(card, { xvals, yvals, points: [first] }) {
    const before = point?.of.panel.linked;
    point = { x: xvals?.[0] ?? first.x, y: yvals?.[0] ?? first.y, of: card };
    if (before && before !== card.panel.linked) mark(before);
    mark(card.panel.linked);
  }

  function leave(card) {
    if (point?.of !== card) return;
    point = null;
    mark(card.panel.linked);
  }

  // ------------------------------------------------------------------ zooming

  const alike = (one, other) => one.flat().every((end, i) => Math.abs(end - other.flat()[i]) < 0.01);

  function zoom(card) {
    const wanted = zooms.get(card.panel.linked) ?? rangesOf(card.panel.figure.layout);
    if (alike(rangesOf(card.plot.layout), wanted)) return;
    window.Plotly.relayout(card.plot, { "xaxis.range": [...wanted[0]], "yaxis.range": [...wanted[1]] });
  }

  // Told of every change of a panel's layout, those made here included: they change nothing more.
  function zoomed(card, change) {
    if (!Object.keys(change).some((name) => /^[xy]axis\./.test(name))) return;
    const { linked: picture, figure } = card.panel;
    const ranges = rangesOf(card.plot.layout);
    const whole = rangesOf(figure.layout);
    if (alike(ranges, zooms.get(picture) ?? whole)) return;
    if (alike(ranges, whole)) zooms.delete(picture);
    else zooms.set(picture, ranges);
    for (const other of cardsOf(picture)) if (other !== card) zoom(other);
  }

  // ------------------------------------------------------------------ what panels.js tells

  // Plotly drops listeners where it starts a figure anew, so they are set again, never twice.
  function listen(card) {
    card.listeners ??= {
      plotly_hover: (event) => card.panel.linked && pointed(card, event),
      plotly_unhover: () => card.panel.linked && leave(card),
      plotly_relayout: (change) => card.panel.linked && zoomed(card, change),
    };
    for (const [name, listener] of Object.entries(card.listeners)) {
      card.plot.removeListener(name, listener);
      card.plot.on(name, listener);
    }
  }

  (timmscope.hearers ??= new Set()).add((card) => {
    if (card.cross) card.cross.hidden = true;
    if (!card.panel.linked || !card.drawn) return;
    listen(card);
    zoom(card);
  });

  timmscope.linked = { valueAt, told };
})();
