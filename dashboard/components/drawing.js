// Evidence is marked on the picture itself: boxes that are dragged, and strokes that are painted. Marks are kept
// in pixels of the picture and become a mask on the server (see actions/evidence.py).
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.drawing) return;

  const INK = "rgba(99, 102, 241, 0.55)";
  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const round = (value) => Math.round(10 * value) / 10;
  const count = (number, one) => (number ? [`${number} ${one}${number > 1 ? "s" : ""}`] : []);

  class Drawing {
    constructor(root, props) {
      this.root = root;
      this.props = props;
      const find = (name) => root.querySelector(`.ts-draw-${name}`);
      [this.said, this.remove, this.picture, this.canvas, this.size] = ["said", "remove", "picture", "canvas", "size"].map(find);
      this.dialog = root.querySelector("dialog");
      this.tools = { box: find("box"), brush: find("brush") };
      this.marks = [];
      this.kept = [];
      this.take("box");
      for (const tool of Object.keys(this.tools)) this.tools[tool].addEventListener("click", () => this.take(tool));
      find("undo").addEventListener("click", () => this.change(this.marks.slice(0, -1)));
      find("clear").addEventListener("click", () => this.change([]));
      find("done").addEventListener("click", () => this.finish());
      find("cancel").addEventListener("click", () => this.dialog.close());
      this.remove.addEventListener("click", () => { this.marks = []; this.finish(); });
      this.dialog.addEventListener("close", () => this.closed());
      this.canvas.addEventListener("pointerdown", (event) => this.begin(event));
      this.canvas.addEventListener("pointermove", (event) => this.move(event));
      this.canvas.addEventListener("pointerup", () => this.end());
      this.canvas.addEventListener("pointercancel", () => this.end());
      this.canvas.addEventListener("keydown", (event) => this.press(event));
      this.picture.addEventListener("load", () => this.draw());
      new ResizeObserver(() => this.draw()).observe(this.picture);
    }

    // A value with a picture opens it to be drawn on; one without marks forgets those that were made.
    set(text) {
      const { picture, width, height, marks = [] } = JSON.parse(text || "{}");
      if (!picture) {
        this.marks = marks;
        this.kept = marks;
        this.tell();
        return;
      }
      Object.assign(this, { width, height, marks: [...this.kept] });
      this.keep(); // to open it changes nothing
      this.from = document.activeElement;
      const widest = Math.min(0.86 * window.innerWidth, 960, (0.66 * window.innerHeight * width) / height);
      this.picture.style.width = `${Math.floor(widest)}px`;
      this.picture.src = picture;
      if (!this.dialog.open) this.dialog.showModal();
      this.draw();
    }

    finish() {
      this.kept = this.marks;
      if (this.dialog.open) this.dialog.close();
      else this.closed();
    }

    closed() {
      this.marks = this.kept;
      this.keep();
      this.tell();
      this.from?.focus();
    }

    keep() {
      this.props.value = this.kept.length ? JSON.stringify({ marks: this.kept }) : "";
    }

    tell() {
      const boxes = this.marks.filter(({ box }) => box).length;
      const parts = [...count(boxes, "box").map((text) => text.replace("boxs", "boxes")), ...count(this.marks.length - boxes, "stroke")];
      this.said.textContent = parts.length ? `Evidence marked: ${parts.join(" and ")}.` : "";
      this.remove.hidden = !parts.length;
    }

    take(tool) {
      this.tool = tool;
      for (const [name, button] of Object.entries(this.tools)) button.setAttribute("aria-pressed", String(name === tool));
      this.size.parentElement.hidden = tool !== "brush";
    }

    change(marks) {
      this.marks = marks;
      this.draw();
    }

    // ---------------------------------------------------------------- pointer and keys

    place({ clientX, clientY }) {
      const { left, top, width, height } = this.canvas.getBoundingClientRect();
      const within = (share, length) => round(Math.min(Math.max(share, 0), 1) * length);
      return [within((clientX - left) / width, this.width), within((clientY - top) / height, this.height)];
    }

    begin(event) {
      event.preventDefault();
      this.canvas.focus();
      this.canvas.setPointerCapture(event.pointerId);
      const [x, y] = this.place(event);
      this.start = [x, y];
      const diameter = round((Number(this.size.value) / 100) * Math.max(this.width, this.height));
      this.open = this.tool === "box" ? { box: [x, y, x, y] } : { stroke: [[x, y]], size: diameter };
      this.draw();
    }

    move(event) {
      if (!this.open) return;
      const [x, y] = this.place(event);
      const [a, b] = this.start;
      if (this.open.box) this.open.box = [Math.min(a, x), Math.min(b, y), Math.max(a, x), Math.max(b, y)];
      else if (Math.hypot(x - this.open.stroke.at(-1)[0], y - this.open.stroke.at(-1)[1]) > this.open.size / 8) {
        this.open.stroke.push([x, y]);
      }
      this.draw();
    }

    end() {
      const { open } = this;
      this.open = null;
      if (open && !(open.box && (open.box[2] - open.box[0] < 1 || open.box[3] - open.box[1] < 1))) {
        this.marks = [...this.marks, open];
      }
      this.draw();
    }

    // Without a pointer: Enter adds a box in the middle, arrows move it, and with Shift resize it.
    press(event) {
      const last = this.marks.at(-1);
      const [w, h] = [this.width, this.height];
      if (event.key === "Enter") this.change([...this.marks, { box: [w / 3, h / 3, (2 * w) / 3, (2 * h) / 3].map(round) }]);
      else if (event.key === "Backspace" || event.key === "Delete") this.change(this.marks.slice(0, -1));
      else if (STEPS[event.key] && last?.box) {
        const [dx, dy] = STEPS[event.key].map((step) => (step * Math.max(w, h)) / 50);
        const [left, top, right, bottom] = last.box;
        const moved = event.shiftKey ? [left, top, right + dx, bottom + dy] : [left + dx, top + dy, right + dx, bottom + dy];
        if (moved[2] > moved[0] && moved[3] > moved[1]) this.change([...this.marks.slice(0, -1), { box: moved.map(round) }]);
      } else return;
      event.preventDefault();
    }

    // ---------------------------------------------------------------- drawing

    draw() {
      const { clientWidth: width, clientHeight: height } = this.picture;
      if (!width || !this.dialog.open) return;
      const fine = window.devicePixelRatio || 1;
      Object.assign(this.canvas, { width: width * fine, height: height * fine });
      const context = this.canvas.getContext("2d");
      context.scale((width * fine) / this.width, (height * fine) / this.height);
      for (const mark of this.open ? [...this.marks, this.open] : this.marks) this.one(context, mark);
    }

    one(context, { box, stroke, size }) {
      Object.assign(context, { fillStyle: INK, strokeStyle: INK, lineCap: "round", lineJoin: "round", lineWidth: size });
      if (box) {
        const [left, top, right, bottom] = box;
        context.fillRect(left, top, right - left, bottom - top);
        Object.assign(context, { strokeStyle: "#ffffff", lineWidth: (2 * this.width) / this.picture.clientWidth });
        context.strokeRect(left, top, right - left, bottom - top);
        return;
      }
      context.beginPath();
      stroke.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.lineTo(...stroke.at(-1));
      context.stroke();
    }
  }

  timmscope.drawing = (root, props, watch) => {
    const drawing = new Drawing(root, props);
    watch("value", () => drawing.set(props.value));
  };
})();
