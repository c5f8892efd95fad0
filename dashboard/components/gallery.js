// A grid of maps, each of which opens large on click and can be pinned, so that it stays while others come.
// All of it happens here; the maps themselves are cards of panels.js.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.gallery) return;

  const NOTHING = JSON.stringify({ panels: [], pictures: [] });

  // A grid of cards inside of a gallery: a value, and how it gets onto the page.
  class Grid {
    constructor(element, props, opened) {
      this.element = element;
      this.props = { value: NOTHING, colormaps: props.colormaps, view: props.view };
      timmscope.mount(element, this.props, (_, { panel }) => opened(panel), (_, redraw) => { this.redraw = redraw; });
    }

    show(value) {
      this.props.value = value;
      this.redraw();
    }

    get cards() {
      return [...this.element.querySelectorAll(".ts-card")];
    }
  }

  const nameOf = ({ panel }) => [panel.title, panel.caption].filter(Boolean).join(", ");
  const same = (one, other) => nameOf(one) === nameOf(other) && one.picture === other.picture;

  class Gallery {
    constructor(root, props) {
      this.root = root;
      this.items = [];
      this.pins = [];
      this.dialog = root.querySelector("dialog");
      this.section = root.querySelector(".ts-pinned");
      this.all = new Grid(root.querySelector(".ts-all"), props, (i) => this.open(this.items, i, this.all));
      this.pinned = new Grid(root.querySelector(".ts-pins"), props, (i) => this.open(this.pins, i, this.pinned));
      this.large = new Grid(root.querySelector(".ts-large-map"), props, () => {});
      const on = (name, act) => root.querySelector(`.ts-large-${name}`).addEventListener("click", act);
      on("close", () => this.dialog.close());
      on("pin", () => this.pin(this.item));
      on("before", () => this.step(-1));
      on("after", () => this.step(1));
      this.dialog.addEventListener("close", () => this.from?.focus());
      this.dialog.addEventListener("click", ({ target }) => { if (target === this.dialog) this.dialog.close(); });
      this.dialog.addEventListener("keydown", ({ key }) => {
        if (key === "ArrowLeft") this.step(-1);
        if (key === "ArrowRight") this.step(1);
      });
    }

    set(text) {
      const { panels, pictures } = JSON.parse(text || NOTHING);
      if (this.dialog.open) this.dialog.close();
      this.items = panels.map((panel) => ({ panel, picture: pictures[panel.figure.layout.images?.[0].source] }));
      this.all.show(text || NOTHING);
      this.tools(this.all, this.items);
    }

    // ---------------------------------------------------------------- large

    get item() {
      return this.series[this.position];
    }

    open(series, position, grid) {
      if (!series[position]?.picture) return;
      Object.assign(this, { series: [...series], position });
      this.from = grid.cards[position].querySelector(".ts-open");
      if (!this.dialog.open) this.dialog.showModal();
      this.enlarge();
    }

    enlarge() {
      this.large.show(timmscope.encode([this.item]));
      this.dialog.setAttribute("aria-label", nameOf(this.item));
      this.say();
    }

    step(by) {
      const next = this.position + by;
      if (!this.series[next]?.picture) return;
      this.position = next;
      this.enlarge();
    }

    // ---------------------------------------------------------------- pins

    isPinned(item) {
      return this.pins.some((pin) => same(pin, item));
    }

    pin(item) {
      this.pins = this.isPinned(item) ? this.pins.filter((pin) => !same(pin, item)) : [...this.pins, item];
      this.section.hidden = !this.pins.length;
      this.pinned.show(timmscope.encode(this.pins));
      this.tools(this.pinned, this.pins);
      this.tools(this.all, this.items);
      this.say();
    }

    say() {
      const button = this.root.querySelector(".ts-large-pin");
      if (this.series) button.textContent = this.isPinned(this.item) ? "Unpin" : "Pin";
    }

    // ---------------------------------------------------------------- the buttons of each card

    tools(grid, items) {
      grid.cards.forEach((card, i) => {
        const tools = card.querySelector(".ts-tools") ?? this.added(card, grid);
        const item = items[i];
        tools.hidden = !item?.picture;
        if (tools.hidden) return;
        const pinned = this.isPinned(item);
        const [open, pin] = tools.children;
        open.setAttribute("aria-label", `Open ${nameOf(item)}`);
        pin.setAttribute("aria-label", `Pin ${nameOf(item)}`);
        pin.setAttribute("aria-pressed", String(pinned));
      });
    }

    added(card, grid) {
      const tools = Object.assign(document.createElement("div"), { className: "ts-tools" });
      const add = (name, title, act) => {
        const button = Object.assign(document.createElement("button"), { className: name, type: "button", title });
        button.addEventListener("click", () => act(grid.cards.indexOf(card)));
        tools.append(button);
      };
      const items = () => (grid === this.all ? this.items : this.pins);
      add("ts-open", "Open large", (i) => this.open(items(), i, grid));
      add("ts-pin", "Pin: keep while layers change", (i) => {
        this.pin(items()[i]);
        if (grid === this.pinned) (grid.cards[Math.min(i, this.pins.length - 1)] ?? this.all.cards[0])?.querySelector(".ts-pin")?.focus();
      });
      card.prepend(tools);
      return tools;
    }
  }

  timmscope.gallery = (root, props, trigger, watch) => {
    const gallery = new Gallery(root, props);
    gallery.set(props.value);
    watch("value", () => gallery.set(props.value));
  };
})();
