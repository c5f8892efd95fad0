// A patch of the picture is touched: what is it like, and what does it attend to?
//
// The server sends, once, what every layer says of every pair of patches (see actions/patches.py). From
// then on everything happens here: another patch, layer or head is drawn without asking the server.
// The map itself is a card of panels.js, so it follows the page's view.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.patch) return;

  const KINDS = { similarity: "Similarity", attention: "Attention" };
  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const MEAN = -1;

  function element(tag, name = "", more = {}) {
    const { text = "", data = {}, attributes = {}, ...properties } = more;
    const made = Object.assign(document.createElement(tag), { className: name, textContent: text, ...properties });
    Object.assign(made.dataset, data);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  // ------------------------------------------------------------------ numbers

  function bytesOf(base64) {
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
    return bytes;
  }

  // A layer's values, unpacked when they are first looked at. Each row has a range of its own: an attention
  // weight is often a hundredth of the largest in its layer.
  class Layer {
    constructor(packed) {
      Object.assign(this, packed);
      this.patches = this.grid[0] * this.grid[1];
      this.rows = this.patches + this.tokens.length;
      this.columns = this.keys[0] * this.keys[1];
    }

    get bytes() {
      return (this.unpacked ??= bytesOf(this.values));
    }

    get peaks() {
      if (!this.ends) {
        const { bdata, lo, hi } = this.peak;
        const view = new DataView(bytesOf(bdata).buffer);
        this.ends = Float32Array.from({ length: view.byteLength / 2 }, (_, i) => (
          lo + (view.getUint16(2 * i, true) * (hi - lo)) / 65535
        ));
      }
      return this.ends;
    }

    // What one row of one head says, or of all heads on average.
    row(index, head) {
      const heads = head === MEAN ? [...Array(this.heads).keys()] : [head];
      const found = new Float32Array(this.columns);
      for (const one of heads) {
        const at = one * this.rows + index;
        const step = (this.peaks[at] - this.floor) / 255;
        for (let i = 0; i < this.columns; i += 1) {
          found[i] += (this.floor + this.bytes[at * this.columns + i] * step) / heads.length;
        }
      }
      return found;
    }

    // The column and row of a cell in a grid, at a point from 0 to 1.
    cell([height, width], { u, v }) {
      return [Math.min(Math.floor(u * width), width - 1), Math.min(Math.floor(v * height), height - 1)];
    }
  }

  function pack(values, [height, width]) {
    const lo = Math.min(...values);
    const hi = Math.max(...values);
    const view = new DataView(new ArrayBuffer(2 * values.length));
    values.forEach((value, i) => view.setUint16(2 * i, Math.round(((value - lo) / (hi - lo || 1)) * 65535), true));
    const bdata = btoa(String.fromCharCode(...new Uint8Array(view.buffer)));
    return { bdata, dtype: "u2", shape: [height, width], lo, hi };
  }

  const percent = (share) => `${Math.round(100 * share)}%`;
  const short = (value) => (Object.is(value, 0) ? "0" : Number(value.toPrecision(2)).toString());

  // ------------------------------------------------------------------ small pictures of maps

  function paint(canvas, values, [height, width], [low, high], stops) {
    Object.assign(canvas, { height, width });
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const span = high - low || 1;
    values.forEach((value, i) => {
      const share = Math.min(Math.max((value - low) / span, 0), 1);
      const next = Math.max(1, stops.findIndex(([at]) => at >= share));
      const [[a, one], [b, other]] = [stops[next - 1], stops[next]];
      const part = (share - a) / (b - a || 1);
      one.forEach((channel, c) => { image.data[4 * i + c] = channel + part * (other[c] - channel); });
      image.data[4 * i + 3] = 255;
    });
    context.putImageData(image, 0, 0);
  }

  // ------------------------------------------------------------------ the stage

  class Stage {
    constructor(root, props) {
      this.root = root;
      this.props = props;
      const find = (name) => root.querySelector(`.ts-patch-${name}`);
      [this.kinds, this.picture, this.slider, this.name, this.layers, this.heads, this.tokens, this.words, this.notes] =
        ["kinds", "picture", "slider", "name", "layers", "heads", "tokens", "words", "notes"].map(find);
      this.at = { u: 0.5, v: 0.5, token: 0 };
      this.chosen = { kind: "similarity", layer: {}, head: MEAN };
      this.card = { value: "", colormaps: props.colormaps, view: props.view };
      timmscope.mount(this.picture, this.card, (_, where) => this.touch(where), (_, redraw) => { this.redraw = redraw; });
      this.slider.addEventListener("input", () => this.choose({ layer: Number(this.slider.value) }));
      this.picture.addEventListener("keydown", (event) => this.press(event));
    }

    set(text) {
      const { panels, pictures, answer, touch } = JSON.parse(text || '{"panels": [], "pictures": []}');
      this.touched = touch;
      this.root.classList.toggle("ts-empty", !touch);
      this.picture.tabIndex = touch ? 0 : -1;
      [this.panel] = panels;
      this.pictures = pictures;
      if (!touch) {
        this.card.value = text;
        this.redraw();
        return;
      }
      if (answer) timmscope.answers.arrived(answer);
      this.all = Object.fromEntries(Object.keys(KINDS).map((kind) => [kind, touch[kind].map((one) => new Layer(one))]));
      if (!this.all[this.chosen.kind].length) this.chosen.kind = Object.keys(KINDS).find((kind) => this.all[kind].length);
      this.notes.replaceChildren(...[...Object.values(touch.reasons), ...touch.notes].map((note) => element("li", "", { text: note })));
      this.offerKinds();
      this.offerLayers();
    }

    // ---------------------------------------------------------------- what is chosen

    get layersOfKind() {
      return this.all[this.chosen.kind];
    }

    get position() {
      const last = this.layersOfKind.length - 1;
      return Math.min(this.chosen.layer[this.chosen.kind] ?? last, last);
    }

    get layer() {
      return this.layersOfKind[this.position];
    }

    get head() {
      return this.chosen.head < this.layer.heads ? this.chosen.head : MEAN;
    }

    // The row that is asked for in a layer: a patch, or a token that is no patch.
    rowIn(layer) {
      if (this.at.token && this.at.token <= layer.tokens.length) return layer.patches + this.at.token - 1;
      const [column, row] = layer.cell(layer.grid, this.at);
      return row * layer.grid[1] + column;
    }

    choose({ kind, layer, head }) {
      if (layer !== undefined) this.chosen.layer[this.chosen.kind] = layer;
      if (head !== undefined) this.chosen.head = head;
      if (kind !== undefined && kind !== this.chosen.kind) {
        this.chosen.kind = kind;
        this.offerKinds();
        this.offerLayers();
        return;
      }
      if (layer !== undefined) this.offerHeads();
      this.draw();
    }

    touch({ x, y }) {
      if (!this.touched) return;
      const [left, top, right, bottom] = this.touched.box;
      const [u, v] = [(x + 0.5 - left) / (right - left), (y + 0.5 - top) / (bottom - top)];
      if (u < 0 || u > 1 || v < 0 || v > 1) return; // the model does not see it
      this.at = { u, v, token: 0 };
      this.draw();
    }

    press(event) {
      const step = STEPS[event.key];
      if (!step || !this.touched) return;
      event.preventDefault();
      const [height, width] = this.layer.grid;
      const [column, row] = this.layer.cell(this.layer.grid, this.at);
      const within = (value, count) => Math.min(Math.max(value, 0), count - 1);
      this.at = {
        u: (within(column + step[0], width) + 0.5) / width,
        v: (within(row + step[1], height) + 0.5) / height,
        token: 0,
      };
      this.draw();
    }

    // ---------------------------------------------------------------- the controls

    offerKinds() {
      this.kinds.replaceChildren(...Object.entries(KINDS).map(([kind, text]) => element("button", "", {
        text,
        type: "button",
        disabled: !this.all[kind].length,
        title: this.touched.reasons[kind] ?? "",
        onclick: () => this.choose({ kind }),
        attributes: { "aria-pressed": String(kind === this.chosen.kind) },
      })));
    }

    offerLayers() {
      this.slider.max = String(this.layersOfKind.length - 1);
      this.slider.disabled = this.layersOfKind.length < 2;
      this.layers.replaceChildren(...this.layersOfKind.map((layer, i) => (
        this.thumbnail(layer.layer, () => this.choose({ layer: i }))
      )));
      this.offerHeads();
      this.draw();
    }

    offerHeads() {
      const { heads, tokens } = this.layer;
      const names = heads > 1 ? ["mean", ...Array(heads).keys()] : [];
      this.heads.parentElement.hidden = !names.length;
      if (this.heads.children.length !== names.length) {
        this.heads.replaceChildren(...names.map((name, i) => (
          this.thumbnail(i ? `Head ${name}` : "Mean of all heads", () => this.choose({ head: i - 1 }), String(name))
        )));
      }
      if (this.tokens.children.length !== tokens.length) {
        this.tokens.replaceChildren(...tokens.map((name, i) => element("button", "", {
          text: name,
          type: "button",
          onclick: () => { this.at = { ...this.at, token: i + 1 }; this.draw(); },
        })));
      }
      this.tokens.hidden = !tokens.length;
    }

    thumbnail(label, onclick, text = "") {
      const button = element("button", "ts-thumb", { type: "button", onclick, title: label, attributes: { "aria-label": label } });
      button.append(element("canvas"), element("span", "", { text }));
      return button;
    }

    // ---------------------------------------------------------------- drawing

    draw() {
      const { layer } = this;
      const row = this.rowIn(layer);
      const values = layer.row(row, this.head);
      const range = this.range(layer, row, values);
      this.slider.value = String(this.position);
      this.name.textContent = `${layer.layer}, ${layer.grid[1]} × ${layer.grid[0]}`;
      this.slider.setAttribute("aria-valuetext", this.name.textContent);
      this.card.value = JSON.stringify({ panels: [this.drawn(layer, row, values, range)], pictures: this.pictures });
      this.redraw();
      this.tell(layer, row, values);
      this.mark(row);
      cancelAnimationFrame(this.frame);
      this.frame = requestAnimationFrame(() => this.thumbnails(row));
    }

    // The range of colours. A patch is always most like itself, which says nothing.
    range(layer, row, values) {
      if (layer.kind === "attention") return [0, Math.max(...values) || 1];
      const others = values.filter((_, i) => i !== row);
      return [Math.min(...others), Math.max(...others)];
    }

    drawn(layer, row, values, [low, high]) {
      const { figure, ...card } = this.panel;
      const [left, top, right, bottom] = this.touched.box;
      const [height, width] = layer.keys;
      const [dx, dy] = [(right - left) / width, (bottom - top) / height];
      const ticks = { tickvals: [low, (low + high) / 2, high], ticktext: [low, (low + high) / 2, high].map(short) };
      const trace = {
        ...figure.data[0], z: pack(values, layer.keys), zmin: low, zmax: high, dx, dy,
        x0: left - 0.5 + dx / 2, y0: top - 0.5 + dy / 2,
        colorbar: { ...figure.data[0].colorbar, ...ticks },
      };
      const shapes = [...(figure.layout.shapes ?? []), ...this.outline(layer, row)];
      return { ...card, figure: { data: [trace], layout: { ...figure.layout, shapes } } };
    }

    // Where the patch is: a white line on a wider dark one is visible on any picture.
    outline(layer, row) {
      if (row >= layer.patches) return [];
      const [left, top, right, bottom] = this.touched.box;
      const [height, width] = layer.grid;
      const [dx, dy] = [(right - left) / width, (bottom - top) / height];
      const [column, line] = [row % width, Math.floor(row / width)];
      const edges = {
        type: "rect", x0: left - 0.5 + column * dx, x1: left - 0.5 + (column + 1) * dx,
        y0: top - 0.5 + line * dy, y1: top - 0.5 + (line + 1) * dy,
      };
      return [
        { ...edges, line: { color: "rgba(0,0,0,0.75)", width: 5 } },
        { ...edges, line: { color: "#ffffff", width: 2.5 } },
      ];
    }

    thumbnails(row) {
      const { colormap = "auto" } = timmscope.state;
      const stops = (timmscope.colormaps[colormap] ?? timmscope.colormaps.auto).unsigned;
      const small = (button, layer, at, head) => {
        const values = layer.row(at, head);
        paint(button.firstChild, values, layer.keys, this.range(layer, at, values), stops);
      };
      [...this.layers.children].forEach((button, i) => {
        const layer = this.layersOfKind[i];
        small(button, layer, this.rowIn(layer), this.head < layer.heads ? this.head : MEAN);
      });
      [...this.heads.children].forEach((button, i) => small(button, this.layer, row, i - 1));
    }

    mark(row) {
      const press = (buttons, chosen) => [...buttons.children].forEach((button, i) => (
        button.setAttribute("aria-pressed", String(i === chosen))
      ));
      press(this.layers, this.position);
      press(this.heads, this.head + 1);
      press(this.tokens, row - this.layer.patches);
    }

    // What is drawn, in measured words.
    tell(layer, row, values) {
      const [height, width] = layer.grid;
      const who = row < layer.patches
        ? `Patch in column ${(row % width) + 1} of ${width}, row ${Math.floor(row / width) + 1} of ${height}`
        : `The ${layer.tokens[row - layer.patches]}`;
      const parts = [`${who}.`];
      if (layer.kind === "attention") {
        const seen = values.reduce((sum, value) => sum + value, 0);
        const top = [...values].sort((a, b) => b - a).slice(0, Math.ceil(values.length / 10));
        const share = top.reduce((sum, value) => sum + value, 0) / (seen || 1);
        parts.push(`A tenth of the patches gets ${percent(share)} of its attention to patches.`);
        if (layer.tokens.length) parts.push(`${percent(Math.max(0, 1 - seen))} goes to tokens that stand for no part of the picture.`);
        if (layer.window) parts.push(`It attends only to the ${layer.window} patches of its window.`);
      } else {
        const others = [...values].filter((_, i) => i !== row).sort((a, b) => a - b);
        const middle = others[Math.floor(others.length / 2)];
        parts.push(`Cosine similarity with other patches: ${short(others[0])} to ${short(others.at(-1))}, half above ${short(middle)}.`);
      }
      this.words.textContent = parts.join(" ");
      this.picture.setAttribute("aria-label", `Picture. ${who}. Arrow keys move the patch.`);
    }
  }

  const stages = new Set();
  document.addEventListener("timmscope:view", () => {
    for (const stage of stages) {
      if (!stage.root.isConnected) stages.delete(stage);
      else if (stage.touched) stage.thumbnails(stage.rowIn(stage.layer));
    }
  });

  timmscope.patch = (root, props, trigger, watch) => {
    const stage = new Stage(root, props);
    stages.add(stage);
    stage.set(props.value);
    watch("value", () => stage.set(props.value));
  };
})();
