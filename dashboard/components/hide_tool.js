// A part of a picture that a person marks: painted, or as boxes, with undo and redo.
//
// The part is kept on a small grid over the whole picture, as ones and zeros. Drawing on the screen
// and asking what the model says without the part are left to the stage.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.Part) return;

  const SIDE = 256; // cells on the longer side
  const KEPT = 50; // steps that can be undone

  class Part {
    // `aspect` is the height of the picture divided by its width.
    constructor(aspect) {
      this.width = aspect > 1 ? Math.max(1, Math.round(SIDE / aspect)) : SIDE;
      this.height = aspect > 1 ? SIDE : Math.max(1, Math.round(SIDE * aspect));
      this.cells = new Uint8Array(this.width * this.height);
      this.past = [];
      this.future = [];
    }

    get empty() {
      return !this.cells.includes(1);
    }

    // Remembers the part as it is, before something is added.
    begin() {
      this.past.push(this.cells.slice());
      if (this.past.length > KEPT) this.past.shift();
      this.future = [];
    }

    // Adds a round spot; all lengths as shares of the picture's width and height.
    spot(x, y, radius) {
      const [cx, cy, r] = [x * this.width, y * this.height, Math.max(radius * this.width, 0.75)];
      this.each(cx - r, cy - r, cx + r, cy + r, (column, row) => (
        (column + 0.5 - cx) ** 2 + (row + 0.5 - cy) ** 2 <= r * r
      ));
    }

    // Adds a box from one corner to the opposite one.
    box(x0, y0, x1, y1) {
      const [left, right] = [Math.min(x0, x1), Math.max(x0, x1)];
      const [top, bottom] = [Math.min(y0, y1), Math.max(y0, y1)];
      this.each(left * this.width, top * this.height, right * this.width, bottom * this.height, () => true);
    }

    each(left, top, right, bottom, has) {
      const [first, last] = [Math.max(0, Math.round(top)), Math.min(this.height, Math.round(bottom))];
      const [from, to] = [Math.max(0, Math.round(left)), Math.min(this.width, Math.round(right))];
      for (let row = first; row < last; row += 1) {
        for (let column = from; column < to; column += 1) {
          if (has(column, row)) this.cells[row * this.width + column] = 1;
        }
      }
    }

    undo() {
      this.step(this.past, this.future);
    }

    redo() {
      this.step(this.future, this.past);
    }

    step(from, onto) {
      if (!from.length) return;
      onto.push(this.cells);
      this.cells = from.pop();
    }

    clear() {
      this.begin();
      this.cells = new Uint8Array(this.cells.length);
    }

    // Adds the cells where `has(x, y)`, of the centre of each as shares of width and height.
    where(has) {
      this.put(has, 1);
    }

    // Adds such cells, or takes them away.
    put(has, on) {
      for (let i = 0; i < this.cells.length; i += 1) {
        const [column, row] = [i % this.width, Math.floor(i / this.width)];
        if (has((column + 0.5) / this.width, (row + 0.5) / this.height)) this.cells[i] = on;
      }
    }

    // As `dashboard.actions.hide.Mask` reads it: eight cells a byte, row after row.
    pack() {
      const bytes = new Uint8Array(Math.ceil(this.cells.length / 8));
      this.cells.forEach((on, i) => { bytes[i >> 3] |= on << (7 - (i & 7)); });
      return { width: this.width, height: this.height, bits: btoa(String.fromCharCode(...bytes)) };
    }

    // Paints the part over a canvas of any size.
    paint(canvas) {
      const small = Object.assign(document.createElement("canvas"), { width: this.width, height: this.height });
      const image = new ImageData(this.width, this.height);
      this.cells.forEach((on, i) => {
        if (!on) return;
        const lit = (i % this.width + Math.floor(i / this.width)) % 8 < 4; // stripes, seen on any picture
        image.data.set(lit ? [79, 70, 229, 190] : [255, 255, 255, 150], 4 * i);
      });
      small.getContext("2d").putImageData(image, 0, 0);
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = false;
      context.clearRect(0, 0, canvas.width, canvas.height);
      context.drawImage(small, 0, 0, canvas.width, canvas.height);
    }
  }

  timmscope.Part = Part;
})();
