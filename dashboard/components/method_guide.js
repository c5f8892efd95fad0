// Every method as a card in a dialog (see method_guide.py): search them, press one to take it.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.methodGuide) return;

  const WIDTH = 176; // of a thumbnail; the page shows it at half of that
  let picked = null;

  const node = (tag, name, text = "") => (
    Object.assign(document.createElement(tag), { className: name, textContent: text })
  );

  const seconds = (value) => (value < 0.095 ? "under 0.1 s" : value < 10 ? `${value.toFixed(1)} s` : `${Math.round(value)} s`);

  class Guide {
    constructor(element, trigger) {
      this.trigger = trigger;
      this.dialog = element.querySelector("dialog");
      this.search = Object.assign(node("input", "ts-guide-search"), { type: "search", placeholder: "Search methods" });
      this.search.setAttribute("aria-label", "Search methods");
      this.search.addEventListener("input", () => this.filter());
      this.close = Object.assign(node("button", "ts-guide-close", "Close"), { type: "button" });
      this.close.addEventListener("click", () => this.dialog.close());
      this.list = node("div", "ts-guide-list");
      const head = node("div", "ts-guide-head");
      head.append(node("h2", "", "Methods"), this.search, this.close);
      this.dialog.append(head, this.list);
      this.dialog.addEventListener("click", ({ target }) => { if (target === this.dialog) this.dialog.close(); });
      element.querySelector(".ts-guide-open").addEventListener("click", () => this.open());
    }

    open() {
      this.list.replaceChildren(node("p", "ts-guide-note", "Finding out what suits this model …"));
      this.search.value = "";
      this.dialog.showModal();
      this.search.focus();
      this.trigger("submit", {});
    }

    set(text) {
      const { groups = [], refused = [], note = "" } = JSON.parse(text || "{}");
      this.none = node("p", "ts-guide-note", note || "No method of that name.");
      this.groups = groups.map((group) => this.group(group));
      this.refused = node("details", "ts-guide-refused");
      this.refused.append(node("summary", "", `Not for this model: ${refused.length}`));
      const reasons = document.createElement("dl");
      for (const { label, reason } of refused) reasons.append(node("dt", "", label), node("dd", "", reason));
      this.refused.append(reasons);
      this.list.replaceChildren(...this.groups.map(({ section }) => section), this.none, ...(refused.length ? [this.refused] : []));
      this.filter();
    }

    group({ name, about, methods }) {
      const section = node("section", "ts-guide-family");
      const grid = node("div", "ts-guide-grid");
      const cards = methods.map((method) => ({ words: `${name} ${method.label} ${method.about}`.toLowerCase(), card: this.card(method) }));
      grid.append(...cards.map(({ card }) => card));
      section.append(node("h3", "", name), node("p", "ts-guide-note", about), grid);
      return { section, cards };
    }

    card({ key, label, about, cost, seconds: took }) {
      const card = Object.assign(node("button", "ts-guide-card"), { type: "button" });
      const panel = timmscope.history?.latest(key);
      if (panel) {
        const canvas = document.createElement("canvas");
        timmscope.thumbnail(canvas, panel, WIDTH);
        card.append(canvas);
      }
      const time = took === null ? cost : `${cost}; took ${seconds(took)} here`;
      card.append(node("strong", "", label), node("span", "", about), node("span", "ts-guide-cost", time));
      card.addEventListener("click", () => {
        picked = key;
        this.dialog.close();
        this.trigger("select", { method: key });
      });
      return card;
    }

    filter() {
      if (!this.groups) return;
      const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const { section, cards } of this.groups) {
        for (const { words: text, card } of cards) card.hidden = !words.every((word) => text.includes(word));
        section.hidden = cards.every(({ card }) => card.hidden);
      }
      this.none.hidden = this.groups.some(({ section }) => !section.hidden);
    }
  }

  timmscope.methodGuide = {
    mount(element, props, trigger, watch) {
      const guide = new Guide(element, trigger);
      watch("value", () => guide.set(props.value));
    },

    // The method that was pressed; its layer is its own.
    picked: () => [picked, null],
  };
})();
