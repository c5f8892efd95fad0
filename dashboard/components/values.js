// What a card draws, from what the server sent: values, colours and opacity. Nothing here touches the page.
"use strict";

(() => {
  const timmscope = (window.timmscope ??= {});
  if (timmscope.values) return;

  // The rows of a map that core/views/maps.py packed.
  function unpack({ bdata, dtype, shape: [height, width], lo, hi }) {
    const bytes = Uint8Array.from(atob(bdata), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const wide = dtype === "u2";
    const step = (hi - lo) / (wide ? 65535 : 255);
    const values = Float32Array.from({ length: height * width }, (_, i) => (
      lo + (wide ? view.getUint16(2 * i, true) : bytes[i]) * step
    ));
    return Array.from({ length: height }, (_, row) => values.subarray(row * width, (row + 1) * width));
  }

  // The colours and the opacity of a map in a view of the page.
  // Maps without a picture under them have nothing to show through: they stay opaque.
  function look(panel, { colormap = "auto", alpha = 1, fade = false }, colormaps) {
    const over = Boolean(panel.figure.layout.images);
    const stops = (colormaps[colormap] ?? colormaps.auto)[panel.signed ? "signed" : "unsigned"];
    const colorscale = stops.map(([at, [r, g, b], a]) => [at, `rgba(${r},${g},${b},${over && fade ? a : 1})`]);
    return { opacity: over ? Number(alpha) : 1, colorscale };
  }

  // A map's trace, ready to draw. A smoothed map shows local means; its own values are told in both cases.
  function ofMap(trace, { smoothing }, smooth) {
    const z = unpack(trace.z);
    if (!smoothing) return { ...trace, z };
    return { ...trace, ...(smooth ? { z: unpack(smoothing.z) } : { ...smoothing.unsmoothed, z }), customdata: z };
  }

  timmscope.values = { unpack, look, ofMap };
})();
