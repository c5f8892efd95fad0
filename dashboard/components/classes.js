// The most likely classes as rows (see classes.py): press one to explain it, "vs" to compare.
//
// Which class is explained is the page's to say; rows only show it, and a small map beside each where
// class_maps.js has one. While a part of the picture is
// hidden, the rows show what the model says then, beside what it said before.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.classes) return;

  const NONE = -1; // stands for "no class", as in dashboard/actions/question.py
  const lists = new Set();
  const WIDTH = 80; // of a small map; the page shows it at half of that
  let marked = { target: null, versus: NONE };
  let asked = null; // what the page asks about, by field
  let pressed = { target: null, versus: null }; // the class to explain and the one to compare with; null where it stays

  // The file of the focus may come later than this one.
  const keep = (part, change) => (timmscope.focus ? timmscope.focus.keep(part, change) : change());

  // A file is known by its path; nothing, by whatever name, is nothing.
  const plain = (value) => JSON.stringify((value?.path ?? value) || null);

  const node = (tag, name, text = "") => (
    Object.assign(document.createElement(tag), { className: name, textContent: text })
  );

  const width = (share) => `${Math.round(1000 * Math.min(Math.max(share, 0), 1)) / 10}%`;

  class List {
    constructor(element, trigger) {
      this.element = element;
      this.root = element.querySelector(".ts-class-list");
      this.trigger = trigger;
      this.rows = [];
    }

    set(value) {
      const { title = "", notes = [], rows = [], about } = JSON.parse(value || "{}");
      this.about = about;
      const list = document.createElement("ol");
      this.rows = rows.map((row) => this.row(row));
      list.append(...this.rows.map(({ item }) => item));
      this.told = node("p", "ts-class-note");
      this.told.setAttribute("role", "status");
      const parts = [
        this.head(title, rows.length),
        ...(rows.length ? [list, this.told] : []),
        ...notes.map((note) => node("p", "ts-class-note", note)),
      ];
      keep(this.element, () => {
        this.root.replaceChildren(...parts);
        this.mark();
        this.showMaps(timmscope.classMaps?.shown());
        this.agree();
      });
    }

    // Rows about another picture or model than the page asks about cannot be used.
    agree() {
      const stale = Boolean(this.about && asked) && Object.keys(asked).some((name) => plain(this.about[name]) !== plain(asked[name]));
      keep(this.element, () => {
        this.root.inert = stale;
        this.root.classList.toggle("ts-stale", stale);
        this.root.setAttribute("aria-busy", String(stale));
      });
    }

    // The title, and the button that shows a small map beside each class.
    head(title, hasRows) {
      const head = node("div", "ts-class-head");
      this.toggle = Object.assign(node("button", "ts-class-maps", "Small maps"), { type: "button", title: "Show a small map for each class" });
      this.toggle.addEventListener("click", () => timmscope.classMaps.toggle());
      head.append(node("div", "ts-class-title", title), ...(hasRows ? [this.toggle] : []));
      return head;
    }

    // Small maps by class, and how they were made; null for none. Those that are stale are greyed.
    showMaps(shown) {
      this.toggle.setAttribute("aria-pressed", String(Boolean(shown)));
      this.told.textContent = shown?.note ?? "";
      this.root.classList.toggle("ts-class-stale", Boolean(shown?.stale));
      for (const row of this.rows) {
        const panel = shown?.maps.get(row.data.index);
        if (!shown) row.canvas.remove();
        else if (!row.canvas.isConnected) row.main.prepend(row.canvas);
        if (panel && !shown.stale) timmscope.thumbnail(row.canvas, panel, WIDTH, { mapOnly: true });
      }
    }

    row(data) {
      const item = node("li", "ts-class");
      const main = Object.assign(node("button", "ts-class-main"), { type: "button" });
      const value = node("span", "ts-class-value", data.text);
      const bar = node("span", "ts-class-bar");
      const track = node("span", "ts-class-track");
      bar.style.width = width(data.share);
      track.append(bar);
      main.append(node("span", "ts-class-name", data.label), value, ...(data.share === null ? [] : [track]));
      main.title = data.label;
      const versus = Object.assign(node("button", "ts-class-versus", "vs"), { type: "button" });
      main.addEventListener("click", () => this.press({ target: data.index, versus: null }));
      versus.addEventListener("click", () => {
        const again = marked.versus === data.index;
        this.press({ target: null, versus: again ? NONE : data.index });
      });
      item.append(main, versus);
      return { data, item, main, versus, value, bar, canvas: document.createElement("canvas") };
    }

    press(classes) {
      pressed = classes;
      this.trigger("select", {});
    }

    mark() {
      for (const { data, main, versus } of this.rows) {
        const chosen = data.index === marked.target;
        const compared = data.index === marked.versus;
        main.setAttribute("aria-pressed", String(chosen));
        versus.setAttribute("aria-pressed", String(compared));
        versus.setAttribute("aria-label", compared ? `Stop comparing with ${data.label}` : `Compare with ${data.label}`);
        versus.hidden = chosen;
      }
    }

    // What the model says while a part is hidden; null for what it says of the whole picture.
    change(after) {
      for (const { data, value, bar } of this.rows) {
        const now = after?.[data.index];
        bar.style.width = width((now ?? data).share);
        value.replaceChildren(...(now ? [node("s", "ts-class-was", data.text), now.text] : [data.text]));
      }
    }
  }

  timmscope.classes = {
    mount(element, props, trigger, watch) {
      timmscope.examples ??= props.examples;
      for (const list of lists) if (!list.element.isConnected) lists.delete(list);
      const list = new List(element, trigger);
      lists.add(list);
      list.set(props.value);
      watch("value", () => list.set(props.value));
    },

    // The class to explain and the one to compare it with, never the same, after a press.
    pick(target, versus) {
      const [wanted, other] = [pressed.target ?? target, pressed.versus ?? versus];
      return [wanted, [null, "", wanted].includes(other) ? NONE : other];
    },

    // The class explained, and the one that it is compared with.
    mark(target, versus) {
      marked = { target, versus: versus ?? NONE };
      for (const list of lists) list.mark();
      document.dispatchEvent(new Event("timmscope:classes"));
    },

    change(after) {
      for (const list of lists) list.change(after);
    },

    // What the page asks about has changed.
    ask(names, ...values) {
      asked = Object.fromEntries(names.map((name, i) => [name, values[i]]));
      for (const list of lists) list.agree();
    },

    showMaps(shown) {
      for (const list of lists) list.showMaps(shown);
    },
  };
})();
