// Draws panels (see core/views/panels.py) as cards with one Plotly figure each.
//
// The page's view (colormap, opacity, fading, smoothing) lives here and never asks the server: a change restyles
// every map on the page, and maps that arrive later take it too. Text reaches the page through
// textContent only. A card draws when it comes near the viewport, so that hidden tabs and long
// grids cost nothing until they are looked at.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.mount) return;

  const roots = new Set();
  const sharing = new Set(); // the ids of components whose maps share one range of colours
  let colormaps = {};
  timmscope.state ??= {};

  // Functions that are told of every card that was drawn.
  timmscope.hearers ??= new Set();
  // Functions that are told of every grid whose cards were set.
  timmscope.fillers ??= new Set();

  const touched = () => matchMedia("(pointer: coarse)").matches;

  const node = (tag, name) => Object.assign(document.createElement(tag), { className: name });


  // A page with a base address makes Plotly refer to its gradients and clips by the page's address as
  // it was when a figure was made. The address changes with the question; so a figure is made without
  // a base, and refers to them by their names alone.
  function withoutBase(make) {
    const base = document.querySelector("base[href]");
    const href = base?.getAttribute("href");
    base?.removeAttribute("href");
    try {
      make();
    } finally {
      base?.setAttribute("href", href);
    }
  }

  // ------------------------------------------------------------------ one card

  class Card {
    constructor(root) {
      this.root = root;
      this.figure = node("figure", "ts-card");
      this.figure.setAttribute("role", "figure");
      this.title = node("div", "ts-title");
      this.frame = node("div", "ts-frame");
      this.plot = node("div", "ts-plot");
      this.words = node("p", "ts-words");
      this.caption = node("figcaption", "ts-caption");
      this.frame.append(this.plot);
      this.ways = node("div", "ts-ways-out");
      this.figure.append(this.title, this.frame, this.words, this.caption, this.ways);
      // Plotly hears the finger and then the mouse that the browser makes of it: one tap, two clicks.
      this.plot.addEventListener("touchend", (event) => {
        if (event.cancelable && event.target.closest(".nsewdrag")) event.preventDefault();
      });
      this.figure.card = this;
      this.near = false;
    }

    set(panel) {
      const text = JSON.stringify(panel);
      if (text === this.text) return; // an answer that comes again is drawn once
      this.text = text;
      this.given = panel;
      this.panel = timmscope.values.inRange(panel, this.root.together);
      this.describe();
      this.figure.dataset.tone = panel.tone;
      this.figure.dataset.kind = panel.figure.data.length ? (panel.map ? "map" : "chart") : "note";
      this.stale = true;
      this.sorted = null;
      // Plotly starts anew, without zoom or listeners, when its configuration changes.
      const form = `${this.figure.dataset.kind} ${Boolean(panel.figure.layout.dragmode)}`;
      if (form !== this.form) this.purge();
      this.form = form;
      const { aspect, height, margin: [across, down] } = panel;
      const room = aspect ? `calc((100cqw - ${across}px) * ${aspect} + ${down}px)` : `${height}px`;
      this.plot.style.setProperty("--ts-room", room);
      if (this.near) this.show();
      if (!panel.figure.data.length) this.tell();
    }

    // The map in the range of colours that its component shows now.
    recolour() {
      this.panel = timmscope.values.inRange(this.given, this.root.together);
      this.stale = true;
      if (this.near) this.show();
    }

    tell() {
      for (const hear of timmscope.hearers) hear(this);
    }

    // Whether this map is to be drawn smoothed; what is never smoothed has nothing to switch.
    get smooth() {
      return Boolean(this.panel.smoothing) && timmscope.state.smooth !== false;
    }

    describe() {
      const { title, method, words, caption, smoothing } = this.panel;
      const told = smoothing && !this.smooth ? smoothing.caption : caption;
      this.title.replaceChildren(title, ...(method ? [Object.assign(node("span", "ts-method"), { textContent: method })] : []));
      this.words.textContent = words;
      this.caption.textContent = told;
      this.ways.replaceChildren(...timmscope.waysOut.buttons(this.panel.ways_out));
      this.figure.setAttribute("aria-label", [title, method, words, told].filter(Boolean).join(". "));
    }

    show() {
      if (this.stale) this.draw();
      else this.restyle();
    }

    // The colours of the map in the page's view, or in the view that the stage has of its own.
    look() {
      const view = { ...timmscope.state, ...this.root.own };
      const { strongest = 100 } = view;
      return timmscope.values.look(this.panel, view, colormaps, strongest < 100 ? timmscope.values.cutOf(this.sizes, strongest) : 0);
    }

    // Sizes of the values drawn, sorted once.
    get sizes() {
      return (this.sorted ??= timmscope.values.sizesOf(timmscope.values.ofMap(this.panel.figure.data[0], this.panel, this.smooth).z));
    }

    get drawn() {
      return Boolean(this.plot._fullLayout);
    }

    size() {
      const { aspect, height, margin: [across, down] } = this.panel;
      const room = Math.floor(this.figure.clientWidth);
      if (!aspect) return { width: room, height };
      const tallest = Math.max(240, 0.72 * window.innerHeight) - down;
      const width = Math.min(room - across, tallest / aspect);
      return { width: Math.round(width + across), height: Math.round(width * aspect + down) };
    }

    fit() {
      const { width, height } = this.size();
      const { width: w, height: h } = this.plot._fullLayout;
      if (width > 0 && (Math.abs(w - width) > 1 || Math.abs(h - height) > 1)) {
        window.Plotly.relayout(this.plot, { width, height });
      }
    }

    draw() {
      if (!this.panel.figure.data.length || !this.figure.clientWidth) return;
      this.stale = false;
      const { data, layout } = this.panel.figure;
      const fresh = !this.drawn;
      this.smoothed = this.smooth;
      this.sorted = null;
      const shown = this.panel.map ? this.look() : {};
      this.describe();
      const traces = this.panel.map
        ? data.map((t) => ({ ...timmscope.values.ofMap(t, this.panel, this.smoothed), ...shown })) : data;
      // Plotly writes into what it is given.
      withoutBase(() => window.Plotly.react(this.plot, traces, { ...structuredClone(layout), ...this.size(), ...this.touch(layout) }, this.config()));
      this.shown = JSON.stringify(shown);
      if (fresh) this.plot.on("plotly_click", (event) => this.click(event));
      if (this.panel.map) warmUp(this);
      this.tell();
    }

    // Dragging a finger over a figure scrolls the page; a mouse drags to zoom.
    touch(layout) {
      return { dragmode: touched() ? false : layout.dragmode };
    }

    config() {
      return {
        displaylogo: false,
        // By default two clicks zoom to what is drawn, which is less than the picture.
        doubleClick: touched() ? false : "reset",
        displayModeBar: this.panel.figure.layout.dragmode ? "hover" : false,
        modeBarButtons: [["resetScale2d", "toImage"]],
        toImageButtonOptions: { format: "png", scale: 2, filename: "timmscope" },
        showTips: false,
      };
    }

    restyle() {
      if (!this.drawn || this.stale || !this.panel.map) return;
      if (this.smooth !== this.smoothed) {
        this.draw();
        return;
      }
      const { opacity, colorscale } = this.look();
      const shown = JSON.stringify({ opacity, colorscale });
      if (shown === this.shown) return;
      const recoloured = JSON.stringify(JSON.parse(this.shown).colorscale) !== JSON.stringify(colorscale);
      this.shown = shown;
      window.Plotly.restyle(this.plot, recoloured ? { opacity, colorscale: [colorscale] } : { opacity });
    }

    click({ points: [point], event }) {
      const panel = this.root.cards.indexOf(this);
      if (!this.panel.map) return this.root.trigger("select", { panel, index: point.pointNumber });
      const box = this.plot.querySelector(".nsewdrag").getBoundingClientRect();
      const pixel = (axis, at) => {
        const [low, high] = axis.range.map(Number).sort((a, b) => a - b);
        return Math.round(Math.min(Math.max(axis.p2d(at), low + 0.001), high - 0.001));
      };
      this.root.trigger("select", {
        panel,
        index: panel,
        x: pixel(point.xaxis, event.clientX - box.left),
        y: pixel(point.yaxis, event.clientY - box.top),
        value: point.customdata ?? point.z,
      });
    }

    purge() {
      if (this.drawn) window.Plotly.purge(this.plot);
    }
  }

  let cold = 4;

  // The first restylings of a visit compile what later ones run: have it done before it counts.
  function warmUp(card) {
    if (!cold) return;
    cold -= 1;
    const idle = window.requestIdleCallback ?? ((callback) => setTimeout(callback, 200));
    idle(() => {
      if (card.drawn) window.Plotly.restyle(card.plot, { colorscale: [card.look().colorscale] });
      warmUp(card);
    }, { timeout: 2000 });
  }

  // ------------------------------------------------------------------ one grid of cards

  // What `encode` in panels.py made: panels, each with its picture, and what they answer.
  function decode(text) {
    const { pictures, panels, answer } = JSON.parse(text || '{"pictures": [], "panels": []}');
    for (const panel of panels) {
      for (const image of panel.figure.layout.images ?? []) image.source = pictures[image.source];
    }
    return { panels, answer };
  }

  timmscope.decode = decode;

  // Items as the value of a grid: each has a panel and the picture that lies under its map.
  timmscope.encode = (items) => {
    const pictures = [...new Set(items.map(({ picture }) => picture))];
    const panels = items.map(({ panel, picture }) => {
      const images = panel.figure.layout.images.map((image) => ({ ...image, source: pictures.indexOf(picture) }));
      return { ...panel, figure: { ...panel.figure, layout: { ...panel.figure.layout, images } } };
    });
    return JSON.stringify({ panels, pictures });
  };

  class Root {
    constructor(element, trigger, stage) {
      this.element = element;
      this.trigger = trigger;
      this.stage = stage;
      this.own = {};
      this.grid = element.querySelector(".ts-grid");
      this.cards = [];
      this.sight = new IntersectionObserver((entries) => entries.forEach(({ target: { card }, isIntersecting }) => {
        card.near = isIntersecting;
        if (isIntersecting) card.show();
      }), { rootMargin: "320px" });
      this.sizes = new ResizeObserver((entries) => requestAnimationFrame(() => {
        for (const { target: { card } } of entries) if (card.drawn && card.figure.clientWidth) card.fit();
      }));
    }

    set(text) {
      const { panels, answer } = decode(text);
      if (answer) timmscope.answers.arrived(answer);
      while (this.cards.length > panels.length) this.drop(this.cards.pop());
      while (this.cards.length < panels.length) this.add(new Card(this));
      this.cards.forEach((card, i) => card.set(panels[i]));
      for (const hear of timmscope.fillers) hear(this);
    }

    // Whether its maps share one range of colours.
    get together() {
      return [...sharing].some((id) => this.element.closest(`#${id}`));
    }

    add(card) {
      this.cards.push(card);
      this.grid.append(card.figure);
      this.sight.observe(card.figure);
      this.sizes.observe(card.figure);
    }

    drop(card) {
      this.sight.unobserve(card.figure);
      this.sizes.unobserve(card.figure);
      card.purge();
      card.figure.remove();
    }
  }

  // ------------------------------------------------------------------ what the page uses

  // Gradio tells no component that it leaves the page.
  function sweep() {
    for (const root of roots) {
      if (root.element.isConnected) continue;
      root.set("");
      roots.delete(root);
    }
  }

  let queue = [];
  let frame = 0;

  // The first change is drawn at once. A slider fires faster than the screen repaints, and a grid
  // takes longer than one frame: what comes sooner than the next frame waits for it.
  function step() {
    const until = performance.now() + 24;
    while (queue.length && performance.now() < until) queue.shift().restyle();
    frame = requestAnimationFrame(() => {
      frame = 0;
      if (queue.length) step();
    });
  }

  timmscope.redraw = () => {
    document.dispatchEvent(new Event("timmscope:view"));
    queue = [...roots].flatMap((root) => root.cards.filter((card) => card.near));
    if (!frame) step();
  };

  // A person has chosen a range of colours for the maps of a component: "own" or "shared".
  timmscope.shareRange = (id, range) => {
    sharing[range === "shared" ? "add" : "delete"](id);
    for (const root of roots) {
      if (root.element.closest(`#${id}`)) for (const card of root.cards) if (card.given.shared) card.recolour();
    }
  };

  timmscope.mount = (element, props, trigger, watch) => {
    sweep();
    if (props.colormaps) colormaps = timmscope.colormaps = JSON.parse(props.colormaps); // a tab's first opening may mount without them
    timmscope.state = { ...props.view, ...timmscope.state };
    const root = new Root(element, trigger, Boolean(props.stage));
    roots.add(root);
    root.set(props.value);
    watch("value", () => root.set(props.value));
  };
})();
