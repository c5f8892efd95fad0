// The last answers of the stage, kept while the page is open; one that is pressed comes back.
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

  class List {
    constructor(element, trigger) {
      this.root = element.querySelector(".ts-history");
      this.trigger = trigger;
      this.show();
    }

    show() {
      const buttons = entries.length < 2 ? [] : entries.map((entry) => this.button(entry));
      const title = Object.assign(document.createElement("span"), { className: "ts-history-title", textContent: "Earlier" });
      this.root.replaceChildren(...(buttons.length ? [title, ...buttons] : []));
    }

    button(entry) {
      const button = Object.assign(document.createElement("button"), { type: "button", title: entry.label });
      button.setAttribute("aria-label", `Back to ${entry.label}`);
      if (!entry.canvas) {
        entry.canvas = document.createElement("canvas");
        timmscope.thumbnail(entry.canvas, entry.panel, WIDTH);
      }
      button.append(entry.canvas, Object.assign(document.createElement("span"), { textContent: entry.label }));
      button.addEventListener("click", () => {
        chosen = entry;
        timmscope.question.want(entry.values);
        this.trigger("select", {});
      });
      return button;
    }
  }

  (timmscope.hearers ??= new Set()).add((card) => {
    if (card.root.stage && card.root.cards[0] === card && card.panel.map && card.panel.figure.layout.images) record(card.panel);
  });

  timmscope.history = {
    mount(element, props, trigger) {
      list = new List(element, trigger);
    },

    // The thumbnail of the last answer by a method about the last model; undefined if there is none.
    latest: (method) => entries.find(({ values }) => values.method === method && values.model === entries[0].values.model)?.canvas,

    // The values of the answer that was pressed, for fields of these names.
    values: (names) => names.map((name) => chosen.values[name]),
  };
})();
