// A switch on cards that hold several charts (`alternatives` in core/views/panels.py). Nothing here asks the server.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.switches) return;

  let chosen = ""; // the label chosen last: the next results show the same chart
  let made = 0;

  const node = (tag, name, text = "") => Object.assign(document.createElement(tag), { className: name, textContent: text });

  function show(card, { label, title, caption, figure }) {
    chosen = label;
    card.set({ ...card.panel, title, caption, figure });
  }

  function option(card, alternative, name, shown) {
    const input = Object.assign(document.createElement("input"), { type: "radio", name, value: alternative.label });
    input.checked = alternative.label === shown;
    input.addEventListener("change", () => show(card, alternative));
    const label = node("label", "");
    label.append(input, node("span", "", alternative.label));
    return label;
  }

  function build(card) {
    card.switch?.remove();
    card.switch = null;
    const { alternatives } = card.panel;
    if (!alternatives.length) return;
    const before = alternatives.find(({ label }) => label === chosen);
    if (before) show(card, before);
    const { label } = before ?? alternatives[0];
    card.switch = node("fieldset", "ts-alternatives");
    card.switch.setAttribute("aria-label", "What is compared");
    made += 1;
    card.switch.append(...alternatives.map((one) => option(card, one, `ts-alternatives-${made}`, label)));
    card.title.after(card.switch);
  }

  (timmscope.fillers ??= new Set()).add((root) => root.cards.forEach(build));
  timmscope.switches = true;
})();
