// On a narrow screen, what is asked stands in sheets that the bar at the bottom opens (see theme.py).
// Escape, the button again, or a touch beside the sheet closes it.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.phoneBar) return;

  // The name of a button, the sheet that it opens, and the field whose value it tells.
  const SHEETS = [
    ["Picture", "picture-sheet", null], ["Model", "model-sheet", "#model input"], ["Class", "class-sheet", "#target input"],
    ["Method", "ask", "#method input"], ["View", "view", null],
  ];

  class Bar {
    constructor(element) {
      this.root = element.querySelector(".ts-phone-bar");
      this.buttons = SHEETS.map(([name, id]) => {
        const button = Object.assign(document.createElement("button"), { type: "button" });
        button.setAttribute("aria-expanded", "false");
        button.setAttribute("aria-controls", id);
        button.append(name, document.createElement("strong"));
        button.addEventListener("click", ({ detail }) => this.toggle(id, !detail)); // no detail: by the keyboard
        return button;
      });
      this.root.replaceChildren(...this.buttons);
      document.addEventListener("keydown", (event) => { if (event.key === "Escape") this.close(true); });
      document.addEventListener("pointerdown", ({ target }) => {
        const inside = target.closest?.(".ts-open, .ts-phone-bar, [role='listbox'], .options");
        if (!inside) this.close();
      });
      for (const event of ["input", "change", "click", "timmscope:classes"]) document.addEventListener(event, () => this.later());
      (timmscope.hearers ??= new Set()).add(() => this.later());
      this.tell();
    }

    // By the keyboard, the first field has the focus; a finger would open the list of that field.
    toggle(id, byKey) {
      const opened = this.open === id;
      this.close();
      const sheet = document.getElementById(id);
      if (opened || !sheet) return;
      this.open = id;
      sheet.classList.add("ts-open");
      sheet.tabIndex = -1;
      const usable = (field) => !field.disabled && field.getClientRects().length;
      const first = byKey && [...sheet.querySelectorAll("input, button, textarea")].find(usable);
      (first || sheet).focus({ preventScroll: true });
      this.mark();
    }

    close(back = false) {
      if (!this.open) return;
      document.getElementById(this.open)?.classList.remove("ts-open");
      if (back) this.buttons[SHEETS.findIndex(([, id]) => id === this.open)].focus();
      this.open = null;
      this.mark();
    }

    mark() {
      this.buttons.forEach((button, i) => button.setAttribute("aria-expanded", String(SHEETS[i][1] === this.open)));
    }

    // Values settle a moment after what changes them.
    later() {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.tell(), 150);
    }

    tell() {
      this.buttons.forEach((button, i) => {
        const [, id, field] = SHEETS[i];
        const value = field ? document.querySelector(field)?.value ?? "" : "";
        const words = button.querySelector("strong");
        if (words.textContent !== value) words.textContent = value;
        button.hidden = !document.getElementById(id) || this.unseen(id);
      });
    }

    // Whether the sheet belongs to a tab that is not shown.
    unseen(id) {
      const tab = document.getElementById(id).closest('[role="tabpanel"]');
      return Boolean(tab) && !tab.offsetParent;
    }
  }

  timmscope.phoneBar = {
    mount(element) {
      return new Bar(element);
    },
  };
})();
