// The stage: a card with tools on its picture (see panels.py).
//
// It shows the picture, the map over it, the map alone, or both with a slider between them; and a
// person hides parts of the picture to see what the model says without them. Changing the view asks
// nothing of the server.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.stage) return;

  const VIEWS = [["overlay", "Overlay"], ["picture", "Picture"], ["map", "Map"], ["slide", "Slide"]];
  const TOOLS = [
    ["look", "Look", "M10.5 4a6.5 6.5 0 1 0 0 13a6.5 6.5 0 0 0 0-13M15.5 15.5L21 21"],
    ["brush", "Paint a part to hide", "M4 20l1.2-4.6L16.8 3.8a1.8 1.8 0 0 1 2.6 0l.8.8a1.8 1.8 0 0 1 0 2.6L8.6 18.8Z"],
    ["box", "Draw a box to hide", "M4 7V4h3M10.5 4h3M17 4h3v3M20 10.5v3M20 17v3h-3M13.5 20h-3M7 20H4v-3M4 13.5v-3"],
    ["region", "Click parts that look alike to hide them", "M4 5l6-1 3 5-4 4-5-2ZM13 9l7-3v7l-5 3-6-3M9 13l6 3-2 4H5l-1-9"],
  ]; // name, what it does, its icon on a grid of 24
  const FILLS = [["blur", "Blur"], ["mean", "Grey"], ["black", "Black"], ["inpaint", "Inpaint"]];
  const BRUSH = 0.045; // radius as a share of the width
  const NUDGE = 0.04; // how far an arrow key moves a box
  const AREA = "explain"; // whose result is on the stage
  // What the effect of hiding a part depends on.
  const QUESTION = ["picture", "model", "weights", "activation", "measured_in", "crop", "target", "versus", "unit", "against"];

  const stages = new Set();

  function node(tag, name, more = {}) {
    const { text, label, ...rest } = more;
    const made = Object.assign(document.createElement(tag), { className: name, ...rest });
    if (text !== undefined) made.textContent = text;
    if (label) made.setAttribute("aria-label", label);
    if (label) made.title = label;
    return made;
  }

  const button = (name, text, label, act) => {
    const made = node("button", name, { type: "button", text, label });
    made.addEventListener("click", act);
    return made;
  };

  function icon(path) {
    const [drawing, line] = ["svg", "path"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
    for (const [name, value] of Object.entries({ viewBox: "0 0 24 24", width: 20, height: 20, fill: "none", stroke: "currentColor", "stroke-width": 2, "stroke-linecap": "round", "aria-hidden": true })) drawing.setAttribute(name, value);
    line.setAttribute("d", path);
    drawing.append(line);
    return drawing;
  }

  class Stage {
    constructor(card) {
      this.card = card;
      this.view = VIEWS.find(([key]) => key === timmscope.question.shown())?.[0] ?? VIEWS[0][0];
      this.tool = "look";
      this.cover = node("img", "ts-cover", { alt: "", draggable: false });
      this.divider = node("input", "ts-divider", { type: "range", min: 0, max: 100, value: 50, label: "Picture to the left, map to the right" });
      this.canvas = node("canvas", "ts-marks", { tabIndex: -1, label: "Mark a part with the mouse; with arrow keys, a box" });
      this.area = node("div", "ts-area");
      this.sees = node("div", "ts-sees");
      this.area.append(this.cover, this.canvas, this.divider, this.sees);
      this.switch = this.makeSwitch();
      this.tools = this.makeTools();
      this.options = this.makeOptions();
      this.effect = node("p", "ts-effect");
      this.effect.setAttribute("aria-live", "polite");
      this.layer = node("div", "ts-stage");
      this.layer.append(this.area, this.tools, this.switch);
      card.frame.append(this.layer);
      card.frame.after(this.options, this.effect);
      this.divider.addEventListener("input", () => this.slide());
      this.listen();
    }

    // -------------------------------------------------------------- parts of it

    makeSwitch() {
      const box = node("div", "ts-switch", { label: "What is shown" });
      box.setAttribute("role", "group");
      this.views = VIEWS.map(([key, text]) => {
        const made = button("", text, "", () => {
          this.show(key);
          timmscope.question.show(key === VIEWS[0][0] ? null : key);
        });
        made.dataset.view = key;
        return made;
      });
      box.append(...this.views);
      return box;
    }

    makeTools() {
      const box = node("div", "ts-tools", { label: "Tools" });
      box.setAttribute("role", "group");
      this.chosen = TOOLS.map(([key, label, path]) => {
        const made = button("ts-tool", "", label, () => this.take(key));
        made.dataset.tool = key;
        made.append(icon(path));
        return made;
      });
      box.append(...this.chosen);
      return box;
    }

    makeOptions() {
      const box = node("div", "ts-options", { hidden: true });
      this.keep = node("select", "", { label: "What is hidden" });
      this.keep.append(new Option("Hide the part", "hide"), new Option("Keep only the part", "keep"));
      this.fill = node("select", "", { label: "What replaces it" });
      this.fill.append(...FILLS.map(([key, text]) => new Option(text, key)));
      for (const one of [this.keep, this.fill]) one.addEventListener("change", () => this.ask());
      this.back = button("", "Undo", "", () => this.step("undo"));
      this.forth = button("", "Redo", "", () => this.step("redo"));
      this.reset = button("", "Reset", "", () => this.step("clear"));
      this.strong = button("", "", "", () => this.markStrongest());
      box.append(this.keep, this.fill, this.strong, this.back, this.forth, this.reset);
      return box;
    }

    listen() {
      this.canvas.addEventListener("pointerdown", (event) => this.press(event));
      this.canvas.addEventListener("pointermove", (event) => this.drag(event));
      for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => this.release());
      this.canvas.addEventListener("keydown", (event) => this.key(event));
      this.layer.addEventListener("keydown", (event) => { if (event.key === "Escape") this.take("look"); });
    }

    // -------------------------------------------------------------- the card was drawn

    update() {
      const { panel, plot } = this.card;
      const [image] = panel.figure.layout.images ?? [];
      this.layer.hidden = !image || !panel.map;
      if (this.layer.hidden) return this.put();
      this.picture = { width: image.sizex, height: image.sizey };
      if (this.source !== image.source) {
        this.source = image.source;
        this.cover.src = image.source;
        this.part = new timmscope.Part(image.sizey / image.sizex);
        this.regions = null;
        this.forget();
        this.cut();
      }
      this.sees.textContent = panel.seen ?? "";
      this.sees.hidden = !panel.seen;
      if (!this.heard) plot.on("plotly_relayout", () => this.place());
      this.heard = true;
      this.place();
      this.show(this.view, false);
      this.refresh();
      this.agree();
      return undefined;
    }

    // Nothing to work on: another picture, or none.
    put() {
      this.heard = false;
      this.source = null;
      this.options.hidden = true;
      this.agree();
    }

    // What is said of the hidden part belongs to the question that is answered and asked.
    agree() {
      const about = this.source ? timmscope.answers.agreed(AREA, QUESTION) : null;
      if (about === this.about) return;
      this.about = about;
      if (about && !this.part.empty) this.ask();
      else this.forget();
    }

    // Lays the area over the plot, and the picture's copy as the axes show the picture.
    place() {
      const { plot, frame, panel } = this.card;
      const inner = plot.querySelector(".svg-container");
      if (!inner || this.layer.hidden) return;
      const [box, outer] = [inner.getBoundingClientRect(), frame.getBoundingClientRect()];
      const { l, r, t, b } = panel.figure.layout.margin;
      const [width, height] = [box.width - l - r, box.height - t - b];
      Object.assign(this.layer.style, { left: `${box.left - outer.left + l}px`, top: `${box.top - outer.top + t}px`, width: `${width}px`, height: `${height}px` });
      const { xaxis, yaxis } = plot.layout;
      const [x0, x1] = xaxis.range.map(Number);
      const [y1, y0] = yaxis.range.map(Number);
      this.axes = { x0, y0, across: x1 - x0, down: y1 - y0 };
      const style = {
        left: `${((-0.5 - x0) / (x1 - x0)) * 100}%`, top: `${((-0.5 - y0) / (y1 - y0)) * 100}%`,
        width: `${(this.picture.width / (x1 - x0)) * 100}%`, height: `${(this.picture.height / (y1 - y0)) * 100}%`,
      };
      Object.assign(this.cover.style, style);
      Object.assign(this.canvas.style, style);
      this.slide();
      this.paint();
    }

    // -------------------------------------------------------------- what is shown

    show(view, changed = true) {
      this.view = view;
      const { root } = this.card;
      root.own = { picture: { alpha: 0 }, map: { alpha: 1 } }[view] ?? {};
      for (const one of this.views) one.setAttribute("aria-pressed", String(one.dataset.view === view));
      this.layer.dataset.view = view;
      this.slide();
      if (changed) this.card.restyle();
    }

    // The copy of the picture covers the map to the left of the divider.
    slide() {
      const at = Number(this.divider.value);
      const { x0, across } = this.axes ?? { x0: -0.5, across: 1 };
      const edge = ((x0 + (at / 100) * across + 0.5) / (this.picture?.width ?? 1)) * 100;
      this.cover.style.clipPath = `inset(0 ${100 - edge}% 0 0)`;
      this.layer.style.setProperty("--ts-at", `${at}%`);
    }

    // -------------------------------------------------------------- hiding parts

    take(tool) {
      this.tool = tool;
      this.layer.dataset.tool = tool;
      this.canvas.tabIndex = tool === "look" ? -1 : 0;
      this.cut();
      this.paint();
      if (tool !== "look") this.canvas.focus({ preventScroll: true });
    }

    // Asks how the picture is cut into parts, once for each picture.
    cut() {
      if (this.tool !== "region" || this.regions) return;
      this.cutting = timmscope.answers.stamp();
      this.card.root.trigger("edit", { asked_at: this.cutting });
    }

    // The parts, see `dashboard.actions.superpixels.SuperpixelResult`.
    receive({ width, height, labels, words, asked_at: at }) {
      if (at !== this.cutting) return; // those of the picture before
      if (words) {
        this.effect.textContent = words;
        return;
      }
      const cells = Uint8Array.from(atob(labels), (one) => one.charCodeAt(0));
      this.regions = { of: (x, y) => cells[Math.min(Math.floor(y * height), height - 1) * width + Math.min(Math.floor(x * width), width - 1)], width, height };
      this.paint();
    }

    // Adds the part under the pointer, or takes it away, as the first press decided.
    mark(x, y) {
      if (!this.regions || x < 0 || y < 0 || x >= 1 || y >= 1) return;
      const label = this.regions.of(x, y);
      if (label === this.marked) return;
      const { part } = this;
      const cell = Math.floor(y * part.height) * part.width + Math.floor(x * part.width);
      this.adds ??= 1 - part.cells[cell];
      this.marked = label;
      part.put((...at) => this.regions.of(...at) === label, this.adds);
    }

    // The edges between the parts.
    outline() {
      const { width, height, of } = this.regions;
      const context = this.canvas.getContext("2d");
      const [across, down] = [this.canvas.width / width, this.canvas.height / height];
      context.fillStyle = "rgba(255,255,255,0.75)";
      for (let row = 0; row < height; row += 1) {
        for (let column = 0; column < width; column += 1) {
          const [x, y] = [(column + 0.5) / width, (row + 0.5) / height];
          const here = of(x, y);
          if (here !== of(x + 1 / width, y) || here !== of(x, y + 1 / height)) context.fillRect(column * across, row * down, 1.5, 1.5);
        }
      }
    }

    at(event) {
      const box = this.canvas.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    }

    press(event) {
      if (this.tool === "look" || event.button) return;
      this.canvas.setPointerCapture(event.pointerId);
      this.part.begin();
      this.start = this.at(event);
      this.base = this.part.cells.slice();
      this.drag(event);
    }

    drag(event) {
      if (!this.start) return;
      const [x, y] = this.at(event);
      if (this.tool === "brush") {
        const [fromX, fromY] = this.last ?? this.start;
        const steps = Math.ceil(Math.hypot(x - fromX, y - fromY) / (BRUSH / 2)) || 1;
        for (let i = 1; i <= steps; i += 1) {
          this.part.spot(fromX + ((x - fromX) * i) / steps, fromY + ((y - fromY) * i) / steps, BRUSH);
        }
        this.last = [x, y];
      } else if (this.tool === "region") {
        this.mark(x, y);
      } else {
        this.part.cells = this.base.slice();
        this.part.box(...this.start, x, y);
      }
      this.paint();
    }

    release() {
      if (!this.start) return;
      this.start = this.last = this.marked = this.adds = null;
      this.ask();
    }

    // A box by the keyboard: arrows move it, with Shift they change its size, Enter hides it.
    key(event) {
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const move = moves[event.key];
      if (!move && event.key !== "Enter") return;
      event.preventDefault();
      if (!this.box) {
        this.part.begin();
        this.base = this.part.cells.slice();
        this.box = [0.375, 0.375, 0.25, 0.25];
      }
      if (move) {
        const first = event.shiftKey ? 2 : 0;
        const limit = (value, low, high) => Math.min(Math.max(value, low), high);
        for (const [i, by] of move.entries()) {
          const high = 1 - (event.shiftKey ? this.box[i] : this.box[i + 2]);
          this.box[first + i] = limit(this.box[first + i] + by * NUDGE, event.shiftKey ? NUDGE : 0, high);
        }
      }
      const [x, y, width, height] = this.box;
      this.part.cells = this.base.slice();
      this.part.box(x, y, x + width, y + height);
      this.paint();
      if (event.key === "Enter") {
        this.box = null;
        this.ask();
      }
    }

    step(what) {
      this.part[what]();
      this.box = null;
      this.paint();
      this.ask();
    }

    // Marks the strongest values of the map, as many as the page shows; a tenth if it shows all.
    markStrongest() {
      const { card } = this;
      const rows = timmscope.values.ofMap(card.panel.figure.data[0], card.panel, card.smooth).z;
      const cut = timmscope.values.cutOf(card.sizes, this.percent);
      const { x0, dx, y0, dy } = card.panel.figure.data[0];
      const { width, height } = this.picture;
      this.part.begin();
      this.part.where((x, y) => {
        const column = Math.round((x * width - 0.5 - x0) / dx);
        const row = Math.round((y * height - 0.5 - y0) / dy);
        return Math.abs(rows[row]?.[column] ?? 0) >= cut;
      });
      this.paint();
      this.ask();
    }

    get percent() {
      const { strongest = 100 } = timmscope.state;
      return strongest < 100 ? strongest : 10;
    }

    paint() {
      const { canvas, part } = this;
      if (!part) return;
      const width = Math.round(canvas.clientWidth);
      const height = Math.round(canvas.clientHeight);
      if (canvas.width !== width) canvas.width = width;
      if (canvas.height !== height) canvas.height = height;
      if (width && height) part.paint(canvas);
      if (width && height && this.tool === "region" && this.regions) this.outline();
      this.refresh();
    }

    refresh() {
      const { part, tool } = this;
      for (const one of this.chosen) one.setAttribute("aria-pressed", String(one.dataset.tool === tool));
      this.options.hidden = this.layer.hidden || (tool === "look" && (!part || part.empty));
      this.strong.textContent = `Mark the strongest ${this.percent} %`;
      this.back.disabled = !part?.past.length;
      this.forth.disabled = !part?.future.length;
      this.reset.disabled = !part || part.empty;
    }

    ask() {
      this.refresh();
      if (this.part.empty) {
        this.forget();
        return;
      }
      this.asked = timmscope.answers.stamp();
      this.card.root.trigger("submit", { mask: this.part.pack(), keep_only: this.keep.value === "keep", baseline: this.fill.value, asked_at: this.asked });
    }

    forget() {
      this.asked = null;
      this.effect.textContent = "";
      timmscope.classes?.change(null);
    }

    // What the model says while the part is hidden; see `dashboard.actions.hide.HideResult`.
    answer({ words, after, asked_at: at }) {
      if (at !== this.asked) return; // another part, or another question
      this.effect.textContent = words;
      timmscope.classes?.change(after);
    }
  }

  (timmscope.hearers ??= new Set()).add((card) => {
    if (!card.root.stage || card.root.cards[0] !== card) return;
    card.tools ??= new Stage(card);
    stages.add(card.tools);
    card.tools.update();
  });

  // Once the answer that was told of is drawn, too.
  document.addEventListener("timmscope:answers", ({ detail }) => {
    if (detail === AREA) queueMicrotask(() => { for (const stage of living()) stage.agree(); });
  });

  const living = () => [...stages].filter((stage) => stage.card.figure.isConnected || !stages.delete(stage));

  timmscope.stage = {
    receive: (parts) => { if (parts) for (const stage of living()) stage.receive(parts); },
    answered: (answer) => { if (answer) for (const stage of living()) stage.answer(answer); },
    // Shows another panel in place of the one that is there.
    put: (panel) => { for (const stage of living()) stage.card.set(panel); },
    refresh: () => { for (const stage of living()) stage.refresh(); },
  };
})();
