// Buttons on a card that says why there is no result: one that is pressed changes a field of the page,
// and the page asks again.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.waysOut) return;

  const triggers = new Map(); // by name of a field, what tells the tab that has it
  let taken = null;

  function button(way) {
    const made = Object.assign(document.createElement("button"), { type: "button", textContent: way.text });
    made.addEventListener("click", () => {
      taken = way;
      triggers.get(way.field)?.("select", {});
    });
    return made;
  }

  // A field as the button sets it; in a list, the value takes the place of what it replaces.
  function changed(current, { value, replaces }) {
    if (!replaces?.length) return value;
    const names = current.flatMap((name) => (!replaces.includes(name) ? [name] : value ? [value] : []));
    return [...new Set(names)];
  }

  timmscope.waysOut = {
    changed,

    mount(names, tell) {
      for (const name of names) triggers.set(name, tell);
    },

    buttons: (ways) => (ways ?? []).map(button),

    // The values of fields of these names, with the one that the button changes.
    values: (names, ...values) => values.map((value, i) => (names[i] === taken.field ? changed(value, taken) : value)),

    // Asks again, where the page does not do so by itself once the field has changed.
    ask() {
      if (taken.ask !== "run") document.getElementById(taken.ask)?.click();
    },
  };
})();
