// The picture with a box around what the model sees (see crop.py). A person drags the box, or one of its
// corners; arrow keys move it, and with Shift resize it. It keeps the aspect of the model's input, and
// stays within the picture. Boxes are [left, top, right, bottom] in pixels of the picture.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.crop) return;

  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const NUDGE = 0.02; // how far a key moves the box, as a share of the longer side
  const LEAST = 0.05; // the smallest box, as a share of the largest
  const PAUSE = 500; // after the last key, in ms
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  let chosen = null;

  // The part of a box that lies in the picture.
  const within = ({ width, height }, [left, top, right, bottom]) => (
    [Math.max(left, 0), Math.max(top, 0), Math.min(right, width), Math.min(bottom, height)]
  );

  // How wide a box of this aspect can be within a room.
  const widest = (aspect, across, down) => Math.min(across, down * aspect);

  // A box of the input's aspect around a point, moved into the picture.
  function around({ width, height, aspect }, x, y, across) {
    const most = widest(aspect, width, height);
    const w = clamp(across, LEAST * most, most);
    const h = w / aspect;
    const [left, top] = [clamp(x - w / 2, 0, width - w), clamp(y - h / 2, 0, height - h)];
    return [left, top, left + w, top + h];
  }

  // The largest box of the input's aspect within another one.
  function fitted(seen, box) {
    const [left, top, right, bottom] = within(seen, box);
    return around(seen, (left + right) / 2, (top + bottom) / 2, widest(seen.aspect, right - left, bottom - top));
  }

  function moved({ width, height }, [left, top, right, bottom], dx, dy) {
    const [x, y] = [clamp(dx, -left, width - right), clamp(dy, -top, height - bottom)];
    return [left + x, top + y, right + x, bottom + y];
  }

  // A box after one of its corners, [0 or 1, 0 or 1], was dragged to (x, y); the opposite one stays.
  function resized({ width, height, aspect }, [left, top, right, bottom], [cx, cy], x, y) {
    const [ax, ay] = [cx ? left : right, cy ? top : bottom];
    const wanted = Math.max(cx ? x - ax : ax - x, (cy ? y - ay : ay - y) * aspect);
    const most = widest(aspect, cx ? width - ax : ax, cy ? height - ay : ay);
    const w = clamp(wanted, Math.min(LEAST * widest(aspect, width, height), most), most);
    const [ex, ey] = [cx ? ax + w : ax - w, cy ? ay + w / aspect : ay - w / aspect];
    return [Math.min(ax, ex), Math.min(ay, ey), Math.max(ax, ex), Math.max(ay, ey)];
  }

  // How much of the picture lies in a box, in words.
  function sentence(seen, box) {
    const [left, top, right, bottom] = within(seen, box);
    const share = ((right - left) * (bottom - top)) / (seen.width * seen.height);
    return share > 0.9999 ? "The model sees the whole picture" : `The model sees ${Math.round(100 * share)}% of this picture`;
  }

  const text = (box) => box.map((edge) => Math.round(10 * edge) / 10).join(",");

  class Tool {
    constructor(element, trigger) {
      this.element = element;
      this.trigger = trigger;
      [this.stage, this.picture, this.frame, this.said] = ["stage", "picture", "box", "said"].map((name) => element.querySelector(`.ts-crop-${name}`));
      this.buttons = [...element.querySelectorAll("[data-crop]")];
      for (const button of this.buttons) button.addEventListener("click", () => this.choose(button.dataset.crop || null));
      this.frame.addEventListener("pointerdown", (event) => this.begin(event));
      this.frame.addEventListener("pointermove", (event) => this.drag(event));
      this.frame.addEventListener("pointerup", () => this.end());
      this.frame.addEventListener("pointercancel", () => this.end());
      this.frame.addEventListener("keydown", (event) => this.press(event));
    }

    // What the server says that the model sees; nothing where there is no picture.
    set(value) {
      const seen = value ? JSON.parse(value) : null;
      const busy = this.grip || this.waiting;
      if (busy && seen?.picture === this.seen?.picture) return; // a person is choosing, and is asked about soon
      this.seen = seen;
      this.stage.hidden = !this.seen;
      this.said.textContent = "";
      this.grip = null;
      this.wait();
      if (!this.seen) return;
      this.picture.src = this.seen.picture;
      this.mark(this.seen.crop);
      this.draw(this.seen.box);
    }

    mark(crop) {
      for (const button of this.buttons) button.setAttribute("aria-pressed", String(button.dataset.crop === (crop ?? "")));
    }

    draw(box) {
      const { width, height } = this.seen;
      const [left, top, right, bottom] = within(this.seen, box);
      this.box = box;
      const share = (length, of) => `${(100 * length) / of}%`;
      Object.assign(this.frame.style, {
        left: share(left, width), top: share(top, height), width: share(right - left, width), height: share(bottom - top, height),
      });
      this.said.textContent = sentence(this.seen, box);
    }

    // Does something after a pause, and not what was to be done before.
    wait(act) {
      clearTimeout(this.waiting);
      this.waiting = act ? setTimeout(act, PAUSE) : null;
    }

    choose(crop) {
      this.wait();
      chosen = crop;
      this.mark(crop);
      this.trigger("select", {});
    }

    // ---------------------------------------------------------------- pointer and keys

    place({ clientX, clientY }) {
      const { left, top, width, height } = this.stage.getBoundingClientRect();
      return [((clientX - left) / width) * this.seen.width, ((clientY - top) / height) * this.seen.height];
    }

    begin(event) {
      if (event.button) return;
      event.preventDefault();
      this.frame.focus();
      this.frame.setPointerCapture(event.pointerId);
      this.wait();
      const corner = event.target.dataset.corner?.split(" ").map(Number);
      this.grip = { corner, from: this.place(event), box: fitted(this.seen, this.box), moved: false };
    }

    drag(event) {
      if (!this.grip) return;
      const { corner, from, box } = this.grip;
      const [x, y] = this.place(event);
      this.grip.moved = true;
      this.draw(corner ? resized(this.seen, box, corner, x, y) : moved(this.seen, box, x - from[0], y - from[1]));
    }

    end() {
      const { grip } = this;
      this.grip = null;
      if (grip?.moved) this.choose(text(this.box));
    }

    press(event) {
      const step = STEPS[event.key];
      if (!step) return;
      event.preventDefault();
      const [dx, dy] = step.map((one) => one * NUDGE * Math.max(this.seen.width, this.seen.height));
      const box = fitted(this.seen, this.box);
      const [left, top, right, bottom] = box;
      const wider = right - left + 2 * (dx + dy);
      this.draw(event.shiftKey ? around(this.seen, (left + right) / 2, (top + bottom) / 2, wider) : moved(this.seen, box, dx, dy));
      this.wait(() => this.choose(text(this.box)));
    }
  }

  timmscope.crop = {
    mount(element, props, trigger, watch) {
      const tool = new Tool(element, trigger);
      tool.set(props.value);
      watch("value", () => tool.set(props.value));
    },

    // The part that a person has chosen last; null for the model's own.
    chosen: () => chosen,

    fitted,
    moved,
    resized,
    sentence,
  };
})();
