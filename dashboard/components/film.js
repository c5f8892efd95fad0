// The filmstrip (see film.py): a map for each stage of the model; the one pressed goes onto the stage.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.film) return;

  const AREA = "explain"; // whose results the maps belong to
  const WIDTH = 160;
  let strip = null;

  class Strip {
    constructor(element, trigger) {
      this.root = element.querySelector(".ts-film-strip");
      this.root.setAttribute("role", "radiogroup");
      this.root.setAttribute("aria-label", "Layers, from early to late");
      this.trigger = trigger;
      this.root.addEventListener("keydown", (event) => this.key(event));
    }

    set(text) {
      const { panels = "", stops = [], chosen, about } = JSON.parse(text || "{}");
      Object.assign(this, { stops, chosen, about });
      this.panels = panels ? timmscope.decode(panels).panels : [];
      this.buttons = stops.map((stop, i) => {
        const button = Object.assign(document.createElement("button"), { type: "button", title: stop.layer });
        const canvas = document.createElement("canvas");
        button.setAttribute("role", "radio");
        const lines = stop.text.split(", ").map((line) => Object.assign(document.createElement("span"), { textContent: line }));
        button.append(canvas, ...lines);
        button.setAttribute("aria-label", `${stop.layer}, ${stop.text}`);
        button.addEventListener("click", () => this.choose(i));
        timmscope.thumbnail(canvas, this.panels[i], WIDTH);
        return button;
      });
      this.root.replaceChildren(...this.buttons);
      this.agree();
    }

    // The maps belong to one explanation: while another one is on the stage, they cannot be used.
    agree() {
      const stale = !timmscope.answers.isAbout(AREA, this.about);
      this.root.inert = stale;
      this.root.classList.toggle("ts-stale", stale);
      const shown = timmscope.answers.layerOf(AREA) || this.chosen;
      this.mark(this.stops.findIndex(({ layer }) => layer === shown));
    }

    mark(index) {
      this.index = index;
      this.buttons.forEach((button, i) => {
        button.setAttribute("aria-checked", String(i === index));
        button.tabIndex = i === Math.max(index, 0) ? 0 : -1;
      });
    }

    choose(index) {
      this.buttons[index].focus({ preventScroll: true });
      timmscope.answers.moved(AREA, { layer: this.stops[index].layer }); // first: whoever hears of the map asks what it answers
      timmscope.stage.put(this.panels[index]);
      this.trigger("select", { layer: this.stops[index].layer });
    }

    key({ key }) {
      const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[key];
      const next = this.index + (by ?? 0);
      if (by && this.buttons[next]) this.choose(next);
    }

    redraw() {
      this.buttons?.forEach((button, i) => timmscope.thumbnail(button.firstChild, this.panels[i], WIDTH));
    }
  }

  document.addEventListener("timmscope:answers", ({ detail }) => { if (detail === AREA) strip?.agree(); });

  timmscope.film = {
    mount(element, props, trigger, watch) {
      strip = new Strip(element, trigger);
      strip.set(props.value);
      watch("value", () => strip.set(props.value));
    },

    chosen() {
      const { layer, summary, code, command } = strip.stops[strip.index];
      return [layer, summary, code, command];
    },

    redraw: () => strip?.redraw(),
  };
})();
