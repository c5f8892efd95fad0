// The last answers of the stage, kept while the page is open; one that is pressed comes back, and two
// that are ticked are shown side by side.
//
// An answer is known by the values that it was asked with. They go back into the page's fields, and
// the page asks again: the server still has the answer.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.history) return;

  const AREA = "explain";
  const MOST = 20;
  const WIDTH = 96;
  let entries = [];
  let list = null;
  let chosen = null;

  function record(panel) {
    const asked = timmscope.answers.askedOf(AREA);
    if (!asked) return;
    const known = entries.find((entry) => entry.key === asked.key);
    entries = [{ ...asked, panel, canvas: known?.canvas }, ...entries.filter((entry) => entry !== known)].slice(0, MOST);
    list?.show();
  }

  // Answers at other layers, or of fewer samples, are called the same otherwise.
  const nameOf = ({ label, layer, partial }) => [label, layer, partial].filter(Boolean).join(", ");

  // The file of the focus may come later than this one.
  const keep = (part, change) => (timmscope.focus ? timmscope.focus.keep(part, change) : change());

  const made = (tag, properties) => Object.assign(document.createElement(tag), properties);

  // What an answer is about, beside its class and method: the model and the picture.
  function about({ values, panel }) {
    const picture = String(values.picture?.orig_name ?? values.picture?.path ?? "").split("/").pop();
    const told = (caption) => [values.model, picture, caption].filter(Boolean).join(" · ");
    const smoothing = panel.smoothing && { ...panel.smoothing, caption: told(panel.smoothing.caption) };
    return { ...panel, caption: told(panel.caption), smoothing };
  }

  class List {
    constructor(element, trigger) {
      this.root = element.querySelector(".ts-history");
      this.section = element.querySelector(".ts-pair");
      this.trigger = trigger;
      this.ticked = []; // keys, the one ticked first in front
      this.compare = made("button", { type: "button", className: "ts-pair-open", textContent: "Compare two" });
      this.compare.addEventListener("click", () => this.sideBySide());
      this.section.querySelector(".ts-pair-close").addEventListener("click", () => {
        this.section.hidden = true;
        this.compare.focus();
      });
      this.show();
    }

    show() {
      const shown = entries.length < 2 ? [] : entries;
      const title = made("span", { className: "ts-history-title", textContent: "Earlier" });
      this.boxes = new Map();
      const rows = shown.length ? [title, ...shown.map((entry) => this.item(entry)), this.compare] : [];
      keep(this.root, () => this.root.replaceChildren(...rows));
      this.mark();
    }

    item(entry) {
      const item = made("span", { className: "ts-history-entry" });
      const box = made("input", { type: "checkbox", title: "Choose it to compare two" });
      box.setAttribute("aria-label", `Compare ${nameOf(entry)}`);
      box.addEventListener("change", () => this.tick(entry.key, box.checked));
      this.boxes.set(entry.key, box);
      item.append(this.button(entry), box);
      return item;
    }

    // Two at most: a third takes the place of the one ticked first.
    tick(key, on) {
      const others = this.ticked.filter((one) => one !== key);
      this.ticked = on ? [...others, key].slice(-2) : others;
      this.mark();
    }

    mark() {
      this.ticked = this.ticked.filter((key) => this.boxes.has(key));
      for (const [key, box] of this.boxes) box.checked = this.ticked.includes(key);
      this.compare.disabled = this.ticked.length < 2;
    }

    button(entry) {
      const button = made("button", { type: "button", title: nameOf(entry) });
      button.setAttribute("aria-label", `Back to ${nameOf(entry)}`);
      if (!entry.canvas) {
        entry.canvas = document.createElement("canvas");
        timmscope.thumbnail(entry.canvas, entry.panel, WIDTH);
      }
      button.append(entry.canvas, made("span", { textContent: entry.label }));
      button.addEventListener("click", () => {
        chosen = entry;
        timmscope.question.filled(entry.values);
        this.trigger("select", {});
      });
      return button;
    }

    // The two answers as cards of panels.js, from what the browser has; nothing is asked for.
    sideBySide() {
      const pair = this.ticked.map((key) => entries.find((entry) => entry.key === key));
      const items = pair.map((entry) => ({ panel: about(entry), picture: entry.panel.figure.layout.images[0].source }));
      this.section.hidden = false;
      this.props ??= {};
      this.props.value = timmscope.encode(items);
      if (this.redraw) this.redraw();
      else timmscope.mount(this.section, this.props, () => {}, (_, redraw) => { this.redraw = redraw; });
      this.section.querySelector(".ts-pair-close").focus();
      this.section.scrollIntoView({ block: "nearest" });
    }
  }

  (timmscope.hearers ??= new Set()).add((card) => {
    if (card.root.stage && card.root.cards[0] === card && card.panel.map && card.panel.figure.layout.images) record(card.panel);
  });

  timmscope.history = {
    mount(element, props, trigger) {
      list = new List(element, trigger);
    },

    // The panel of the last answer by a method about the last model; undefined if there is none.
    latest: (method) => entries.find(({ values }) => values.method === method && values.model === entries[0].values.model)?.panel,

    // The values of the answer that was pressed, for fields of these names.
    values(names) {
      timmscope.answers.resume(AREA, chosen);
      return names.map((name) => chosen.values[name]);
    },
  };
})();
