// Buttons on a card that says why there is no result: one that is pressed changes a field of the page,
// and the page asks again.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.waysOut) return;

  let trigger = null;
  let taken = null;

  function button(way) {
    const made = Object.assign(document.createElement("button"), { type: "button", textContent: way.text });
    made.addEventListener("click", () => {
      taken = way;
      trigger("select", {});
    });
    return made;
  }

  timmscope.waysOut = {
    mount(element, props, tell) {
      trigger = tell;
    },

    buttons: (ways) => (ways ?? []).map(button),

    // The values of fields of these names, with the one that the button changes.
    values: (names, ...values) => values.map((value, i) => (names[i] === taken.field ? taken.value : value)),

    // Asks again, where the page does not do so by itself once the field has changed.
    ask() {
      if (taken.ask !== "run") document.getElementById(taken.ask)?.click();
    },
  };
})();
