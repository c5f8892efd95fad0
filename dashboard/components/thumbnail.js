// A small picture of a map over its picture, on a canvas, in the colours of the page's view.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.thumbnail) return;

  const pictures = new Map(); // decoded pictures by address, the last few

  function decoded(source) {
    if (!pictures.has(source)) {
      const image = new Image();
      image.src = source;
      pictures.set(source, image.decode().then(() => image));
      if (pictures.size > 8) pictures.delete(pictures.keys().next().value);
    }
    return pictures.get(source);
  }

  // The colour at a share of a colourscale of "rgba(r,g,b,a)" stops.
  function painter(colorscale) {
    const stops = colorscale.map(([at, text]) => [at, text.match(/[\d.]+/g).map(Number)]);
    return (share) => {
      const after = Math.max(1, stops.findIndex(([at]) => at >= share));
      const [[start, one], [end, other]] = [stops[after - 1], stops[after]];
      const part = end > start ? (share - start) / (end - start) : 0;
      return one.map((value, i) => value + part * (other[i] - value));
    };
  }

  // A canvas of the map alone, a pixel a value.
  function mapOf(panel, view, colormaps) {
    const [trace] = panel.figure.data;
    const rows = timmscope.values.ofMap(trace, panel, view.smooth !== false && Boolean(panel.smoothing)).z;
    const { colorscale } = timmscope.values.look(panel, view, colormaps);
    const paint = painter(colorscale);
    const canvas = Object.assign(document.createElement("canvas"), { width: rows[0].length, height: rows.length });
    const image = new ImageData(canvas.width, canvas.height);
    rows.forEach((row, y) => row.forEach((value, x) => {
      const share = Math.min(Math.max((value - trace.zmin) / (trace.zmax - trace.zmin || 1), 0), 1);
      const [r, g, b, a] = paint(share);
      image.data.set([r, g, b, a * 255], 4 * (y * canvas.width + x));
    }));
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  // Draws a panel on a canvas of the given width: the whole picture, or only the part under the map.
  timmscope.thumbnail = async (canvas, panel, width, { mapOnly = false } = {}) => {
    const { images: [image], xaxis, yaxis } = panel.figure.layout;
    const [{ x0, dx, y0, dy, z: { shape: [rows, columns] } }] = panel.figure.data;
    const whole = { left: 0, top: 0, across: xaxis.range[1] - xaxis.range[0], down: yaxis.range[0] - yaxis.range[1] };
    const box = { left: x0 - dx / 2 + 0.5, top: y0 - dy / 2 + 0.5, across: columns * dx, down: rows * dy };
    const part = mapOnly ? box : whole;
    canvas.width = width;
    canvas.height = Math.max(1, Math.round((width * part.down) / part.across));
    const { colormaps, state } = timmscope;
    const map = mapOf(panel, state, colormaps);
    const picture = await decoded(image.source);
    const scale = canvas.width / part.across;
    const context = canvas.getContext("2d");
    const draw = (what, { left, top, across, down }) => (
      context.drawImage(what, (left - part.left) * scale, (top - part.top) * scale, across * scale, down * scale)
    );
    context.clearRect(0, 0, canvas.width, canvas.height); // another call may have drawn meanwhile
    draw(picture, whole);
    context.globalAlpha = Number(state.alpha ?? 1);
    draw(map, box);
    context.globalAlpha = 1;
  };
})();
